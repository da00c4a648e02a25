"""Stories of many live responses at once, and of gateways that end and begin: upstream is never asked too often.

`make chaos` tells the same of 10,000.
"""

import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import redis_server
from crowd import counting_upstream, gather_crowd
from processes import serve
from running import Running
from stories import until

from gateway.domain.facts import TakenUp

Embed = Callable[..., Awaitable[Running]]

CROWD = 300
BUDGET = 100
LATE = BUDGET // 5
"""What is on its way when the machine has no time for anybody."""
EAGER = {"poll_budget_per_s": BUDGET, "poll_schedule_s": (0.05,), "upstream_api_key": "sk-gateway", "lease_s": 1.0}
"""Without the budget each response would be polled twenty times a second."""


def held_by(*gateways: Running) -> set[str]:
    """The responses in their hands: one may take from another that is late to say that it lives."""
    return {key for one in gateways for key in one.gateway.context.tracker.live}


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_a_restart_with_a_crowd_of_live_responses_keeps_to_the_budget_of_polls(
    parts: AsyncExitStack, gateway_for: Embed, tmp_path: Path, kind: str
) -> None:
    store = f"sqlite:///{tmp_path}/responses.db" if kind == "sqlite" else redis_server.url_for(tmp_path)
    upstream, polls = await counting_upstream(parts)
    first = await gateway_for(upstream.url, store=store, **EAGER)
    await gather_crowd(CROWD, first.url)
    await first.gateway.stop()
    polls.forget()

    second = await gateway_for(upstream.url, store=store, **EAGER)
    await until(lambda: len(polls.times) >= 3 * BUDGET)
    assert polls.most_within(1.0) <= BUDGET + 1 + LATE
    assert len(second.facts.of(TakenUp)) == CROWD
    assert await second.shown("responses_unheld") == 0


async def test_gateways_that_take_up_the_crowd_of_a_killed_one_keep_to_the_budget_of_polls(
    parts: AsyncExitStack, gateway_for: Embed, tmp_path: Path
) -> None:
    store = redis_server.url_for(tmp_path)
    upstream, polls = await counting_upstream(parts)
    shared = {**EAGER, "poll_schedule_s": "0.05"}
    killed = await serve(upstream.url, store, **shared)
    parts.push_async_callback(killed.close)
    others = [await gateway_for(upstream.url, store=store, **EAGER) for _ in range(2)]
    await gather_crowd(CROWD, killed.url, *(one.url for one in others))
    polls.forget()

    await killed.kill()
    await until(lambda: len(held_by(*others)) == CROWD)
    third = await gateway_for(upstream.url, store=store, **EAGER)
    await until(lambda: third.gateway.context.tracker.leases.processes == 3)
    await until(lambda: len(polls.times) >= 5 * BUDGET)
    assert polls.most_within(1.0) <= BUDGET + 3 + LATE
    assert len(held_by(*others, third)) == CROWD


async def test_polls_that_a_slow_redis_has_held_up_keep_to_the_budget(
    parts: AsyncExitStack, gateway_for: Embed, tmp_path: Path
) -> None:
    server = redis_server.RedisServer(tmp_path / "redis").start()
    parts.callback(server.kill)
    upstream, polls = await counting_upstream(parts)
    gateway = await gateway_for(upstream.url, store=server.url, **{**EAGER, "lease_s": 60.0})
    await gather_crowd(CROWD, gateway.url)
    server.process.send_signal(signal.SIGSTOP)
    live = gateway.gateway.context.tracker.live
    await until(lambda: sum(one.polling is not None for one in live.values()) > BUDGET / 2)
    polls.forget()
    server.process.send_signal(signal.SIGCONT)
    await until(lambda: len(polls.times) >= 3 * BUDGET)
    assert polls.most_within(1.0) <= BUDGET + 1 + LATE
