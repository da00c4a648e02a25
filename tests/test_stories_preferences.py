"""What clients can ask for by the header `Prefer`, and what nobody gets who does not ask."""

import asyncio
import json

import openai
import pytest
from stories import STILL, all_of, ask, events_in, fetch, job, live, numbers, some, types, until, until_error
from wire import scripted_upstream

from gateway.domain import sse
from gateway.domain.facts import Detached, Ended
from gateway.domain.response import Ending
from gateway.edge import preferences

DONE = b"data: [DONE]\n\n"


def preferring(value):
    return {"extra_headers": {"Prefer": value}}


def held_create(gateway, **preferred):
    """A background create that waits, as a client that never polls makes it."""
    create = gateway.client().responses.with_raw_response.create(**ask(), background=True, **preferred)
    return asyncio.create_task(create)


def the_live(gateway):
    """The one response that the gateway holds, once a client waits for it."""
    held = tuple(gateway.gateway.context.tracker.live.values())
    return held[0] if held and held[0].holds else None


@pytest.mark.parametrize("tracking", ["poll", "stream"])
async def test_a_background_create_can_wait_until_the_response_is_terminal(stage, tracking):
    upstream, gateway = await stage(simulated=STILL, background_tracking=tracking)
    create = held_create(gateway, **preferring("wait=600"))
    await until(lambda: the_live(gateway))
    upstream.simulator.skip(1)
    upstream.simulator.skip(60)
    answer = await create
    response = answer.parse()
    assert (response.status, response.background) == ("completed", True)
    assert response.output_text
    assert answer.headers["Preference-Applied"] == "wait=600"
    assert answer.headers["x-request-id"].startswith("req_")
    assert "x-gateway-continuation-token" not in answer.headers
    assert upstream.asked("POST", "/responses") == len(gateway.facts.of(Ended)) == 1
    assert all(seen.header("prefer") is None for seen in upstream.simulator.requests)


async def test_a_create_that_waited_for_its_time_is_answered_with_what_there_is(stage):
    _, gateway = await stage(simulated=STILL, create_wait_max_s=0.2)
    answer = await held_create(gateway, **preferring("wait=600"))
    assert answer.parse().status == "queued"
    assert answer.headers["Preference-Applied"] == "wait=0.2"
    assert answer.headers["x-gateway-continuation-token"] == answer.parse().id


async def test_nobody_waits_who_does_not_ask(stage):
    _, gateway = await stage(simulated=STILL)
    answer = await held_create(gateway)
    assert answer.parse().status == "queued"
    assert "Preference-Applied" not in answer.headers


async def test_where_the_setting_says_so_creates_wait_without_asking_and_a_client_may_decline(stage):
    upstream, gateway = await stage(simulated=STILL, create_wait_s=500)
    create = held_create(gateway)
    await until(lambda: the_live(gateway))
    declined = await held_create(gateway, **preferring("wait=0"))
    assert (declined.parse().status, declined.headers["Preference-Applied"]) == ("queued", "wait=0")
    upstream.simulator.skip(60)
    answer = await create
    assert answer.parse().output_text
    assert "Preference-Applied" not in answer.headers


async def test_a_wait_by_setting_is_as_long_as_the_setting_and_one_that_is_asked_for_as_it_asks(stage):
    _, gateway = await stage(simulated=STILL, create_wait_s=0.01, create_wait_max_s=0.2)
    assert (await held_create(gateway)).parse().status == "queued"
    assert (await held_create(gateway, **preferring("wait=600"))).headers["Preference-Applied"] == "wait=0.2"


async def test_a_create_that_upstream_refuses_waits_for_nothing(stage):
    _, gateway = await stage(simulated=STILL)
    with pytest.raises(openai.BadRequestError, match="Invalid prompt"):
        await gateway.client().responses.create(**ask("rejected"), background=True, **preferring("wait=600"))


async def test_a_client_that_goes_while_its_create_waits_stops_nothing(stage):
    upstream, gateway = await stage(simulated=STILL)
    create = held_create(gateway, **preferring("wait=600"))
    await until(lambda: the_live(gateway))
    response_id = the_live(gateway).response.response_id
    create.cancel()
    await until(lambda: not live(gateway, response_id).holds)
    upstream.simulator.skip(60)
    assert (await gateway.facts.wait_for(Ended)).response.ending is Ending.TERMINAL


async def test_a_create_that_waits_is_answered_when_the_gateway_stops(stage):
    _, gateway = await stage(simulated=STILL)
    create = held_create(gateway, **preferring("wait=600"))
    await until(lambda: the_live(gateway))
    stopping = asyncio.create_task(gateway.gateway.stop())
    assert (await create).parse().status == "queued"
    await stopping


async def test_a_foreground_stream_goes_on_for_as_long_as_its_client_asked(stage):
    upstream, gateway = await stage(simulated=STILL, linger_s=0.05)
    client = gateway.client()
    stream = await client.responses.create(**ask(), stream=True, **preferring("linger=600"))
    assert stream.response.headers["Preference-Applied"] == "linger=600"
    upstream.simulator.skip(2)
    before = await some(stream, 20)
    await gateway.facts.wait_for(Detached)
    # Another one, whose client asked for nothing, is stopped meanwhile.
    await some(await client.responses.create(**ask(), stream=True), 2)
    assert (await gateway.facts.wait_for(Ended)).response.ending is Ending.ABANDONED
    upstream.simulator.skip(60)
    response_id = before[0]["response"]["id"]
    await gateway.facts.wait_for(Ended, lambda fact: fact.response.response_id == response_id)
    after = await all_of(await client.responses.retrieve(response_id, stream=True, starting_after=19))
    assert numbers(before + after) == list(range(len(before + after)))
    assert types(after)[-1] == "response.completed"


async def test_a_linger_has_a_longest_one(stage):
    _, gateway = await stage(simulated=STILL, linger_max_s=0.05)
    stream = await gateway.client().responses.create(**ask(), stream=True, **preferring("linger=600"))
    assert stream.response.headers["Preference-Applied"] == "linger=0.05"
    await some(stream, 2)
    assert (await gateway.facts.wait_for(Ended)).response.ending is Ending.ABANDONED


async def test_a_stream_ends_with_done_for_who_asks_at_the_first_read_and_at_every_other(stage):
    _, gateway = await stage()
    url = f"{gateway.url}/v1/responses"
    done = {"Prefer": "done"}
    first = await fetch(url, "POST", body=job(), headers=done, parsed=False)
    plain = first.body.removesuffix(DONE)
    assert first.headers["Preference-Applied"] == "done"
    assert first.body == plain + DONE
    response_id = (await fetch(url, "POST", body=job())).events[0]["response"]["id"]
    replay = f"{url}/{response_id}?stream=true"
    unasked = await fetch(replay)
    assert "Preference-Applied" not in unasked.headers
    assert (await fetch(replay, headers=done, parsed=False)).body == unasked.body + DONE
    last = numbers(unasked.events)[-1]
    assert (await fetch(f"{replay}&starting_after={last}", headers=done, parsed=False)).body == DONE


async def test_where_the_setting_says_so_streams_end_with_done_and_a_client_may_decline(stage):
    _, gateway = await stage(stream_done=True)
    url = f"{gateway.url}/v1/responses"
    by_setting = await fetch(url, "POST", body=job(), parsed=False)
    assert by_setting.body.endswith(DONE)
    assert "Preference-Applied" not in by_setting.headers
    response_id = events_in(by_setting.body.removesuffix(DONE))[0]["response"]["id"]
    replay = f"{url}/{response_id}?stream=true"
    assert (await fetch(replay, parsed=False)).body == by_setting.body
    declined = await fetch(replay, headers={"Prefer": "done=no"}, parsed=False)
    assert declined.body + DONE == by_setting.body
    assert "Preference-Applied" not in declined.headers


@pytest.mark.parametrize("by_setting", [False, True])
async def test_a_stream_that_ends_with_an_error_has_no_done(stage, by_setting):
    upstream, gateway = await stage(simulated=STILL, stream_done=by_setting)
    client = gateway.client()
    stream = await client.responses.create(**job(), **preferring("done"))
    upstream.simulator.skip(2)
    response_id = (await some(stream, 2))[0]["response"]["id"]
    await client.responses.cancel(response_id)
    _, error = await until_error(await client.responses.retrieve(response_id, stream=True, **preferring("done")))
    assert error.code == "response_cancelled"
    raw = await fetch(f"{gateway.url}/v1/responses/{response_id}?stream=true", headers={"Prefer": "done"})
    assert raw.events[-1]["type"] == "error"
    assert DONE not in raw.body


async def test_the_official_client_takes_done_for_the_end(stage):
    _, gateway = await stage()
    events = await all_of(await gateway.client().responses.create(**job(), **preferring("done")))
    assert types(events)[-1] == "response.completed"


async def test_after_a_long_silence_a_reader_gets_an_event_that_moves_no_cursor(stage):
    upstream, gateway = await stage(simulated=STILL, heartbeat_s=0.02, keepalive_s=0.05)
    client = gateway.client()
    stream = await client.responses.create(**job())
    seen = []
    async for event in stream:
        seen.append(event.to_dict())
        if types(seen).count("keepalive") == 3:
            break
    upstream.simulator.skip(60)
    seen += await all_of(stream)
    assert [event["sequence_number"] for event in seen if event["type"] == "keepalive"][:3] == [1, 1, 1]
    events = [event for event in seen if event["type"] != "keepalive"]
    assert numbers(events) == list(range(len(events)))
    replay = await all_of(await client.responses.retrieve(events[0]["response"]["id"], stream=True))
    assert replay == events


async def test_no_keepalive_event_comes_where_it_is_off(stage):
    _, gateway = await stage(simulated={"speed": 400.0}, heartbeat_s=0.02, keepalive_s=0)
    answer = await fetch(f"{gateway.url}/v1/responses", "POST", body=job("silent"))
    assert answer.body.count(b": keepalive\n\n") > 3
    assert "keepalive" not in types(answer.events)


async def test_no_keepalive_event_comes_before_the_first_event(parts, gateway_for):
    """A client that accumulates must see `response.created` first."""
    events = [("response.created", "in_progress"), ("response.completed", "completed")]
    body = b"".join(
        sse.encode(
            kind, json.dumps({"type": kind, "sequence_number": at, "response": {"id": "r", "status": to}}).encode()
        )
        for at, (kind, to) in enumerate(events)
    )
    begins = asyncio.Event()

    async def script(asked):
        await asked.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        await begins.wait()
        await asked.send(body)

    upstream = await scripted_upstream(parts, script)
    gateway = await gateway_for(upstream.url, heartbeat_s=0.02, keepalive_s=0.02)
    stream = await gateway.client().responses.create(**ask(), stream=True)
    beats, got = 0, b""
    async for piece in stream.response.aiter_bytes():
        got += piece
        beats += piece.count(b": keepalive")
        if beats > 3:
            begins.set()
    assert got.replace(b": keepalive\n\n", b"") == body


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("", preferences.Preferences()),
        ("wait=20", preferences.Preferences(wait_s=20)),
        ('Wait = "20"', preferences.Preferences(wait_s=20)),
        ("respond-async, wait=20", preferences.Preferences(wait_s=20)),
        ("wait=20; linger=5; done", preferences.Preferences(20, 5, True)),
        ("wait=20, wait=30", preferences.Preferences(wait_s=20)),
        ("done=no", preferences.Preferences(done=False)),
        ("wait=soon, linger=-1, done=perhaps", preferences.Preferences()),
        ("wait=" + "9" * 10, preferences.Preferences()),
        ("await=20, undone", preferences.Preferences()),
    ],
)
def test_a_preference_is_read_as_rfc_7240_writes_it(written, meant):
    assert preferences.parse([written]) == meant
