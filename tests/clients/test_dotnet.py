"""Agent Framework and Microsoft.Extensions.AI for .NET, by their behaviour on the wire (see `dotnet`)."""

import asyncio
import json
import time

import pytest
from dotnet import NETWORK_TIMEOUT_S, Dotnet, Failed
from stories import ask, job, until
from wire import scripted_upstream

from gateway.config import Settings
from gateway.domain import sse
from gateway.domain.facts import Created, Ended

RUNNING = {"speed": 20.0, "clock": time.time}
BACKGROUND = {**ask(), "background": True}


def client_of(side, **options):
    return Dotnet(side.base_url, **options)


async def some(updates, count):
    """The first updates; then the application goes away."""
    seen = []
    async for update in updates:
        seen.append(update)
        if len(seen) == count:
            break
    await updates.aclose()
    return seen


async def test_a_response_is_polled_while_its_answers_say_background(sides):
    """The library makes tokens only of answers whose body has `background: true`."""
    both = await sides(simulated=RUNNING)
    for side in (both.direct, both.through):
        client = client_of(side)
        response, statuses = await client.ask(**BACKGROUND), []
        while response["status"] in ("queued", "in_progress"):
            assert response["background"] is True
            response = await client.poll(json.dumps({"responseId": response["id"]}).encode())
            statuses.append(response["status"])
        assert statuses[-1] == "completed"
        assert response["output"]


async def test_a_token_of_any_update_goes_on_exactly_after_it(sides):
    both = await sides()
    runs = []
    for side in (both.direct, both.through):
        client, updates = client_of(side), client_of(side).stream(**BACKGROUND)
        first = await some(updates, 2)
        side.later()
        whole = first + [update async for update in client.resume(first[-1].token)]
        for at in range(0, len(whole), 7):
            tail = [update async for update in client.resume(whole[at].token)]
            assert tail == whole[at + 1 :]
        runs.append(whole)
    assert runs[1] == runs[0]
    assert runs[1][-1].type == "response.completed"


async def test_a_token_is_good_after_upstreams_own_window(sides):
    async def resumed(side):
        client = client_of(side)
        updates = await some(client.stream(**{**ask("slow"), "background": True}), 2)
        side.later(400)
        return [update.event["sequence_number"] async for update in client.resume(updates[-1].token)]

    both = await sides()
    with pytest.raises(Failed, match="more than 5 minutes old"):
        await resumed(both.direct)
    numbers = await resumed(both.through)
    assert numbers == list(range(2, 2 + len(numbers)))


async def test_a_token_taken_in_a_long_silence_loses_and_repeats_nothing(sides):
    """The event that fills the silence has the number of the last real one: the library counts it like any other."""
    through = (await sides(heartbeat_s=0.05, keepalive_s=0.05)).through
    client = client_of(through)
    before = await some(client.stream(**BACKGROUND), 5)
    through.later()
    after = [update async for update in client.resume(before[-1].token)]
    assert [update.type for update in before] == ["response.created", "response.queued"] + ["keepalive"] * 3
    assert after[0].event["sequence_number"] == 2
    assert [update.event["sequence_number"] for update in after] == list(range(2, 2 + len(after)))


async def test_a_token_after_an_end_that_the_gateway_made_has_a_number_too(sides):
    """Upstream breaks off and does not stream on: the end is made of the final object, at the next number."""
    through = (await sides()).through
    client = client_of(through)
    updates = client.stream(**{**ask("refuses_resume"), "background": True})
    first = await some(updates, 2)
    through.later()
    rest = [update async for update in client.resume(first[-1].token)]
    numbers = [update.event["sequence_number"] for update in first + rest]
    assert rest[-1].type == "response.completed"
    assert numbers == list(range(len(numbers)))
    assert [update async for update in client.resume(rest[-1].token)] == []


async def test_the_error_that_ends_a_cancelled_stream_has_the_readers_last_number(sides):
    through = (await sides()).through
    client = client_of(through)
    first = await some(client.stream(**{**ask("stuck"), "background": True}), 2)
    await through.gateway.client().responses.cancel(first[0].event["response"]["id"])
    with pytest.raises(Failed) as ended:
        await some(client.resume(first[-1].token), 1)
    error = json.loads(str(ended.value))
    assert error["sequence_number"] == first[-1].event["sequence_number"]
    assert error["error"]["code"] == "response_cancelled"


async def test_events_of_unknown_types_count_as_any_other(parts, gateway_for):
    response = {"id": "resp_1", "status": "in_progress", "background": True}
    kinds = [
        "response.created",
        "response.in_progress",
        "response.hologram.delta",
        "weather.report",
        "response.completed",
    ]
    events = [{"type": kind, "sequence_number": at} for at, kind in enumerate(kinds)]
    events[0]["response"] = response
    events[-1]["response"] = {**response, "status": "completed"}
    body = b"".join(sse.encode(event["type"], json.dumps(event).encode()) for event in events)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(body)

    async def script(asked):
        await asked.send(head + body)

    gateway = await gateway_for((await scripted_upstream(parts, script)).url)
    client = Dotnet(f"{gateway.url}/v1")
    whole = [update async for update in client.stream(**BACKGROUND)]
    assert [update.event for update in whole] == events
    for at, update in enumerate(whole):
        assert [later.event async for later in client.resume(update.token)] == events[at + 1 :]


async def test_events_that_upstream_does_not_number_get_numbers_to_go_on_from(sides):
    """The library takes a missing number for 0, and would be sent back to the beginning."""
    through = (await sides()).through
    client = client_of(through)
    first = await some(client.stream(**{**ask("no_numbers"), "background": True}), 2)
    through.later()
    rest = [update async for update in client.resume(first[-1].token)]
    assert [update.event["sequence_number"] for update in first + rest] == list(range(len(first + rest)))
    assert rest[-1].type == "response.completed"


async def test_a_line_that_breaks_upstream_is_no_matter_here(sides):
    both = await sides(simulated=RUNNING)
    with pytest.raises(Failed, match="prematurely"):
        await some(client_of(both.direct).stream(**{**ask("drops"), "background": True}), 100)
    whole = [update async for update in client_of(both.through).stream(**{**ask("drops"), "background": True})]
    assert whole[-1].type == "response.completed"


async def test_its_retries_of_what_upstream_refuses_make_one_response(sides):
    both = await sides()
    for side in (both.direct, both.through):
        client = client_of(side)
        await client.ask(**{**ask("rate_limited"), "background": True})
        assert len(client.tries) == side.upstream.asked("POST", "/responses") == 3
    assert len(both.through.gateway.facts.of(Created)) == 1


async def test_equal_creates_without_a_mark_are_two_responses(sides):
    """What it sends again after a timeout looks like a request that is meant: nothing is guessed."""
    through = (await sides()).through
    client = client_of(through)
    one, other = await client.ask(**BACKGROUND), await client.ask(**BACKGROUND)
    assert one["id"] != other["id"]
    assert all(seen.header("x-stainless-retry-count") is None for seen in through.upstream.simulator.requests)


async def test_a_create_that_upstream_answers_too_late_is_sent_again_and_runs_as_often(sides):
    """Upstream alone has it so as well; a background create is answered at once, and cures it."""
    both = await sides()

    async def impatient(side):
        client = client_of(side, network_timeout_s=1)
        with pytest.raises(Failed, match="NetworkTimeout"):
            await client.ask(**ask("stuck"))
        assert len(client.tries) == 4
        # On a busy machine one of them may not have got as far as upstream.
        assert 2 <= side.upstream.asked("POST", "/responses") <= 4
        assert (await Dotnet(side.base_url).ask(**BACKGROUND))["status"] == "queued"

    await asyncio.gather(impatient(both.direct), impatient(both.through))


async def test_a_stream_that_is_silent_for_longer_than_its_limit_lives_here(sides):
    both = await sides(heartbeat_s=0.1)
    here = client_of(both.through, network_timeout_s=5).stream(**job())
    there = client_of(both.direct, network_timeout_s=5).stream(**job())
    for updates in (here, there):
        assert [(await anext(updates)).type for _ in range(2)] == ["response.created", "response.queued"]
    waiting = asyncio.ensure_future(anext(here))
    with pytest.raises(Failed, match="NetworkTimeout"):
        await anext(there)
    # So long this one has been silent, too.
    both.through.later()
    assert (await waiting).type == "response.in_progress"
    assert [update.type async for update in here][-1] == "response.completed"


def test_by_default_nothing_is_held_for_as_long_as_its_limit():
    settings = Settings()
    assert settings.prefer_wait_max_s < NETWORK_TIMEOUT_S
    assert settings.heartbeat_s < NETWORK_TIMEOUT_S


async def test_an_error_is_not_sent_again_where_it_is_final(sides):
    both = await sides()
    for side in (both.direct, both.through):
        client = client_of(side)
        with pytest.raises(Failed, match="HTTP 400"):
            await client.ask(**ask("rejected"))
        with pytest.raises(Failed, match="HTTP 404"):
            await client.poll(b'{"responseId": "resp_0000"}')
        assert len(client.tries) == 2


async def test_a_client_that_goes_away_stops_nothing_and_every_end_is_counted_once(sides):
    through = (await sides(simulated=RUNNING)).through
    client = client_of(through)
    for _ in range(3):
        await some(client.stream(**BACKGROUND), 1)
    await until(lambda: len(through.gateway.facts.of(Ended)) == 3)
    assert len({fact.response.response_id for fact in through.gateway.facts.of(Ended)}) == 3
