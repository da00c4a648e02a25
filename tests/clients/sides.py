"""The two sides on which a client is tried: upstream itself, and a gateway in front of an upstream just like it."""

from dataclasses import dataclass
from typing import Any

from running import Running, Upstream
from stories import NOON

TWIN: dict[str, Any] = {"clock": lambda: NOON, "speed": 1.0, "seed": 7}
"""For simulators that say the same, ids and times included, to whoever asks the same; time passes by `later`."""


@dataclass(frozen=True, slots=True)
class Side:
    """Where a client is pointed; `gateway` is None where it asks upstream itself."""

    upstream: Upstream
    gateway: Running | None = None

    @property
    def origin(self) -> str:
        return self.gateway.url if self.gateway else self.upstream.url.removesuffix("/v1")

    @property
    def base_url(self) -> str:
        """What the client's user writes."""
        return f"{self.origin}/v1"

    def later(self, seconds: float = 60) -> None:
        """So much time passes upstream."""
        self.upstream.simulator.skip(seconds)


@dataclass(frozen=True, slots=True)
class Sides:
    """Both. What a client does on one it can do on the other, and the outcomes be compared."""

    direct: Side
    through: Side
