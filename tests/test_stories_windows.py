"""Background responses that may take their time: a completion window of two or eight hours, for less money."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from running import Running, Upstream
from stories import MODEL, STILL, Ahead, ask, fetch, until

from gateway.domain.facts import BecameStuck, Ended, Surveyed
from gateway.domain.response import Ending, Status, Stuck

Stage = Callable[..., Awaitable[tuple[Upstream, Running]]]
HOUR_S = 3600.0
WINDOW: dict[str, Any] = {"background": True, "background_options": {"completion_window": "8h", "continuation_id": "x"}}


async def background(gateway: Running, **fields: Any) -> str:
    created = await gateway.client().responses.create(**ask("stuck"), **{"background": True, **fields})
    return str(created.id)


async def walked(gateway: Running, times: int = 2) -> Surveyed:
    """What the walks that begin now find."""
    before = len(gateway.facts.of(Surveyed))
    await until(lambda: len(gateway.facts.of(Surveyed)) >= before + times)
    return gateway.facts.of(Surveyed)[-1]


def ended(gateway: Running) -> list[tuple[str | None, Ending | None]]:
    return [(fact.response.response_id, fact.response.ending) for fact in gateway.facts.of(Ended)]


@pytest.mark.parametrize("tracking", ["poll", "stream"])
async def test_what_has_a_completion_window_goes_upstream_as_it_came_and_is_tracked_by_polls(
    stage: Stage, tracking: str
) -> None:
    upstream, gateway = await stage(background_tracking=tracking)
    body = {**ask(), **WINDOW}
    created = await fetch(f"{gateway.url}/v1/responses", "POST", body=body)
    assert (created.status, created.json["status"]) == (200, "queued")
    done = await gateway.facts.wait_for(Ended)
    assert (done.response.response_id, done.response.status) == (created.json["id"], Status.COMPLETED)
    (asked,) = upstream.simulator.asked("/responses", "POST")
    assert asked.json() == body


async def test_an_upstream_that_refuses_a_window_with_a_stream_says_so_itself(stage: Stage) -> None:
    upstream, gateway = await stage()
    body = {**ask(), **WINDOW, "stream": True}
    mine = await fetch(f"{gateway.url}/v1/responses", "POST", body=body)
    direct = await fetch(f"{upstream.url}/responses", "POST", body=body)
    assert (mine.status, mine.body) == (direct.status, direct.body)
    assert mine.error["param"] == "background_options.completion_window"


async def test_patience_begins_when_the_window_is_over(stage: Stage) -> None:
    clock = Ahead()
    _, gateway = await stage(simulated=STILL, clock=clock, linger_s=1)
    slow, soon = await background(gateway, **WINDOW), await background(gateway)
    clock.by_s = 8 * HOUR_S - 60
    stuck = await gateway.facts.wait_for(BecameStuck)
    assert stuck.response.response_id == soon
    assert (await walked(gateway)).stuck == {(Stuck.QUEUED, MODEL): 1}
    shown = (await fetch(f"{gateway.ops_url}/responses/{slow}")).json
    assert (shown["completion_window_s"], shown["stuck"]) == (8 * HOUR_S, None)
    clock.by_s = 8 * HOUR_S + 1860
    await gateway.facts.wait_for(BecameStuck, lambda fact: fact.response.response_id == slow)


async def test_what_waits_within_its_window_is_neither_old_nor_given_up(stage: Stage) -> None:
    clock = Ahead()
    _, gateway = await stage(simulated=STILL, clock=clock, linger_s=1, give_up_after_s=HOUR_S)
    slow, soon = await background(gateway, **WINDOW), await background(gateway)
    clock.by_s = 8 * HOUR_S - 60
    await gateway.facts.wait_for(Ended)
    found = await walked(gateway)
    assert ended(gateway) == [(soon, Ending.ABANDONED)]
    assert found.oldest_created[Status.QUEUED] == found.oldest_progress[Status.QUEUED] == found.at
    clock.by_s = 9 * HOUR_S + 60
    await gateway.facts.wait_for(Ended, lambda fact: fact.response.response_id == slow)


async def test_a_window_outlives_a_restart(
    simulate: Callable[..., Awaitable[Upstream]], gateway_for: Callable[..., Awaitable[Running]], tmp_path: Path
) -> None:
    clock, upstream = Ahead(), await simulate(**STILL)
    settings: dict[str, Any] = {
        "store": f"sqlite:///{tmp_path}/responses.db",
        "clock": clock,
        "linger_s": 1,
        "upstream_api_key": "sk-test",
    }
    first = await gateway_for(upstream.url, **settings)
    slow, soon = await background(first, **WINDOW), await background(first)
    await first.gateway.stop()
    clock.by_s = 2 * HOUR_S
    second = await gateway_for(upstream.url, **settings)
    stuck = await second.facts.wait_for(BecameStuck)
    assert stuck.response.response_id == soon
    assert (await walked(second)).stuck == {(Stuck.QUEUED, MODEL): 1}
    assert (await fetch(f"{second.ops_url}/responses/{slow}")).json["stuck"] is None
