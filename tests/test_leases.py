"""How responses change hands, where there are many."""

import asyncio
from itertools import pairwise

from running import QUICK
from yarl import URL

from gateway.config import Settings
from gateway.domain.mode import Mode
from gateway.domain.response import Response, Trace
from gateway.relay.routing import Route
from gateway.relay.tracker import Tracker
from gateway.relay.upstream import Timeouts, Upstream
from gateway.store.memory import MemoryStore
from gateway.store.port import Lease, Pulse
from gateway.telemetry.observers import Telemetry

T = 1_790_000_000.0
MANY = 500
LEASE_S = 0.5
CLAIM_S = LEASE_S / 5
"""Longer than the pause between two heartbeats."""


class Slow(MemoryStore):
    """A store that others share, and that takes its time for a claim. `claimed`: how many were at each heartbeat."""

    shared = True

    def __init__(self) -> None:
        super().__init__()
        self._claims = 0
        self.claimed: list[int] = []

    async def renew(self, ttl_s: float) -> Pulse:
        self.claimed.append(self._claims)
        return await super().renew(ttl_s)

    async def claim(self, key: str) -> Lease | None:
        await asyncio.sleep(CLAIM_S)
        self._claims += 1
        return await super().claim(key)


async def test_a_process_that_takes_up_thousands_says_all_the_while_that_it_lives() -> None:
    store, trace = Slow(), Trace(1, 2, 3, 0, False)
    for number in range(MANY):
        record = Response(f"key-{number}", "default", "owner", Mode.BACKGROUND, created_at=T, trace=trace)
        record = record.but(response_id=f"resp_{number}")
        await store.release(record.key, epoch=(await store.create(record)).epoch)
    upstream = Upstream(Timeouts(connect=1, headers=1, idle=1), header_limit=1024)
    settings = Settings(**{**QUICK, "lease_s": LEASE_S})
    route = Route("default", URL("http://127.0.0.1:9/v1"))
    tracker = Tracker(settings, route, upstream, store, Telemetry(), lambda: T)
    await tracker.recover()
    assert len(tracker.live) == store.claimed[-1] == MANY
    assert max(now - before for before, now in pairwise(store.claimed)) < MANY / 4
    await tracker.stop()
