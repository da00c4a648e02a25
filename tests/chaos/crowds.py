"""Many thousand responses are polled when a gateway is killed and started again: how often upstream was asked.

Each gateway polls at a pace, its part of the budget, without ever catching up. So of all seconds, wherever they begin,
none has more polls than the budget and one for each gateway; but polls that are late on their way come close to those
after them. Where many processes share few cores, a quarter of a second's worth of that is allowed for: in ten seconds
no more than in one, so that what is too fast all the time is seen.
"""

import asyncio
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from crowd import counting_upstream, gather_crowd
from redis_server import RedisServer

from chaos.fleet import KEY, Fleet, total
from chaos.verdict import SETTLED_S
from gateway.telemetry import names

CROWD = 10_000
BUDGET = 100
LEASE_S = 10.0
_WATCHED_S = 60.0
_LATE_S = 0.25


@dataclass(slots=True)
class Asked:
    """What upstream was asked. All of `wrong` has to be zero."""

    gateways: int
    polls: int
    responses: int
    in_a_second: int
    in_ten: int
    start_s: float
    memory_bytes: list[int]
    wrong: Counter[str]

    def shown(self) -> str:
        """As lines of text."""
        wrong = ", ".join(f"{what} {count}" for what, count in self.wrong.items())
        memory = ", ".join(f"{size / 2**20:.0f}" for size in self.memory_bytes)
        asked = f"{self.polls} polls of {self.responses} responses in {_WATCHED_S:g} s, of {BUDGET} a second"
        return (
            f"{CROWD:,} live, one of {self.gateways} killed and started again in {self.start_s:.1f} s; {wrong}\n"
            f"{asked}: at most {self.in_a_second} in a second, {self.in_ten} in ten; memory {memory} MiB"
        )


async def on_sqlite(folder: Path, seed: int) -> Asked:
    return await restart(f"sqlite:///{folder}/responses.db", 1, seed)


async def on_redis(folder: Path, seed: int, gateways: int = 1) -> Asked:
    server = RedisServer(folder, "--appendfsync", "everysec").start()
    try:
        return await restart(server.url, gateways, seed)
    finally:
        server.kill()


async def between_three(folder: Path, seed: int) -> Asked:
    return await on_redis(folder, seed, 3)


async def restart(store: str, gateways: int, seed: int) -> Asked:
    """Kill one that holds its part of the crowd, start it again, and count for a while."""
    async with AsyncExitStack() as parts:
        upstream, polls = await counting_upstream(parts)
        settings = {"upstream_api_key": KEY, "poll_budget_per_s": BUDGET, "lease_s": LEASE_S}
        fleet = Fleet(upstream.url, store, {}, random.Random(seed), settings, count=gateways)
        parts.push_async_callback(fleet.close)
        await fleet.start()
        await gather_crowd(CROWD, *(one.url for one in fleet.replicas))
        polls.forget()
        victim = fleet.any()
        await victim.kill()
        began = time.monotonic()
        await victim.start()
        start_s = time.monotonic() - began
        await asyncio.sleep(_WATCHED_S)
        worst = {seconds: polls.most_within(seconds) for seconds in (1, 10)}
        over = sum(most > BUDGET * (seconds + _LATE_S) + gateways for seconds, most in worst.items())
        wrong = Counter({"budgets passed": over, "held by nobody": await _unheld(fleet)})
        memory = [await total([one], "process_resident_memory_bytes") for one in fleet.replicas]
        return Asked(gateways, len(polls.times), len(polls.asked), worst[1], worst[10], start_s, memory, wrong)


async def _unheld(fleet: Fleet) -> int:
    """How many are in no gateway's hands, as soon as none is, or after a while."""
    until = time.monotonic() + SETTLED_S
    while (missing := CROWD - await total(fleet.replicas, names.LIVE)) and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(1)
    return missing
