"""Where a reader goes on: cursors in every form, tokens, and what each kind of client is given for them."""

import asyncio

import pytest
from stories import STILL, all_of, ask, fetch, following, job, numbers, some, types

from gateway.domain.continuation import CursorForm
from gateway.domain.facts import Attached, Ended, TokenRedeemed

EVENT_SOURCE = {"Accept": "text/event-stream"}
STRUCTURAL = (
    *("response.created", "response.queued", "response.in_progress", "response.completed"),
    *(".added", ".output_item.done", ".function_call_arguments.done"),
)


def split(events):
    """A preamble, and the tail: what comes after the last number in which a number was left out."""
    gaps = [at for at in range(1, len(events)) if numbers(events)[at] != numbers(events)[at - 1] + 1]
    return events[: gaps[-1]], events[gaps[-1] :]


@pytest.fixture
async def replayed(stage):
    """A response that has ended: the gateway, where its stream is read, and all its events."""
    _, gateway = await stage()
    first = await fetch(f"{gateway.url}/v1/responses", "POST", body=job())
    response_id = first.events[0]["response"]["id"]
    return gateway, f"{gateway.url}/v1/responses/{response_id}", first


async def test_a_cursor_is_exclusive_and_zero_is_one(replayed):
    gateway, url, first = replayed
    for after in (0, 1, 20, len(first.events) - 2):
        answer = await fetch(f"{url}?stream=true&starting_after={after}")
        assert answer.events == first.events[after + 1 :]
    assert (await fetch(f"{url}?stream=true")).body == first.body
    assert {fact.form for fact in gateway.facts.of(Attached)} == {CursorForm.NONE, CursorForm.STARTING_AFTER}


@pytest.mark.parametrize("cursor", ["abc", "-1", "1.5", "", "0x1", "%D9%A3", "1" * 30])
async def test_a_cursor_that_is_no_number_is_refused_by_name(replayed, cursor):
    _, url, _ = replayed
    answer = await fetch(f"{url}?stream=true&starting_after={cursor}")
    assert answer.status == 400
    assert (answer.error["code"], answer.error["param"]) == ("invalid_cursor", "starting_after")
    if cursor.isascii() and cursor:
        answer = await fetch(f"{url}?stream=true", headers={"Last-Event-ID": cursor})
        assert (answer.status, answer.error["param"]) == (400, "last_event_id")


async def test_past_the_end_of_an_ended_stream_there_is_nothing_and_no_error(replayed):
    _, url, first = replayed
    for after in (len(first.events) - 1, len(first.events), 10**17):
        answer = await fetch(f"{url}?stream=true&starting_after={after}")
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["Content-Type"].startswith("text/event-stream")


async def test_past_the_end_of_a_running_stream_a_reader_waits_for_what_comes_after_its_cursor(stage):
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    response_id = (await some(await client.responses.create(**job()), 2))[0]["response"]["id"]
    stream = await client.responses.retrieve(response_id, stream=True, starting_after=60)
    upstream.simulator.skip(60)
    assert numbers(await all_of(stream))[0] == 61


async def test_last_event_id_gives_other_clients_a_preamble_and_then_the_tail(replayed):
    _, url, first = replayed
    answer = await fetch(f"{url}?stream=true", headers={"Last-Event-ID": "40"})
    preamble, tail = split(answer.events)
    assert tail == first.events[41:]
    assert preamble == [event for event in first.events[:41] if event["type"].endswith(STRUCTURAL)]
    assert types(preamble)[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert b"\nid:" not in answer.body


async def test_with_a_preamble_an_end_that_is_past_is_an_end_all_the_same(replayed):
    """An accumulating client that is only told of the beginning would take the response for a running one."""
    _, url, first = replayed
    last = len(first.events) - 1
    for after in (last, last + 1, 10**17):
        answer = await fetch(f"{url}~{after}?stream=true")
        assert answer.events == [event for event in first.events if event["type"].endswith(STRUCTURAL)]
        assert answer.events[-1]["type"] == "response.completed"


async def test_starting_after_wins_over_last_event_id_and_gives_a_bare_tail(replayed):
    _, url, first = replayed
    answer = await fetch(f"{url}?stream=true&starting_after=50", headers={"Last-Event-ID": "40"})
    assert answer.events == first.events[51:]


async def test_a_suffix_of_the_id_is_a_cursor_in_every_place_that_takes_an_id(stage):
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    stream = await client.responses.create(**job())
    upstream.simulator.skip(2)
    before = await some(stream, 30)
    response_id = before[0]["response"]["id"]
    poll = await client.responses.with_raw_response.retrieve(f"{response_id}~29")
    token = poll.headers["x-gateway-continuation-token"]
    assert poll.parse().id == response_id
    assert token.startswith(f"{response_id}~")
    stream = await client.responses.retrieve(f"{response_id}~29", stream=True)
    upstream.simulator.skip(60)
    preamble, tail = split(await all_of(stream))
    assert numbers(before + tail) == list(range(len(before + tail)))
    assert set(types(preamble)) <= {event["type"] for event in before if event["type"].endswith(STRUCTURAL)}
    assert [item.content[0].text for item in (await client.responses.input_items.list(f"{response_id}~29")).data]
    following_on = {**ask(), "background": True, "previous_response_id": token}
    assert (await client.responses.create(**following_on)).previous_response_id == response_id
    sent = [seen.json() for seen in upstream.simulator.requests if seen.method == "POST"]
    assert sent[-1] == {**following_on, "previous_response_id": response_id}
    assert not any("~" in seen.path for seen in upstream.simulator.requests)
    forms = [fact.form for fact in gateway.facts.of(TokenRedeemed)]
    assert forms == [CursorForm.SUFFIX]


async def test_a_token_of_a_running_stream_names_its_tail(stage):
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    stream = await client.responses.create(**job())
    upstream.simulator.skip(2)
    events = await following(stream, 30)
    response_id = events[0]["response"]["id"]
    poll = await client.responses.with_raw_response.retrieve(response_id)
    _, _, after = poll.headers["x-gateway-continuation-token"].rpartition("~")
    assert int(after) >= 29
    upstream.simulator.skip(60)
    tail = numbers(await all_of(await client.responses.retrieve(response_id, stream=True, starting_after=int(after))))
    assert tail == list(range(int(after) + 1, tail[-1] + 1))
    await all_of(stream)
    poll = await client.responses.with_raw_response.retrieve(response_id)
    assert "x-gateway-continuation-token" not in poll.headers


async def test_a_client_that_accumulates_stays_whole_from_the_middle_on(stage):
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    stream = await client.responses.create(**job())
    upstream.simulator.skip(2)
    before = await some(stream, 40)
    response_id = before[0]["response"]["id"]
    upstream.simulator.skip(60)
    await gateway.facts.wait_for(Ended)
    async with client.responses.stream(response_id=response_id, extra_headers={"Last-Event-ID": "39"}) as helper:
        seen = [event async for event in helper]
        final = await helper.get_final_response()
    deltas = [event.delta for event in seen if event.type == "response.output_text.delta"]
    had = [event["delta"] for event in before if event["type"] == "response.output_text.delta"]
    assert "".join(had + deltas) == final.output_text


async def test_an_event_source_gets_ids_and_comes_back_with_them(stage):
    upstream, gateway = await stage(simulated=STILL)
    response_id = (await some(await gateway.client().responses.create(**job()), 2))[0]["response"]["id"]
    url = f"{gateway.url}/v1/responses/{response_id}?stream=true"
    upstream.simulator.skip(60)
    await gateway.facts.wait_for(Ended)
    whole = await fetch(url, headers=EVENT_SOURCE)
    ids = [int(line[4:]) for line in whole.body.split(b"\n") if line.startswith(b"id: ")]
    assert ids == numbers(whole.events) == list(range(len(ids)))
    back = await fetch(f"{url}&starting_after=3", headers={**EVENT_SOURCE, "Last-Event-ID": "40"})
    assert back.events == whole.events[41:]
    stop = await fetch(url, headers={**EVENT_SOURCE, "Last-Event-ID": str(ids[-1])})
    assert (stop.status, stop.body) == (204, b"")


async def test_an_event_source_is_stopped_after_a_nested_error_too(stage):
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    stream = await client.responses.create(**job())
    upstream.simulator.skip(2)
    response_id = (await following(stream, 20))[0]["response"]["id"]
    await client.responses.cancel(response_id)
    url = f"{gateway.url}/v1/responses/{response_id}?stream=true"
    whole = await fetch(url, headers=EVENT_SOURCE)
    assert whole.events[-1]["type"] == "error"
    last = whole.events[-1]["sequence_number"]
    assert (await fetch(url, headers={**EVENT_SOURCE, "Last-Event-ID": str(last)})).status == 204


async def test_the_error_after_a_preamble_does_not_move_the_cursor_back(stage):
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    stream = await client.responses.create(**job())
    upstream.simulator.skip(2)
    response_id = (await following(stream, 20))[0]["response"]["id"]
    await client.responses.cancel(response_id)
    tail = (await fetch(f"{gateway.url}/v1/responses/{response_id}?stream=true")).events[-1]["sequence_number"]
    answer = await fetch(f"{gateway.url}/v1/responses/{response_id}~{tail}?stream=true")
    assert answer.events[0]["type"] == "response.created"
    assert (answer.events[-1]["type"], answer.events[-1]["sequence_number"]) == ("error", tail)


async def test_readers_at_different_places_of_a_running_stream_all_get_the_rest(stage):
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    stream = await client.responses.create(**job())
    upstream.simulator.skip(2)
    response_id = (await following(stream, 20))[0]["response"]["id"]
    url = f"{gateway.url}/v1/responses/{response_id}?stream=true&starting_after="
    readers = [asyncio.create_task(fetch(f"{url}{after}")) for after in range(0, 60, 3)]
    for after in range(0, 60, 3):
        await gateway.facts.wait_for(Attached, lambda fact, after=after: fact.after == after)
    upstream.simulator.skip(60)
    heard = [numbers((await reader).events) for reader in readers]
    last = heard[0][-1]
    assert heard == [list(range(after + 1, last + 1)) for after in range(0, 60, 3)]
