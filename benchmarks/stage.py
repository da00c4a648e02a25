"""Who takes part in a run: the processes, how long things take, and the A/B/A/B of measuring."""

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Child, Watch
from benchmarks.table import Pair, Sample
from benchmarks.wire import HOST

Measure = Callable[[Child], Awaitable[Sample]]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured. `rounds` of `seconds` each; the scene has so many responses and followers.

    A gateway is killed `kills` times, where the lease is `lease_s`.
    """

    rounds: int
    seconds: float
    replayed_events: int
    live: int
    followers: int
    poll_every_s: float
    scene_s: float
    kills: int
    lease_s: float


FULL = Scale(3, 2.0, 20_000, 2_000, 1_000, 10.0, 22.0, 5, 10.0)
QUICK = Scale(1, 1.0, 5_000, 300, 150, 3.0, 7.0, 5, 1.0)


@dataclass(slots=True)
class Stage:
    """The processes; `gateway` is replaced by `restart`."""

    scale: Scale
    folder: Path
    upstream: Child
    bare: Child
    gateway: Child

    @property
    def url(self) -> str:
        """The upstream's origin."""
        return f"http://{HOST}:{self.upstream.port}"

    @classmethod
    async def set_up(cls, scale: Scale, folder: Path) -> "Stage":
        """Start everybody."""
        upstream = await Child.start("benchmarks.upstream")
        url = f"http://{HOST}:{upstream.port}"
        bare = await Child.start("benchmarks.bare", url)
        return cls(scale, folder, upstream, bare, await start_gateway(url, folder / "responses.db", scale))

    async def restart(self) -> None:
        """Stop the gateway in order, and start it on the same file."""
        await self.gateway.stop()
        self.gateway = await start_gateway(self.url, self.folder / "responses.db", self.scale)

    async def close(self) -> None:
        """End everybody."""
        for child in (self.gateway, self.bare, self.upstream):
            await child.kill()

    def watch(self, proxy: Child) -> Watch:
        """Look at everybody who takes part in measuring `proxy`."""
        return Watch(proxy=proxy.pid, upstream=self.upstream.pid, generator=os.getpid())

    async def in_turns(
        self, measure: Measure, sides: tuple[Child, Child] | None = None, *, times: int = 1
    ) -> list[Pair]:
        """Both sides (bare proxy and gateway), one right after the other, so many times as often as there are rounds.

        Each begins every other round, so that what changes with time is nobody's.
        """
        pairs: list[Pair] = []
        one, other = sides or (self.bare, self.gateway)
        for number in range(times * self.scale.rounds):
            first = await measure(other if number % 2 else one)
            second = await measure(one if number % 2 else other)
            pairs.append((second, first) if number % 2 else (first, second))
        return pairs


async def start_gateway(
    url: str, place: Path, scale: Scale, *, store: str | None = None, environ: Mapping[str, str] | None = None
) -> Child:
    """A gateway in front of an upstream. `place`: its file, or a folder for its log where it uses another `store`.

    Its poll budget is twice what the scene needs; `environ`: OTEL_* variables.
    """
    budget_per_s = 2 * scale.live / scale.poll_every_s
    return await Child.start(
        "benchmarks.gateway_process",
        url,
        store or f"sqlite:///{place}",
        place / "gateway.log" if store else f"{place}.log",
        scale.poll_every_s,
        budget_per_s,
        environ=environ or {},
    )
