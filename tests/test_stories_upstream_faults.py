"""Upstream breaks: a cut of a background stream is mended unseen, what cannot be mended is said, never passed over."""

import asyncio
import time

import openai
import pytest
from stories import STILL, Ahead, all_of, ask, fetch, following, job, live, numbers, types, until, until_error

from gateway.domain.facts import Contradicted, Ended, Reattached, Refused, Untracked, UpstreamCut, UpstreamPolled
from gateway.domain.response import Ending, Status

TERMINAL = ("response.completed", "response.failed", "response.incomplete")


def polls_with(gateway, status):
    """How many of the gateway's polls were answered so."""
    return sum(fact.status == status for fact in gateway.facts.of(UpstreamPolled))


def text_of(events):
    """What the deltas of the answer say."""
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


def final_text(event):
    """What the terminal event says that the answer is."""
    return event["response"]["output"][-1]["content"][0]["text"]


@pytest.mark.parametrize("scenario", ["drops", "drops_every", "drops_within", "closes"])
async def test_a_background_stream_that_upstream_cuts_reaches_the_client_whole(stage, scenario):
    _, gateway = await stage()
    client = gateway.client()
    events = await all_of(await client.responses.create(**job(scenario)))
    assert numbers(events) == list(range(len(events)))
    assert types(events)[-1] == "response.completed"
    assert text_of(events) == final_text(events[-1])
    ended = await gateway.facts.wait_for(Ended)
    assert not ended.response.synthesised
    assert gateway.facts.of(UpstreamCut)
    assert {fact.outcome for fact in gateway.facts.of(Reattached)} == {"resumed"}
    assert gateway.facts.of(Contradicted) == []
    replayed = await all_of(await client.responses.retrieve(ended.response.response_id, stream=True))
    assert replayed == events


async def test_upstream_is_asked_for_exactly_what_is_missing(stage):
    upstream, gateway = await stage()
    await all_of(await gateway.client().responses.create(**job("drops", after=17)))
    (resume,) = [seen.path for seen in upstream.simulator.requests if seen.method == "GET"]
    assert resume.endswith("?stream=true&starting_after=16")


@pytest.mark.parametrize(("scenario", "status"), [("normal", "completed"), ("incomplete",) * 2, ("fails", "failed")])
async def test_where_upstream_refuses_the_resume_the_stream_ends_from_the_polled_object(stage, scenario, status):
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    stream = await client.responses.create(**job(scenario, after=40))
    upstream.simulator.skip(2)
    events = await following(stream, 10)
    created = events[0]["response"]
    # It is cut, and by now so old that upstream does not stream it any more.
    upstream.simulator.skip(400)
    upstream.simulator.cut(created["id"])
    events += await all_of(stream)
    ended = await gateway.facts.wait_for(Ended)
    assert numbers(events) == list(range(len(events)))
    assert [kind for kind in types(events) if kind in TERMINAL] == [f"response.{status}"]
    assert events[-1]["response"] == (await fetch(f"{upstream.url}/responses/{created['id']}")).json
    assert (ended.response.status, ended.response.synthesised) == (status, True)
    assert len(gateway.facts.of(Ended)) == 1


async def test_an_end_made_from_the_polled_object_is_marked_and_replays_the_same(stage):
    _, gateway = await stage()
    client = gateway.client()
    events = await all_of(await client.responses.create(**job("refuses_resume")))
    ended = await gateway.facts.wait_for(Ended)
    assert ended.response.synthesised
    assert ended.response.usage is not None
    assert ended.response.tail == numbers(events)[-1] == 12
    assert types(events)[-1] == "response.completed"
    replayed = await all_of(await client.responses.retrieve(ended.response.response_id, stream=True))
    assert replayed == events


@pytest.mark.parametrize("how", ["drop", 503])
async def test_where_upstream_is_gone_for_good_readers_get_the_nested_error(stage, how):
    clock = Ahead()
    upstream, gateway = await stage(simulated=STILL, clock=clock, give_up_after_s=1000, linger_s=1)
    client = gateway.client()
    stream = await client.responses.create(**job())
    upstream.simulator.skip(2)
    before = await following(stream, 10)
    upstream.simulator.outage = how
    upstream.simulator.cut()
    await gateway.facts.wait_for(Reattached)
    clock.by_s = 1001
    events, error = await until_error(stream)
    assert error.code == "response_abandoned"
    assert numbers(before + events) == list(range(10 + len(events)))
    ended = await gateway.facts.wait_for(Ended)
    assert (ended.response.ending, ended.response.status) == (Ending.ABANDONED, Status.IN_PROGRESS)
    response_id = before[0]["response"]["id"]
    replayed, again = await until_error(await client.responses.retrieve(response_id, stream=True))
    assert (replayed, again.code) == (before + events, error.code)


async def test_an_outage_that_passes_is_not_seen_by_the_client(stage):
    upstream, gateway = await stage(simulated=STILL)
    stream = await gateway.client().responses.create(**job())
    upstream.simulator.skip(2)
    reader = asyncio.create_task(all_of(stream))
    upstream.simulator.outage = "drop"
    await gateway.facts.wait_for(Reattached, lambda fact: fact.outcome == "failed")
    upstream.simulator.outage = None
    upstream.simulator.skip(60)
    events = await reader
    assert numbers(events) == list(range(len(events)))
    assert types(events)[-1] == "response.completed"


async def test_a_cancel_past_the_gateway_ends_the_stream_too(stage):
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    stream = await client.responses.create(**job())
    upstream.simulator.skip(2)
    before = await following(stream, 10)
    await client.with_options(base_url=upstream.url).responses.cancel(before[0]["response"]["id"])
    events, error = await until_error(stream)
    assert error.code == "response_cancelled"
    assert numbers(before + events) == list(range(10 + len(events)))
    assert (await gateway.facts.wait_for(Ended)).response.status is Status.CANCELLED


async def test_a_terminal_status_that_comes_after_giving_up_is_counted_once_as_late(stage):
    clock = Ahead()
    upstream, gateway = await stage(simulated=STILL, clock=clock, give_up_after_s=1000, linger_s=1)
    client = gateway.client()
    created = await client.responses.create(**ask(), background=True)
    clock.by_s = 1001
    given_up = await gateway.facts.wait_for(Ended)
    upstream.simulator.skip(60)
    for _ in range(3):
        assert (await client.responses.retrieve(created.id)).status == "completed"
    endings = [(fact.response.ending, fact.late) for fact in gateway.facts.of(Ended)]
    assert given_up.response.response_id == created.id
    assert endings == [(Ending.ABANDONED, False), (Ending.TERMINAL, True)]


@pytest.mark.parametrize("scenario", ["drops", "closes", "drops_within"])
async def test_a_foreground_stream_that_upstream_cuts_ends_with_the_nested_error(stage, scenario):
    _, gateway = await stage()
    client = gateway.client()
    events, error = await until_error(await client.responses.create(**ask(scenario), stream=True))
    assert error.code == "upstream_lost"
    assert error.body["type"] == "server_error"
    assert numbers(events) == list(range(12))
    ended = await gateway.facts.wait_for(Ended)
    assert ended.response.ending is Ending.UPSTREAM_LOST
    response_id = ended.response.response_id
    replayed, again = await until_error(await client.responses.retrieve(response_id, stream=True, starting_after=5))
    assert (replayed, again.code) == (events[6:], "upstream_lost")


async def test_a_failure_is_told_with_upstreams_own_events(stage):
    _, gateway = await stage()
    answer = await fetch(f"{gateway.url}/v1/responses", "POST", body=job("fails"))
    assert types(answer.events)[-2:] == ["error", "response.failed"]
    ended = await gateway.facts.wait_for(Ended)
    assert (ended.response.status, ended.response.error_code) == (Status.FAILED, "server_error")
    assert len(gateway.facts.of(Ended)) == 1


@pytest.mark.parametrize("background", [True, False])
async def test_a_connection_that_brings_nothing_is_tried_again_until_the_end_is_polled(stage, background):
    _, gateway = await stage(upstream_retry_max_s=0.05)
    client = gateway.client()
    body = {**ask("drops_every", after=1), "background": background, "stream": True}
    if not background:
        _, error = await until_error(await client.responses.create(**body))
        assert error.code == "upstream_lost"
        return
    events = await all_of(await client.responses.create(**body))
    assert numbers(events) == list(range(len(events)))
    assert types(events)[-1] == "response.completed"


async def test_pauses_between_fruitless_connections_have_a_longest(stage):
    upstream, gateway = await stage(simulated=STILL, upstream_retry_max_s=0.02)
    stream = await gateway.client().responses.create(**job())
    events = await following(stream, 2)
    response_id = events[0]["response"]["id"]
    for cuts in range(10):
        await until(lambda: upstream.simulator.connections(response_id))
        upstream.simulator.cut(response_id)
        await until(lambda wanted=cuts: len(gateway.facts.of(UpstreamCut)) > wanted)
    upstream.simulator.skip(60)
    events += await all_of(stream)
    assert numbers(events) == list(range(len(events)))
    assert types(events)[-1] == "response.completed"


async def test_a_429_slows_the_polls_of_its_credential(stage):
    upstream, gateway = await stage(simulated={"speed": 1.0}, poll_schedule_s=(0.02,))
    began = time.monotonic()
    await gateway.client().responses.create(**ask("rate_limited_polls"), background=True)
    ended = await gateway.facts.wait_for(Ended)
    took = time.monotonic() - began
    assert ended.response.status is Status.COMPLETED
    # Every second poll is refused with Retry-After: 1, so there are two of them in a second.
    assert upstream.asked("GET", "/responses") <= 2 * took + 2


async def test_a_clients_poll_is_served_from_the_snapshot_while_upstream_wants_patience(stage):
    upstream, gateway = await stage(simulated=STILL, poll_schedule_s=(0.02,), poll_max_age_s=0.001)
    client = gateway.client()
    created = await client.responses.create(**ask("rate_limited_polls", retry_after_s=100), background=True)
    await gateway.facts.wait_for(UpstreamPolled, lambda fact: fact.status == 429)
    asked = upstream.asked("GET", created.id)
    assert (await client.responses.retrieve(created.id)).status == "queued"
    assert upstream.asked("GET", created.id) == asked


async def test_an_upstream_that_fails_every_second_time_is_borne(stage):
    _, gateway = await stage()
    client = gateway.client(max_retries=3)
    created = await client.responses.create(**ask("flaky"), background=True)
    ended = await gateway.facts.wait_for(Ended)
    assert ended.response.response_id == created.id
    assert ended.response.status is Status.COMPLETED
    assert 500 in {fact.status for fact in gateway.facts.of(UpstreamPolled)}


async def test_a_refused_create_is_answered_as_upstream_answers_it(stage):
    upstream, gateway = await stage()
    for scenario in ("rate_limited", "flaky", "rejected", "bad_gateway", "detail_error"):
        for body in (job(scenario), {**ask(scenario), "background": True}, ask(scenario)):
            mine = await fetch(f"{gateway.url}/v1/responses", "POST", body=body)
            direct = await fetch(f"{upstream.url}/responses", "POST", key="sk-direct", body=body)
            assert (mine.status, mine.body) == (direct.status, direct.body)
            assert mine.headers.get("Retry-After") == direct.headers.get("Retry-After")
            assert mine.headers["Content-Type"] == direct.headers["Content-Type"]
    assert len(gateway.facts.of(Refused)) == 15
    assert not gateway.gateway.context.tracker.live


async def test_a_response_that_upstream_has_lost_is_lost_after_three_polls(stage):
    upstream, gateway = await stage(simulated=STILL, lost_after_s=0.001)
    client = gateway.client()
    created = await client.responses.create(**ask(), background=True)
    upstream.simulator.forget(created.id)
    ended = await gateway.facts.wait_for(Ended)
    assert (ended.response.ending, ended.response.status) == (Ending.LOST, Status.QUEUED)
    assert ended.response.error_code == "response_lost"
    await until(lambda: polls_with(gateway, 404) >= 3)
    assert polls_with(gateway, 404) == 3
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(created.id)


async def test_a_404_now_and_then_does_not_lose_a_response_nor_do_many_in_a_short_time(stage):
    upstream, gateway = await stage(simulated=STILL, lost_after_s=300)
    created = await gateway.client().responses.create(**ask("stuck"), background=True)
    upstream.simulator.outage = 404
    await until(lambda: polls_with(gateway, 404) >= 5)
    upstream.simulator.outage = None
    await until(lambda: polls_with(gateway, 200) >= 1)
    assert live(gateway, created.id).misses == 0
    assert gateway.facts.of(Ended) == []


async def test_a_create_that_the_gateway_gives_up_is_answered(stage):
    clock = Ahead()
    upstream, gateway = await stage(simulated=STILL, clock=clock, give_up_after_s=1000, linger_s=1)
    create = asyncio.create_task(gateway.client().responses.create(**ask("late"), background=True))
    await until(lambda: upstream.asked("POST", "/responses"))
    clock.by_s = 1001
    with pytest.raises(openai.InternalServerError) as refused:
        await create
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert (await gateway.facts.wait_for(Ended)).response.ending is Ending.ABANDONED


async def test_a_create_whose_connection_breaks_is_not_tried_again_by_the_client(stage):
    upstream, gateway = await stage()
    with pytest.raises(openai.InternalServerError) as refused:
        await gateway.client(max_retries=2).responses.create(**ask("vanishes"), background=True)
    assert refused.value.status_code == 502
    assert upstream.asked("POST", "/responses") == 1


async def test_malformed_json_is_upstreams_to_judge_and_not_tracked(stage):
    upstream, gateway = await stage()
    for body in (b'{"model": "gpt-5.2",', b"[1, 2]", b'{"model":"gpt-5.2","input":"x","background":"yes"}'):
        mine = await fetch(f"{gateway.url}/v1/responses", "POST", body=body)
        assert upstream.simulator.requests[-1].body == body
        direct = await fetch(f"{upstream.url}/responses", "POST", body=body)
        assert mine.status == direct.status
    assert [fact.reason for fact in gateway.facts.of(Untracked)] == ["not_json"] * 3
    assert not gateway.gateway.context.tracker.live


async def test_a_body_over_the_limit_is_refused_before_upstream_is_called(stage):
    upstream, gateway = await stage(body_limit_bytes=10_000)
    answer = await fetch(f"{gateway.url}/v1/responses", "POST", body={**ask(), "input": "x" * 20_000})
    assert answer.status == 413
    assert answer.error["code"] == "body_too_large"
    assert upstream.simulator.requests == []
