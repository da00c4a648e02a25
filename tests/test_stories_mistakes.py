"""Mistakes that others made between clients and this API, each a story of how it goes here.

Those that other stories tell in full are not told again: a late completion over a cancel and numbers that begin again
(`test_stories_odd_upstreams`), tokens counted per poll (`test_stories_endings`), a trace lost between two processes
(`test_stories_traces`), polls that make spans and series without end (`test_stories_spans`, `test_telemetry_metrics`),
a full gateway as a 500 (`test_stories_many`).
"""

import asyncio
import json
from typing import Any

import openai
import pytest
from running import PATIENCE_S, Running
from stories import STILL, Ahead, all_of, ask, fetch, following, job, live, types, until, until_error
from wire import STREAM_HEAD, body_of, dial, framed, json_answer, scripted_upstream

from gateway.domain.facts import BecameStuck, Contradicted, Detached, Ended, Purged
from gateway.domain.response import Ending, Status

FINAL = {"id": "resp_1", "status": "completed", "output": []}
BEGUN: list[dict[str, Any]] = [
    {"type": "response.created", "sequence_number": 0, "response": {"id": "resp_1", "status": "queued"}},
    {"type": "response.output_text.delta", "sequence_number": 1, "delta": "Tide", "item_id": "msg_1"},
]
WHOLE = [*BEGUN, {"type": "response.completed", "sequence_number": 2, "response": FINAL}]


async def terminals(gateway: Running, **labels: str) -> float:
    """How many responses the metrics say that ended so."""
    samples = await gateway.scrape()
    wanted = labels.items()
    return sum(
        v for (name, had), v in samples.items() if name == "responses_terminal_total" and wanted <= dict(had).items()
    )


# A stream that ends without a terminal event is reported as completed.


async def test_a_stream_that_stops_without_its_last_event_is_nowhere_reported_as_completed(stage: Any) -> None:
    _, gateway = await stage()
    _, error = await until_error(await gateway.client().responses.create(**ask("closes"), stream=True))
    assert error.code == "upstream_lost"
    ended = await gateway.facts.wait_for(Ended)
    assert (ended.response.ending, ended.response.terminal) == (Ending.UPSTREAM_LOST, False)
    assert await terminals(gateway, status="completed") == 0
    assert await gateway.shown("responses_given_up_total", ending="upstream_lost", mode="stream") == 1


# A client that goes right after its create takes the job with it, or leaves it queued for ever.


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("when", ["before the answer", "at its first bytes"])
async def test_a_client_that_goes_right_after_its_create_takes_nothing_with_it(
    parts: Any, stage: Any, when: str, stream: bool
) -> None:
    upstream, gateway = await stage(simulated=STILL)
    before = when == "before the answer"
    body = json.dumps({**ask("late" if before else "normal"), "background": True, "stream": stream}).encode()
    line = await dial(parts, gateway.url)
    await line.send(b"POST /v1/responses HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    if before:
        await until(lambda: upstream.simulator.connections())
    else:
        await line.head()
    line.writer.transport.abort()
    await until(lambda: not gateway.connections)
    assert upstream.simulator.connections() == (stream or before), "upstream is read by the gateway, not by the client"
    upstream.simulator.skip(10)
    upstream.simulator.skip(60)
    ended = await gateway.facts.wait_for(Ended)
    assert ended.response.status is Status.COMPLETED
    assert upstream.asked("POST", "/cancel") == 0


# A stream is asked for, and the answer is JSON or nothing, which the SDKs take for an empty stream.


@pytest.mark.parametrize("body", [job(), {**ask(), "stream": True}, {**ask(), "background": True}, ask()])
async def test_who_asks_for_a_stream_gets_events_or_an_error_and_never_an_object_or_nothing(
    stage: Any, body: dict[str, Any]
) -> None:
    _, gateway = await stage()
    url = f"{gateway.url}/v1/responses"
    made = await fetch(url, "POST", body=body)
    response_id = made.events[0]["response"]["id"] if made.events else made.json["id"]
    if body.get("background"):
        await gateway.facts.wait_for(Ended)
    answer = await fetch(f"{url}/{response_id}?stream=true")
    if body.get("stream"):
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert types(answer.events)[-1] == "response.completed"
        return
    assert (answer.status, answer.error["param"]) == (400, "stream")
    with pytest.raises(openai.BadRequestError, match="cannot be streamed"):
        await gateway.client().responses.retrieve(response_id, stream=True)


# A response has another id each time it is retrieved.


async def test_a_response_has_one_id_wherever_it_is_shown(stage: Any) -> None:
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    stream = await client.responses.create(**job())
    upstream.simulator.skip(1)
    first = await following(stream, 3)
    response_id = first[0]["response"]["id"]
    assert upstream.simulator.status(response_id) == "in_progress"
    shown = [event["response"]["id"] for event in first]
    shown.append((await client.responses.retrieve(response_id)).id)
    upstream.simulator.skip(60)
    rest = await all_of(stream)
    shown += [event["response"]["id"] for event in rest if "response" in event]
    shown.append((await client.responses.retrieve(response_id)).id)
    shown.append((await client.responses.retrieve(f"{response_id}~4")).id)
    upstream.simulator.forget(response_id)
    again = await all_of(await client.responses.retrieve(f"{response_id}~4", stream=True))
    shown += [event["response"]["id"] for event in again if "response" in event]
    assert set(shown) == {response_id}


async def test_an_upstream_that_changes_the_id_is_noted_and_the_first_one_goes_on_to_name_it(
    parts: Any, gateway_for: Any, store: str
) -> None:
    async def script(asked: Any) -> None:
        await body_of(asked)
        if asked.start.startswith(b"POST"):
            await asked.send(json_answer({"id": "resp_1", "status": "queued"}))
        else:
            await asked.send(json_answer({**FINAL, "id": "resp_another"}))

    upstream = await scripted_upstream(parts, script)
    gateway = await gateway_for(upstream.url, store=store)
    await fetch(f"{gateway.url}/v1/responses", "POST", body={**ask(), "background": True})
    ended = await gateway.facts.wait_for(Ended)
    assert (ended.response.response_id, ended.response.status) == ("resp_1", Status.COMPLETED)
    assert [(fact.what, fact.detail) for fact in gateway.facts.of(Contradicted)] == [("another_id", "resp_another")]
    asked = len(upstream.asked)
    assert (await fetch(f"{gateway.url}/v1/responses/resp_1")).json["status"] == "completed"
    assert len(upstream.asked) == asked


# A stuck job is deleted without a word.


async def test_what_is_stuck_is_never_deleted_however_old_it_is_and_is_given_up_with_a_word(stage: Any) -> None:
    clock = Ahead()
    day_s = 86400.0
    settings = {"retention_s": day_s, "tombstone_s": day_s, "resume_window_s": 60.0, "give_up_after_s": 30 * day_s}
    upstream, gateway = await stage(simulated=STILL, clock=clock, linger_s=1, **settings)
    stream = await gateway.client().responses.create(**job("stuck"))
    response_id = (await following(stream, 2))[0]["response"]["id"]
    upstream.simulator.cut()
    upstream.simulator.outage = 503
    clock.by_s = 20 * day_s
    await gateway.facts.wait_for(BecameStuck)
    await fetch(f"{gateway.ops_url}/purge", "POST")
    await gateway.facts.wait_for(Purged)
    assert live(gateway, response_id).response.stuck
    shown = (await fetch(f"{gateway.ops_url}/responses?stuck=true")).json["data"]
    assert [one["response_id"] for one in shown] == [response_id]
    clock.by_s = 31 * day_s
    _, error = await until_error(stream)
    assert error.code == "response_abandoned"
    await gateway.facts.wait_for(Ended)
    assert await gateway.shown("responses_given_up_total", ending="abandoned", mode="background_stream") == 1


# An end that gets lost leaves its readers hanging for ever.


async def test_a_stream_ends_with_its_last_event_though_upstream_leaves_the_line_open(
    parts: Any, gateway_for: Any, store: str
) -> None:
    async def script(asked: Any) -> None:
        await body_of(asked)
        await asked.send(STREAM_HEAD + framed(*WHOLE))
        await asked.rest()  # until the gateway closes it

    upstream = await scripted_upstream(parts, script)
    gateway = await gateway_for(upstream.url, store=store)
    for _ in range(2):
        answer = await fetch(f"{gateway.url}/v1/responses", "POST", body=job(), parsed=False)
        assert answer.body == framed(*WHOLE)
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(2):
            await upstream.lines_closed.acquire()


@pytest.mark.parametrize("again", ["refuses", "says nothing", "ends at once"])
async def test_a_stream_whose_end_never_comes_ends_from_what_a_poll_shows(
    parts: Any, gateway_for: Any, store: str, again: str
) -> None:
    async def script(asked: Any) -> None:
        await body_of(asked)
        if asked.start.startswith(b"POST"):
            await asked.send(STREAM_HEAD + framed(*BEGUN))
            await asked.rest()
        elif b"stream=true" not in asked.start:
            await asked.send(json_answer(FINAL))
        elif again == "refuses":
            await asked.send(json_answer({"detail": "no streams of that"}, 400))
        else:
            await asked.send(STREAM_HEAD)
            if again == "says nothing":
                await asked.rest()

    upstream = await scripted_upstream(parts, script)
    gateway = await gateway_for(upstream.url, store=store, upstream_idle_s=0.1)
    answer = await fetch(f"{gateway.url}/v1/responses", "POST", body=job())
    assert answer.events == WHOLE
    ended = await gateway.facts.wait_for(Ended)
    assert (ended.response.status, ended.response.synthesised) == (Status.COMPLETED, True)


# Cursors that are expired, malformed and past the end are all answered alike.


async def test_a_cursor_that_is_expired_malformed_or_past_the_end_is_told_which(stage: Any) -> None:
    clock = Ahead()
    _, gateway = await stage(clock=clock, resume_window_s=60)
    events = await all_of(await gateway.client().responses.create(**job(), store=False))
    url = f"{gateway.url}/v1/responses/{events[0]['response']['id']}?stream=true&starting_after="
    past = await fetch(f"{url}{events[-1]['sequence_number']}")
    malformed = await fetch(f"{url}soon")
    await gateway.facts.wait_for(Detached, lambda fact: fact.how == "end")
    clock.by_s = 61
    await fetch(f"{gateway.ops_url}/purge", "POST")
    expired = await fetch(f"{url}3")
    assert (past.status, past.body) == (200, b"")
    assert past.headers["Content-Type"].startswith("text/event-stream")
    assert (malformed.status, malformed.error["param"]) == (400, "starting_after")
    assert (expired.status, expired.error["code"]) == (404, "stream_expired")


# Jobs of twenty minutes, and of hours, are all in the last bucket.


@pytest.mark.parametrize("minutes", [20, 70, 475, 20 * 60])
async def test_a_long_job_is_told_from_a_longer_one(stage: Any, minutes: int) -> None:
    clock = Ahead()
    upstream, gateway = await stage(simulated=STILL, clock=clock)
    await gateway.client().responses.create(**ask("stuck", queue_s=1), background=True)
    clock.by_s = minutes * 60.0
    upstream.simulator.skip(60)
    await gateway.facts.wait_for(Ended)
    samples = await gateway.scrape()
    counted = {
        float(dict(labels)["le"]): value
        for (name, labels), value in samples.items()
        if name == "response_duration_seconds_bucket"
        and dict(labels)["mode"] == "background"
        and dict(labels)["status"] == "completed"
    }
    finite = sorted(bound for bound in counted if bound != float("inf"))
    reached = min(bound for bound in finite if counted[bound])
    assert counted[float("inf")] == 1
    assert max(bound for bound in finite if bound < reached) < minutes * 60 + 60 <= reached * 1.05
