"""All parts together: upstream, collector, gateways and clients; and how long clients waited where one was killed."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp.test_utils import TestServer
from running import Upstream

from chaos.fleet import KEY, Fleet, Replica
from chaos.readers import Clients
from gateway.simulator import Simulator
from gateway.telemetry.receiver import Receiver

LEASE_S = 1.0
_IN_FLIGHT_S = 0.3
"""What a reader gets so soon after a kill was on its way."""


@dataclass(slots=True)
class Scene:
    """`blows`: what was done to it; `waits`: for how long events did not come to readers elsewhere, after each kill."""

    chance: random.Random
    upstream: Upstream
    collector: Receiver
    fleet: Fleet
    clients: Clients
    lease_s: float
    blows: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)

    async def kill(self, replica: Replica) -> None:
        """kill -9, and start it again; measured is what a reader at another gateway notices of it."""
        elsewhere = [
            reader
            for told in self.clients.told
            if told.holder is replica.process
            for reader in told.readers
            if not reader.done and reader.numbers and reader.replica is not replica
        ]
        at = time.monotonic()
        await replica.kill()
        self.blows["kill -9"] += 1
        await replica.start()
        await self._until(lambda: all(_came(reader.times, at) or reader.done for reader in elsewhere))
        self.waits += [came - at for reader in elsewhere if (came := _came(reader.times, at)) is not None]

    async def load(self, streams: int, storm: Awaitable[None], **settings: object) -> None:
        """So many streams at a time, one after the other, for as long as the storm lasts; then to their ends."""
        over = asyncio.Event()

        async def stream_after_stream() -> None:
            while not over.is_set():
                await self.clients.one(**settings)

        working = [asyncio.ensure_future(stream_after_stream()) for _ in range(streams)]
        try:
            await storm
        finally:
            over.set()
        await asyncio.gather(*working)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def _came(times: list[float], at: float) -> float | None:
    return next((time for time in times if time > at + _IN_FLIGHT_S), None)


@asynccontextmanager
async def scene(store: str, seed: int, *, lease_s: float = LEASE_S, **settings: Any) -> AsyncIterator[Scene]:
    """Everything running."""
    async with AsyncExitStack() as parts:
        simulator = Simulator(speed=1.0, seed=seed)
        server = TestServer(simulator.app())
        await server.start_server()
        parts.push_async_callback(server.close)
        upstream = Upstream(simulator, server)
        collector = Receiver(limit=1_000_000)
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": await collector.start(), "OTEL_BSP_SCHEDULE_DELAY": "200"}
        parts.push_async_callback(collector.close)
        chance = random.Random(seed)
        usual = {"upstream_api_key": KEY, "lease_s": lease_s, "drain_delay_s": 0.2, "upstream_retry_max_s": 1}
        fleet = Fleet(upstream.url, store, environ, chance, {**usual, **settings})
        parts.push_async_callback(fleet.close)
        await fleet.start()
        clients = Clients(fleet, "sk-client")
        parts.push_async_callback(clients.close)
        yield Scene(chance, upstream, collector, fleet, clients, lease_s)
