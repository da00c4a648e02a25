"""Servers that speak the API in their own way: what they send reaches the client, in an order that can be resumed."""

import asyncio
import json

import pytest
from stories import STILL, all_of, ask, events_in, fetch, following, job, live, numbers, types, until, until_error
from wire import scripted_upstream

from gateway.domain.facts import Contradicted, Ended, Reattached, UpstreamCut
from gateway.domain.response import Ending, Status

SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
CREATED = {"type": "response.created", "sequence_number": 0, "response": {"id": "resp_1", "status": "in_progress"}}
DELTA = {"type": "response.output_text.delta", "sequence_number": 1, "delta": "Tide", "item_id": "msg_1"}
COMPLETED = {"type": "response.completed", "sequence_number": 2, "response": {"id": "resp_1", "status": "completed"}}
FAILED_ERROR = {"type": "error", "sequence_number": 2, "error": {"code": "server_error", "message": "Sorry."}}


def data_of(*events):
    """Events as a server frames them that knows no `event:` lines."""
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def whats(gateway):
    """What was found odd about upstream."""
    return {fact.what for fact in gateway.facts.of(Contradicted)}


@pytest.fixture
def scripted(parts, gateway_for, store):
    """A gateway in front of an upstream that answers each create with these bytes, and knows nothing else."""

    async def start(stream, **settings):
        async def answer(asked):
            length = int((asked.header(b"content-length") or [b"0"])[0])
            await asked.exactly(length)
            missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
            await asked.send(SSE_HEAD + stream if asked.start.startswith(b"POST") else missing)

        upstream = await scripted_upstream(parts, answer)
        return upstream, await gateway_for(upstream.url, store=store, **settings)

    return start


async def read_twice(gateway, body):
    """The raw answer to a create, and the replay of its log."""
    first = await fetch(f"{gateway.url}/v1/responses", "POST", body=body)
    response_id = first.events[0]["response"]["id"]
    return first, await fetch(f"{gateway.url}/v1/responses/{response_id}?stream=true")


async def test_json_where_a_stream_was_asked_for_is_handed_on_and_polled(stage):
    _, gateway = await stage()
    answer = await fetch(f"{gateway.url}/v1/responses", "POST", body=job("json_for_stream"))
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.json["status"] == "queued"
    ended = await gateway.facts.wait_for(Ended)
    assert (ended.response.response_id, ended.response.status) == (answer.json["id"], Status.COMPLETED)


async def test_a_stream_where_json_was_asked_for_is_handed_on_and_logged(stage):
    _, gateway = await stage()
    for background in (False, True):
        first, again = await read_twice(gateway, {**ask("sse_for_json"), "background": background})
        assert types(first.events)[-1] == "response.completed"
        assert again.body == first.body


async def test_a_create_that_is_accepted_with_202_is_tracked(stage):
    _, gateway = await stage()
    answer = await fetch(f"{gateway.url}/v1/responses", "POST", body={**ask("created_202"), "background": True})
    assert answer.status == 202
    assert (await gateway.facts.wait_for(Ended)).response.response_id == answer.json["id"]


async def test_an_object_without_a_status_is_polled_by_its_id(parts, gateway_for):
    async def answer(asked):
        await asked.exactly(int((asked.header(b"content-length") or [b"0"])[0]))
        status = b"" if asked.start.startswith(b"POST") else b',"status":"completed"'
        body = b'{"id":"resp_1"' + status + b"}"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        await asked.send(head % len(body) + body)

    upstream = await scripted_upstream(parts, answer)
    gateway = await gateway_for(upstream.url)
    created = await fetch(f"{gateway.url}/v1/responses", "POST", body={**ask(), "background": True})
    assert created.body == b'{"id":"resp_1"}'
    assert (await gateway.facts.wait_for(Ended)).response.status is Status.COMPLETED
    assert [asked.start.split()[1] for asked in upstream.asked] == [b"/base/responses", b"/base/responses/resp_1"]


async def test_events_without_numbers_get_the_gateways_and_replay_the_same(stage):
    upstream, gateway = await stage()
    first, again = await read_twice(gateway, job("no_numbers"))
    direct = await fetch(f"{upstream.url}/responses/{first.events[0]['response']['id']}?stream=true")
    assert numbers(first.events) == list(range(len(first.events)))
    assert [{**event, "sequence_number": None} for event in first.events] == [
        {**event, "sequence_number": None} for event in direct.events
    ]
    assert again.body == first.body
    assert whats(gateway) == {"own_numbers"}
    tail = await fetch(f"{gateway.url}/v1/responses/{first.events[0]['response']['id']}?stream=true&starting_after=30")
    assert tail.events == first.events[31:]


async def test_a_stream_without_numbers_that_is_cut_ends_from_the_polled_object(stage):
    upstream, gateway = await stage(simulated=STILL)
    stream = await gateway.client().responses.create(**job("no_numbers"))
    upstream.simulator.skip(2)
    events = await following(stream, 20)
    upstream.simulator.cut()
    await gateway.facts.wait_for(UpstreamCut)
    upstream.simulator.skip(60)
    events += await all_of(stream)
    assert numbers(events) == list(range(len(events)))
    assert types(events).count("response.created") == types(events).count("response.completed") == 1
    assert gateway.facts.of(Reattached) == []


async def test_numbers_that_begin_again_go_on_in_the_log(stage):
    _, gateway = await stage()
    first, again = await read_twice(gateway, job("restarts"))
    assert numbers(first.events) == list(range(len(first.events)))
    assert types(first.events)[-1] == "response.completed"
    assert again.body == first.body
    assert whats(gateway) == {"own_numbers"}


@pytest.mark.parametrize("scenario", ["keepalive", "keepalive_repeated"])
async def test_upstreams_keepalive_events_neither_hide_nor_double_an_event(stage, scenario):
    upstream, gateway = await stage(simulated={"speed": 100.0})
    first, again = await read_twice(gateway, job(scenario))
    direct = await fetch(f"{upstream.url}/responses/{first.events[0]['response']['id']}?stream=true")
    real = [event for event in direct.events if event["type"] != "keepalive"]
    assert [event for event in first.events if event["type"] != "keepalive"] == real
    assert numbers(first.events) == sorted(set(numbers(first.events)))
    assert again.body == first.body
    assert whats(gateway) == set()


async def test_keepalive_events_with_numbers_of_their_own_are_all_kept(stage):
    upstream, gateway = await stage(simulated={"speed": 100.0})
    first, _ = await read_twice(gateway, job("keepalive"))
    direct = await fetch(f"{upstream.url}/responses/{first.events[0]['response']['id']}?stream=true")
    assert first.events == direct.events


async def test_the_status_in_a_terminal_event_is_the_truth_not_its_name(stage):
    _, gateway = await stage()
    first, again = await read_twice(gateway, job("completed_incomplete"))
    ended = await gateway.facts.wait_for(Ended)
    assert types(first.events)[-1] == "response.completed"
    assert ended.response.status is Status.INCOMPLETE
    assert ended.response.incomplete_reason == "max_output_tokens"
    assert again.body == first.body


async def test_a_cancelled_response_stays_cancelled_though_upstream_completes_it(stage):
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    stream = await client.responses.create(**job("cancelled_completes"))
    upstream.simulator.skip(2)
    created = (await following(stream, 10))[0]["response"]
    assert (await client.responses.cancel(created["id"])).status == "cancelled"
    _, error = await until_error(stream)
    upstream.simulator.skip(60)
    assert error.code == "response_cancelled"
    assert upstream.simulator.status(created["id"]) == "completed"
    assert (await client.responses.retrieve(created["id"])).status == "cancelled"
    await client.responses.retrieve(created["id"], include=["message.output_text.logprobs"])
    found = await gateway.facts.wait_for(Contradicted)
    assert (found.what, found.detail) == ("after_end", "cancelled -> completed")
    assert (await client.responses.retrieve(created["id"])).status == "cancelled"
    assert [fact.response.status for fact in gateway.facts.of(Ended)] == [Status.CANCELLED]


async def test_frames_of_another_style_are_kept_less_comments_and_done(stage):
    _, gateway = await stage()
    first, again = await read_twice(gateway, job("foreign"))
    assert first.body.startswith(b"data: {")
    assert b"event:" not in first.body
    assert b": ping" not in first.body
    assert b"[DONE]" not in first.body
    assert types(first.events)[-1] == "response.completed"
    assert again.body == first.body


async def test_a_preamble_is_found_in_frames_without_event_lines_too(stage):
    _, gateway = await stage()
    first, _ = await read_twice(gateway, job("foreign"))
    response_id = first.events[0]["response"]["id"]
    answer = await fetch(f"{gateway.url}/v1/responses/{response_id}~50?stream=true")
    assert types(answer.events)[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert answer.events[-1] == first.events[-1]


async def test_a_frame_that_is_no_json_passes_as_it_came(scripted):
    garbage = b"data: this is no JSON\n\n"
    stream = data_of(CREATED) + garbage + data_of({**DELTA, "sequence_number": 2}, {**COMPLETED, "sequence_number": 3})
    _, gateway = await scripted(stream)
    url = f"{gateway.url}/v1/responses"
    pieces = (await _raw(url, job())).split(b"\n\n")
    assert pieces[1] + b"\n\n" == garbage
    again = await _raw(f"{url}/resp_1?stream=true")
    assert again.split(b"\n\n") == pieces
    assert [json.loads(piece[6:])["sequence_number"] for piece in (pieces[0], pieces[2], pieces[3])] == [0, 2, 3]


async def test_a_stream_that_is_no_sse_ends_in_an_error_not_in_silence(scripted):
    _, gateway = await scripted(b"<html>This is no stream</html>")
    events = events_in(await _raw(f"{gateway.url}/v1/responses", {**ask(), "stream": True}))
    assert [event["error"]["code"] for event in events] == ["upstream_lost"]
    assert (await gateway.facts.wait_for(Ended)).response.ending is Ending.UPSTREAM_LOST


async def test_an_event_over_the_limit_is_an_error_not_a_hang(scripted):
    _, gateway = await scripted(data_of(CREATED) + b"data: " + b"x" * 50_000, event_limit_bytes=10_000)
    events = events_in(await _raw(f"{gateway.url}/v1/responses", {**ask(), "stream": True}))
    assert types(events) == ["response.created", "error"]
    assert events[-1]["error"]["code"] == "upstream_lost"


async def test_an_error_event_and_then_nothing_is_a_failure(scripted):
    _, gateway = await scripted(data_of(CREATED, DELTA, FAILED_ERROR))
    raw = await _raw(f"{gateway.url}/v1/responses", {**ask(), "stream": True})
    assert raw == data_of(CREATED, DELTA, FAILED_ERROR)
    ended = await gateway.facts.wait_for(Ended)
    assert (ended.response.status, ended.response.ending) == (Status.FAILED, Ending.TERMINAL)
    assert (ended.response.error_code, ended.response.error_message) == ("server_error", "Sorry.")


async def test_what_comes_after_the_terminal_event_is_noted_and_not_logged(scripted):
    _, gateway = await scripted(data_of(CREATED, DELTA, COMPLETED, {**DELTA, "sequence_number": 3}))
    raw = await _raw(f"{gateway.url}/v1/responses", {**ask(), "stream": True})
    assert raw == data_of(CREATED, DELTA, COMPLETED)
    assert (await gateway.facts.wait_for(Contradicted)).what == "after_terminal"


async def test_a_second_delivery_of_an_event_is_dropped(scripted):
    again = {key: DELTA[key] for key in reversed(DELTA)} | {"obfuscation": "a4f"}
    _, gateway = await scripted(data_of(CREATED, DELTA, again, COMPLETED))
    raw = await _raw(f"{gateway.url}/v1/responses", {**ask(), "stream": True})
    assert raw == data_of(CREATED, DELTA, COMPLETED)
    assert whats(gateway) == set()


async def test_a_gap_that_upstream_made_is_kept(scripted):
    far = {**COMPLETED, "sequence_number": 41}
    _, gateway = await scripted(data_of(CREATED, DELTA, far))
    assert await _raw(f"{gateway.url}/v1/responses", {**ask(), "stream": True}) == data_of(CREATED, DELTA, far)
    tail = await fetch(f"{gateway.url}/v1/responses/resp_1?stream=true&starting_after=5")
    assert tail.events == [far]


@pytest.mark.parametrize("attached_as", ["stream", "json"])
async def test_an_upstream_that_ignores_the_cursor_doubles_nothing(parts, gateway_for, store, attached_as):
    final = {"id": "resp_1", "status": "completed", "output": []}
    events = [{**CREATED, "response": {**CREATED["response"], "background": True}}]
    events += [{**DELTA, "sequence_number": number, "delta": f"word {number}"} for number in range(1, 9)]
    events += [{**COMPLETED, "sequence_number": 9, "response": final}]

    async def answer(asked):
        await asked.exactly(int((asked.header(b"content-length") or [b"0"])[0]))
        if asked.start.startswith(b"POST"):
            await asked.send(SSE_HEAD + data_of(*events[:5]))
        elif attached_as == "stream" and b"stream=true" in asked.start:
            await asked.send(SSE_HEAD + data_of(*events))
        else:
            body = json.dumps(final).encode()
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            await asked.send(head + body)

    upstream = await scripted_upstream(parts, answer)
    gateway = await gateway_for(upstream.url, store=store)
    heard = (await fetch(f"{gateway.url}/v1/responses", "POST", body=job())).events
    assert heard[:5] == events[:5]
    if attached_as == "stream":
        assert heard == events
    else:
        assert [(heard[5]["type"], heard[5]["sequence_number"])] == [("response.completed", 5)]
        assert heard[5]["response"] == final
        assert len(heard) == 6
    assert len(gateway.facts.of(Ended)) == 1


async def _raw(url, body=None):
    return (await fetch(url, "POST" if body else "GET", body=body, parsed=False)).body


# --- background responses that are tracked by their stream --------------------------------------------------------


async def test_tracked_by_stream_a_background_response_needs_no_poll_and_can_be_streamed(stage):
    upstream, gateway = await stage(simulated=STILL, background_tracking="stream")
    client = gateway.client()
    created = await client.responses.create(**ask(), background=True)
    assert (created.status, created.object, created.output) == ("queued", "response", [])
    assert upstream.simulator.requests[0].json() == {**ask(), "background": True, "stream": True}
    stream = await client.responses.retrieve(created.id, stream=True, starting_after=0)
    held = asyncio.create_task(client.responses.retrieve(created.id, extra_headers={"Prefer": "wait=20"}))
    await until(lambda: live(gateway, created.id).holds)
    upstream.simulator.skip(1)
    assert (await held).status == "in_progress"
    upstream.simulator.skip(60)
    events = await all_of(stream)
    assert numbers(events) == list(range(1, len(events) + 1))
    done = await client.responses.retrieve(created.id)
    assert (done.status, bool(done.output_text)) == ("completed", True)
    assert upstream.asked("GET", "/responses") == 0


@pytest.mark.parametrize("tracking", ["poll", "stream"])
async def test_to_cancel_what_has_ended_shows_it_however_it_is_tracked(stage, tracking):
    _, gateway = await stage(background_tracking=tracking)
    client = gateway.client()
    created = await client.responses.create(**ask(), background=True)
    await gateway.facts.wait_for(Ended)
    cancelled = await client.responses.cancel(created.id)
    assert (cancelled.id, cancelled.status, bool(cancelled.output_text)) == (created.id, "completed", True)
    streamed = await all_of(await client.responses.create(**job()))
    refused = await fetch(f"{gateway.url}/v1/responses/{streamed[0]['response']['id']}/cancel", "POST")
    assert (refused.status, refused.error["message"]) == (400, "Cannot cancel a completed response.")


async def test_where_upstream_refuses_the_stream_tracking_falls_back_to_polls(stage):
    upstream, gateway = await stage(background_tracking="stream")
    created = await gateway.client().responses.create(**ask("refuses_stream"), background=True)
    ended = await gateway.facts.wait_for(Ended)
    assert (ended.response.response_id, ended.response.status) == (created.id, Status.COMPLETED)
    assert "stream" not in [seen for seen in upstream.simulator.requests if seen.method == "POST"][-1].json()
    assert upstream.asked("GET", created.id) > 0


async def test_tracked_by_stream_a_cut_before_the_first_event_is_an_error_that_says_so(scripted):
    _, gateway = await scripted(b"", background_tracking="stream")
    answer = await fetch(f"{gateway.url}/v1/responses", "POST", body={**ask(), "background": True})
    assert answer.status == 502
    assert answer.headers["x-should-retry"] == "false"
    assert answer.error["code"] == "upstream_lost"


async def test_tracked_by_stream_many_creates_at_once_are_each_answered_with_their_own_object(stage):
    _, gateway = await stage(background_tracking="stream")
    client = gateway.client()
    bodies = [{**ask(), "background": True, "user": f"user-{n}"} for n in range(20)]
    made = await asyncio.gather(*(client.responses.create(**body) for body in bodies))
    assert [one.user for one in made] == [body["user"] for body in bodies]
    assert len({one.id for one in made}) == 20
