"""A response that should move and does not: seen, told, counted, and dealt with as the settings say."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from processes import Process, serve
from running import PATIENCE_S, Running, Upstream
from stories import MODEL, STILL, Ahead, all_of, ask, fetch, job, live, until, until_error

from gateway.domain.facts import (
    BecameStuck,
    Cancelled,
    Created,
    Ended,
    Fact,
    Recovered,
    Surveyed,
    TakenUp,
    UpstreamPolled,
)
from gateway.domain.response import Ending, Status, Stuck

Stage = Callable[..., Awaitable[tuple[Upstream, Running]]]
Simulate = Callable[..., Awaitable[Upstream]]
GatewayFor = Callable[..., Awaitable[Running]]

# The walk that judges comes ten times in the shortest time that anything has.
SOON: dict[str, Any] = {"patience_s": 0.5, "patience_polled_s": 0.5}
WALKS_OFTEN = 1.0


async def background(gateway: Running, scenario: str = "stuck", **fields: Any) -> str:
    created = await gateway.client().responses.create(**ask(scenario), background=True, **fields)
    return str(created.id)


async def became(gateway: Running, reason: Stuck) -> BecameStuck:
    return await gateway.facts.wait_for(BecameStuck, lambda fact: fact.response.stuck is reason)


async def recovered(gateway: Running, reason: Stuck) -> Recovered:
    return await gateway.facts.wait_for(Recovered, lambda fact: fact.reason is reason)


async def surveyed(gateway: Running, matching: Callable[[Surveyed], bool]) -> None:
    """Wait for a walk that begins now and finds this."""
    before = len(gateway.facts.of(Surveyed))
    await until(lambda: any(map(matching, gateway.facts.of(Surveyed)[before:])))


def turns(gateway: Running) -> list[tuple[type[Fact], Stuck | None]]:
    return [
        (type(fact), fact.reason if isinstance(fact, Recovered) else fact.response.stuck)
        for fact in gateway.facts.facts
        if isinstance(fact, BecameStuck | Recovered)
    ]


async def test_whoever_looks_sees_the_same_stuck_response_until_it_is_cancelled(stage: Stage) -> None:
    _, gateway = await stage(**SOON)
    response_id = await background(gateway)
    since = (await became(gateway, Stuck.QUEUED)).at
    await surveyed(gateway, lambda fact: fact.stuck == {(Stuck.QUEUED, MODEL): 1})

    assert await gateway.shown("responses_stuck", reason="queued", model=MODEL) == 1
    assert await gateway.shown("responses_became_stuck_total", reason="queued", model=MODEL) == 1
    story = (await fetch(f"{gateway.ops_url}/responses/{response_id}")).json
    assert story["stuck"] == {"reason": "queued", "since": since}
    await until(lambda: live(gateway, response_id).saved.stuck)
    listed = (await fetch(f"{gateway.ops_url}/responses?stuck=true")).json
    assert [one["response_id"] for one in listed["data"]] == [response_id]

    await gateway.client().responses.cancel(response_id)
    ended = await gateway.facts.wait_for(Ended)
    assert turns(gateway) == [(BecameStuck, Stuck.QUEUED), (Recovered, Stuck.QUEUED)]
    assert ended.response.counts.stucks == 1
    await surveyed(gateway, lambda fact: not fact.stuck)
    assert await gateway.shown("responses_stuck", reason="queued", model=MODEL) == 0
    assert await gateway.shown("responses_recovered_total", reason="queued", model=MODEL) == 1
    assert (await fetch(f"{gateway.ops_url}/responses?stuck=true")).json["data"] == []


async def test_a_stream_that_falls_silent_is_stuck_and_recovers_when_it_goes_on(stage: Stage) -> None:
    upstream, gateway = await stage(simulated=STILL, **SOON)
    stream = await gateway.client().responses.create(**job("silent"))
    upstream.simulator.skip(30)
    stuck = await became(gateway, Stuck.NO_PROGRESS)
    upstream.simulator.skip(400)
    await all_of(stream)
    await gateway.facts.wait_for(Ended)
    assert turns(gateway)[-2:] == [(BecameStuck, Stuck.NO_PROGRESS), (Recovered, Stuck.NO_PROGRESS)]
    assert (await recovered(gateway, Stuck.NO_PROGRESS)).at > stuck.at


async def test_while_upstream_does_not_answer_its_responses_are_stuck_for_that(stage: Stage) -> None:
    upstream, gateway = await stage(patience_s=0.5)
    await background(gateway)
    upstream.simulator.outage = 503
    await became(gateway, Stuck.UPSTREAM_UNREACHABLE)
    assert await gateway.shown("upstream_expiry_timestamp_seconds") is None, "upstream keeps what is stored"
    upstream.simulator.outage = None
    await recovered(gateway, Stuck.UPSTREAM_UNREACHABLE)


async def test_what_upstream_says_it_does_not_have_is_stuck_before_it_is_given_up_as_lost(stage: Stage) -> None:
    upstream, gateway = await stage(patience_s=0.5, lost_after_s=1)
    response_id = await background(gateway)
    upstream.simulator.forget(response_id)
    ended = await gateway.facts.wait_for(Ended)
    assert ended.response.ending is Ending.LOST
    assert turns(gateway) == [(BecameStuck, Stuck.LOST), (Recovered, Stuck.LOST)]


async def test_what_is_not_stored_expires_upstream_when_nobody_could_ask_for_it(stage: Stage) -> None:
    upstream, gateway = await stage(upstream_keeps_s=1)
    response_id = await background(gateway, store=False)
    await surveyed(gateway, lambda fact: fact.expires_at is None)
    heard_at = live(gateway, response_id).heard_at
    upstream.simulator.outage = 503
    await surveyed(gateway, lambda fact: fact.expires_at is not None)
    shown = await gateway.shown("upstream_expiry_timestamp_seconds")
    assert shown == live(gateway, response_id).heard_at + 1 >= heard_at + 1
    await became(gateway, Stuck.EXPIRED)
    upstream.simulator.outage = None
    await recovered(gateway, Stuck.EXPIRED)
    await surveyed(gateway, lambda fact: fact.expires_at is None)


async def test_after_a_restart_a_response_waits_for_its_owner_and_recovers_with_the_next_request(
    simulate: Simulate, gateway_for: GatewayFor, tmp_path: Path
) -> None:
    upstream, store = await simulate(), f"sqlite:///{tmp_path}/responses.db"
    first = await gateway_for(upstream.url, store=store)
    response_id = await background(first)
    await first.gateway.stop()

    second = await gateway_for(upstream.url, store=store, patience_s=0.5)
    await became(second, Stuck.WAITS_FOR_OWNER)
    await second.client().responses.retrieve(response_id)
    await recovered(second, Stuck.WAITS_FOR_OWNER)
    assert turns(second) == [(BecameStuck, Stuck.WAITS_FOR_OWNER), (Recovered, Stuck.WAITS_FOR_OWNER)]


async def test_what_was_stuck_before_a_restart_is_stuck_after_it_and_is_not_told_twice(
    simulate: Simulate, gateway_for: GatewayFor, tmp_path: Path
) -> None:
    upstream = await simulate()
    settings: dict[str, Any] = {
        "store": f"sqlite:///{tmp_path}/responses.db",
        "upstream_api_key": "sk-test",
        "patience_polled_s": 0.5,
    }
    first = await gateway_for(upstream.url, **settings)
    response_id = await background(first)
    since = (await became(first, Stuck.QUEUED)).at
    await first.gateway.stop()

    second = await gateway_for(upstream.url, **settings)
    assert (await second.facts.wait_for(TakenUp)).response.stuck_at == since
    await second.facts.wait_for(UpstreamPolled)
    await surveyed(second, lambda fact: fact.stuck == {(Stuck.QUEUED, MODEL): 1})
    await second.client().responses.cancel(response_id)
    ended = await second.facts.wait_for(Ended)
    assert turns(first) == [(BecameStuck, Stuck.QUEUED)]
    assert turns(second) == [(Recovered, Stuck.QUEUED)]
    assert ended.response.counts.stucks == 1


async def test_research_of_forty_minutes_is_not_stuck_where_another_model_would_be(stage: Stage) -> None:
    clock = Ahead()
    _, gateway = await stage(simulated=STILL, clock=clock, linger_s=WALKS_OFTEN)
    research = await gateway.client().responses.create(
        **{**ask("long"), "model": "o4-mini-deep-research-2025-06-26"}, background=True
    )
    other = await background(gateway, "long")
    clock.by_s = 2400
    stuck = await became(gateway, Stuck.QUEUED)
    assert stuck.response.response_id == other
    await surveyed(gateway, lambda fact: fact.stuck == {(Stuck.QUEUED, MODEL): 1})
    assert live(gateway, research.id).response.stuck is None


async def test_a_stream_of_forty_minutes_that_moves_is_not_stuck(stage: Stage) -> None:
    clock = Ahead()
    upstream, gateway = await stage(simulated=STILL, clock=clock, linger_s=WALKS_OFTEN)
    stream = await gateway.client().responses.create(**job("long"))
    await gateway.facts.wait_for(Created)
    (held,) = gateway.gateway.context.tracker.live.values()
    while not held.response.ended:
        clock.by_s += 100
        upstream.simulator.skip(100)
        await until(lambda: held.response.progress_at >= clock() - 50)
        await surveyed(gateway, lambda fact: not fact.stuck)
    await stream.close()
    assert clock.by_s == 2400
    assert turns(gateway) == []


async def test_a_stuck_response_is_cancelled_upstream_where_the_setting_says_so(stage: Stage) -> None:
    upstream, gateway = await stage(on_stuck="cancel", **SOON)
    response_id = await background(gateway)
    ended = await gateway.facts.wait_for(Ended)
    assert ended.response.status is Status.CANCELLED
    assert upstream.simulator.status(response_id) == "cancelled"
    assert upstream.asked("POST", "/cancel") == len(gateway.facts.of(Cancelled)) == 1
    assert turns(gateway) == [(BecameStuck, Stuck.QUEUED), (Recovered, Stuck.QUEUED)]


async def test_a_stuck_response_is_abandoned_where_the_setting_says_so(stage: Stage) -> None:
    upstream, gateway = await stage(on_stuck="abandon", **SOON)
    response_id = await background(gateway)
    ended = await gateway.facts.wait_for(Ended)
    assert ended.response.ending is Ending.ABANDONED
    assert ended.response.error_message is not None
    assert "on_stuck" in ended.response.error_message
    assert upstream.simulator.status(response_id) == "queued", "it runs on upstream"
    assert turns(gateway) == [(BecameStuck, Stuck.QUEUED), (Recovered, Stuck.QUEUED)]
    assert await gateway.shown("responses_given_up_total", ending="abandoned", mode="background") == 1


async def test_in_the_foreground_a_stuck_response_is_stopped_by_closing_its_connection(stage: Stage) -> None:
    upstream, gateway = await stage(on_stuck="cancel", patience_s=0.5)
    stream = await gateway.client().responses.create(**ask("stalls"), stream=True)
    events, error = await until_error(stream)
    assert error.code == "response_abandoned"
    await until(lambda: upstream.simulator.connections(events[0]["response"]["id"]) == 0)
    assert turns(gateway) == [(BecameStuck, Stuck.NO_PROGRESS), (Recovered, Stuck.NO_PROGRESS)]
    assert not gateway.facts.of(Cancelled)


async def test_a_stuck_response_is_stuck_after_kill_9_too_and_is_not_told_twice(
    simulate: Simulate, parts: Any, tmp_path: Path
) -> None:
    upstream = await simulate()

    async def start() -> Process:
        settings = {"upstream_api_key": "sk-test", "patience_polled_s": 0.5, "poll_schedule_s": "0.05,0.1,0.2"}
        process = await serve(upstream.url, f"sqlite:///{tmp_path}/responses.db", drain_delay_s=0, **settings)
        parts.push_async_callback(process.close)
        return process

    async def shown(process: Process, name: str) -> str | None:
        text = (await fetch(f"{process.ops_url}/metrics")).body.decode()
        found = re.search(rf'^responses_gateway_{name}{{model="{MODEL}",reason="queued"}} (.*)$', text, re.M)
        return found[1] if found else None

    async def until_shown(process: Process, name: str, value: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while await shown(process, name) != value:  # noqa: ASYNC110  # another process announces nothing
                await asyncio.sleep(0.02)

    first = await start()
    created = await first.client().responses.create(**ask("stuck"), background=True)
    async with asyncio.timeout(PATIENCE_S):
        while not (await fetch(f"{first.ops_url}/responses?stuck=true")).json["data"]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await first.kill()

    second = await start()
    await until_shown(second, "responses_stuck", "1.0")
    await second.client().responses.cancel(created.id)
    await until_shown(second, "responses_stuck", "0.0")
    assert await shown(second, "responses_became_stuck_total") == "0.0"
    assert await shown(second, "responses_recovered_total") == "1.0"


@pytest.mark.parametrize("on_stuck", ["cancel", "abandon"])
async def test_nothing_is_done_about_a_response_that_upstream_does_not_answer_for(stage: Stage, on_stuck: str) -> None:
    upstream, gateway = await stage(on_stuck=on_stuck, patience_s=0.5)
    response_id = await background(gateway)
    upstream.simulator.outage = 503
    await became(gateway, Stuck.UPSTREAM_UNREACHABLE)
    await surveyed(gateway, lambda fact: fact.stuck == {(Stuck.UPSTREAM_UNREACHABLE, MODEL): 1})
    assert not live(gateway, response_id).response.ended
    assert not gateway.facts.of(Cancelled)
