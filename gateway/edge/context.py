"""What every handler is given: the parts of the gateway, composed once at start."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

from gateway.config import Settings
from gateway.relay.outbox import Outbox
from gateway.relay.routing import Route, Target
from gateway.relay.tracker import Tracker
from gateway.relay.upstream import Upstream
from gateway.store.port import Store
from gateway.telemetry.observers import Telemetry
from gateway.telemetry.tracing import Tracing


@dataclass(slots=True)
class Readiness:
    """Whether this process takes new work. `draining`: it still serves, but no longer says that it is ready."""

    started: bool = False
    draining: bool = False
    refusing: bool = False


class InFlight:
    """The requests of clients that are being answered: `count` of them."""

    def __init__(self) -> None:
        self.count = 0
        self._none = asyncio.Event()
        self._none.set()

    def __enter__(self) -> None:
        self.count += 1
        self._none.clear()

    def __exit__(self, *_: object) -> None:
        self.count -= 1
        if not self.count:
            self._none.set()

    async def ended(self) -> None:
        """Wait until there are none."""
        await self._none.wait()


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of a running gateway. `clock` gives unix seconds."""

    settings: Settings
    route: Route
    upstream: Upstream
    store: Store
    tracker: Tracker
    telemetry: Telemetry
    tracing: Tracing
    outbox: Outbox
    clock: Callable[[], float]
    readiness: Readiness = field(default_factory=Readiness)
    in_flight: InFlight = field(default_factory=InFlight)


Handler = Callable[[Context, web.Request, Target], Awaitable[web.StreamResponse]]
