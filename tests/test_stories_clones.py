"""Servers that speak a part of this API, or contradict themselves: what comes of it is told, and nobody hangs."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from running import Running
from stories import Ahead, ask, fetch, numbers, types, until, until_error
from wire import STREAM_HEAD, Asked, ScriptedUpstream, body_of, framed, json_answer, scripted_upstream

from gateway.domain.facts import BecameStuck, Contradicted, Ended, NumbersSkipped
from gateway.domain.response import Ending, Status, Stuck

Json = dict[str, Any]
Script = Callable[[Asked], Awaitable[None]]
Clone = Callable[..., Awaitable[tuple[ScriptedUpstream, Running]]]

MISSING = json_answer({"error": {"message": "Not Found", "type": None, "param": None, "code": None}}, 404)
CREATED = {"type": "response.created", "sequence_number": 0, "response": {"id": "resp_1", "status": "in_progress"}}
DELTA = {"type": "response.output_text.delta", "sequence_number": 1, "delta": "Tide", "item_id": "msg_1"}
DONE = {"id": "resp_1", "status": "completed", "output": [], "usage": {"input_tokens": 3, "output_tokens": 5}}
COMPLETED = {"type": "response.completed", "sequence_number": 2, "response": DONE}
FAILED = {"type": "response.failed", "response": {"id": "resp_1", "status": "failed", "error": {"code": "boom"}}}
NESTED = {"type": "error", "error": {"type": "server_error", "code": "boom", "message": "Sorry.", "param": None}}
FLAT = {"type": "error", "code": "boom", "message": "Sorry.", "param": None}
MODES = [{"stream": True}, {"stream": True, "background": True}]


def numbered(*events: Json, begin: int = 0) -> list[Json]:
    return [{**event, "sequence_number": number} for number, event in enumerate(events, begin)]


@pytest.fixture
def clone(parts: Any, gateway_for: Any, store: str) -> Clone:
    """A gateway before a server that answers creates with these bytes, retrieves with those of `shows` in turn."""

    async def start(created: bytes, *shows: bytes, **settings: Any) -> tuple[ScriptedUpstream, Running]:
        left = list(shows)

        async def script(asked: Asked) -> None:
            await body_of(asked)
            if asked.start.startswith(b"POST"):
                await asked.send(created)
            else:
                await asked.send((left.pop(0) if len(left) > 1 else left[0]) if left else MISSING)

        upstream = await scripted_upstream(parts, script)
        return upstream, await gateway_for(upstream.url, store=store, **settings)

    return start


async def asked_twice(gateway: Running, body: Json) -> tuple[Any, bytes]:
    """The answer to a create, and the bytes of the replay of its log."""
    first = await fetch(f"{gateway.url}/v1/responses", "POST", body={**ask(), **body})
    replay = await fetch(f"{gateway.url}/v1/responses/resp_1?stream=true", parsed=False)
    return first, replay.body


def whats(gateway: Running) -> list[str]:
    """What was found that contradicts."""
    return [fact.what for fact in gateway.facts.of(Contradicted)]


# Numbers


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("given", "gaps"), [((1, 2, 3), []), ((7, 8, 9), []), ((0, 1, 2), []), ((0, 5, 9), [(0, 4), (5, 3)])]
)
async def test_numbers_that_ascend_are_kept_wherever_they_begin_and_whatever_they_leave_out(
    clone: Clone, given: tuple[int, ...], gaps: list[tuple[int, int]], mode: Json
) -> None:
    events = [
        {**one, "sequence_number": number} for one, number in zip((CREATED, DELTA, COMPLETED), given, strict=True)
    ]
    _, gateway = await clone(STREAM_HEAD + framed(*events))
    first, replay = await asked_twice(gateway, mode)
    assert first.body == replay == framed(*events)
    after = await fetch(f"{gateway.url}/v1/responses/resp_1?stream=true&starting_after={given[1]}")
    assert after.events == events[2:]
    assert [(fact.after, fact.missing) for fact in gateway.facts.of(NumbersSkipped)] == gaps
    assert whats(gateway) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("given", [(0, 0, 0, 1), (0, 1, 1, 2), (0, 1, 0, 1), (3, 2, 1, 0), (0, None, 1, None)])
async def test_numbers_that_repeat_restart_fall_or_come_and_go_are_replaced_and_no_event_is_lost(
    clone: Clone, given: tuple[int | None, ...], mode: Json
) -> None:
    others = (CREATED, DELTA, {**DELTA, "delta": " and boot"}, COMPLETED)
    events = [{**one, "sequence_number": number} for one, number in zip(others, given, strict=True)]
    events = [{name: value for name, value in event.items() if value is not None} for event in events]
    _, gateway = await clone(STREAM_HEAD + framed(*events))
    first, replay = await asked_twice(gateway, mode)
    assert first.body == replay
    assert numbers(first.events) == sorted(set(numbers(first.events)))
    unnumbered = [{**event, "sequence_number": None} for event in others]
    assert [{**event, "sequence_number": None} for event in first.events] == unnumbered
    assert whats(gateway) == ["own_numbers"]
    after = await fetch(f"{gateway.url}/v1/responses/resp_1?stream=true&starting_after={numbers(first.events)[1]}")
    assert after.events == first.events[2:]


# Events


@pytest.mark.parametrize("mode", MODES)
async def test_events_that_nobody_has_seen_before_pass_as_they_came_and_are_replayed(clone: Clone, mode: Json) -> None:
    news = {"type": "response.tide.turned", "height_m": 3.2, "response": "no object", "nested": {"type": "error"}}
    stream = framed(*numbered(CREATED, news, {"type": "", "x": 1}, {"kind": "no type", "type": "?"}, DELTA, COMPLETED))
    _, gateway = await clone(STREAM_HEAD + stream)
    first, replay = await asked_twice(gateway, mode)
    assert first.body == replay == stream
    ended = await gateway.facts.wait_for(Ended)
    assert (ended.response.status, ended.response.usage.output) == (Status.COMPLETED, 5)
    assert whats(gateway) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("error", [NESTED, FLAT], ids=["nested", "flat"])
async def test_an_error_event_that_is_followed_by_the_failure_is_one_failure(
    clone: Clone, error: Json, mode: Json
) -> None:
    stream = framed(*numbered(CREATED, DELTA, error, FAILED))
    _, gateway = await clone(STREAM_HEAD + stream)
    first, replay = await asked_twice(gateway, mode)
    assert first.body == replay == stream
    ended = await gateway.facts.wait_for(Ended)
    assert (ended.response.status, ended.response.error_code) == (Status.FAILED, "boom")
    assert len(gateway.facts.of(Ended)) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("error", [NESTED, FLAT], ids=["nested", "flat"])
async def test_an_error_event_that_nothing_follows_is_a_failure_also_where_nobody_can_be_asked_about_it(
    clone: Clone, error: Json, mode: Json
) -> None:
    stream = framed(*numbered(CREATED, DELTA, error))
    _, gateway = await clone(STREAM_HEAD + stream)
    first, replay = await asked_twice(gateway, mode)
    assert first.body == replay == stream
    ended = await gateway.facts.wait_for(Ended)
    assert (ended.response.status, ended.response.ending) == (Status.FAILED, Ending.TERMINAL)
    assert (ended.response.error_code, ended.response.error_message) == ("boom", "Sorry.")


@pytest.mark.parametrize("error", [NESTED, FLAT], ids=["nested", "flat"])
async def test_after_an_error_event_what_upstream_shows_of_a_background_response_is_its_end(
    clone: Clone, error: Json
) -> None:
    """The stream had trouble, the response had not."""
    stream = framed(*numbered(CREATED, DELTA, error))
    _, gateway = await clone(STREAM_HEAD + stream, json_answer(DONE))
    first = await fetch(f"{gateway.url}/v1/responses", "POST", body={**ask(), "stream": True, "background": True})
    assert types(first.events) == ["response.created", "response.output_text.delta", "error", "response.completed"]
    ended = await gateway.facts.wait_for(Ended)
    assert (ended.response.status, ended.response.synthesised) == (Status.COMPLETED, True)


@pytest.mark.parametrize("mode", MODES)
async def test_a_response_that_only_its_last_event_shows_has_its_id_and_end_from_there(
    clone: Clone, mode: Json
) -> None:
    bare = [{"type": "response.created"}, {"type": "response.in_progress", "response": None}, DELTA, COMPLETED]
    stream = framed(*numbered(*bare))
    upstream, gateway = await clone(STREAM_HEAD + stream)
    first, replay = await asked_twice(gateway, mode)
    assert first.body == replay == stream
    ended = await gateway.facts.wait_for(Ended)
    assert (ended.response.response_id, ended.response.status) == ("resp_1", Status.COMPLETED)
    assert ended.response.usage.output == 5
    assert len(upstream.asked) == 1


# Statuses


async def test_a_status_that_moves_backwards_in_a_stream_is_noted_and_the_events_pass(clone: Clone) -> None:
    back = {"type": "response.queued", "response": {"id": "resp_1", "status": "queued"}}
    stream = framed(*numbered(CREATED, back, DELTA, COMPLETED))
    _, gateway = await clone(STREAM_HEAD + stream)
    first, replay = await asked_twice(gateway, MODES[1])
    assert first.body == replay == stream
    assert [(fact.what, fact.detail) for fact in gateway.facts.of(Contradicted)] == [
        ("backwards", "in_progress -> queued")
    ]
    assert [fact.response.status for fact in gateway.facts.of(Ended)] == [Status.COMPLETED]


async def test_a_status_that_moves_backwards_in_polls_is_noted_and_the_end_comes_once(clone: Clone) -> None:
    shown = [
        json_answer({**DONE, "status": status}) for status in ("in_progress", "queued", "completed", "in_progress")
    ]
    _, gateway = await clone(json_answer({**DONE, "status": "queued"}), *shown)
    await fetch(f"{gateway.url}/v1/responses", "POST", body={**ask(), "background": True})
    ended = await gateway.facts.wait_for(Ended)
    assert ended.response.status is Status.COMPLETED
    assert whats(gateway) == ["backwards"]
    url = f"{gateway.url}/v1/responses/resp_1"
    assert (await fetch(f"{url}?include[]=x")).json["status"] == "in_progress", "upstream's word, as it was asked"
    assert (await fetch(url)).json["status"] == "completed"
    assert whats(gateway) == ["backwards", "after_end"]
    assert len(gateway.facts.of(Ended)) == 1


# Servers that run at once what they say runs in the background, and that keep nothing


async def test_a_clone_that_says_background_and_answers_with_the_end_is_done_with_its_answer(clone: Clone) -> None:
    upstream, gateway = await clone(json_answer({**DONE, "background": True}))
    url = f"{gateway.url}/v1/responses"
    made = await fetch(url, "POST", body={**ask(), "background": True})
    assert (made.json["background"], made.json["status"]) == (True, "completed")
    assert "x-gateway-continuation-token" not in made.headers
    assert [fact.response.status for fact in gateway.facts.of(Ended)] == [Status.COMPLETED]
    for _ in range(3):
        assert (await fetch(f"{url}/resp_1")).body == made.body
    assert len(upstream.asked) == 1


async def test_a_clone_that_streams_at_once_what_it_says_is_in_the_background_can_be_resumed_here(clone: Clone) -> None:
    created = {**CREATED, "response": {"id": "resp_1", "status": "in_progress", "background": True}}
    stream = framed(*numbered(created, DELTA, COMPLETED))
    upstream, gateway = await clone(STREAM_HEAD + stream)
    first, replay = await asked_twice(gateway, MODES[1])
    assert first.body == replay == stream
    assert (await fetch(f"{gateway.url}/v1/responses/resp_1")).json == DONE
    assert len(upstream.asked) == 1


async def test_of_a_clone_that_keeps_nothing_a_cut_stream_is_lost_and_says_so(clone: Clone) -> None:
    _, gateway = await clone(STREAM_HEAD + framed(*numbered(CREATED, DELTA)))
    events, error = await until_error(await gateway.client().responses.create(**ask(), stream=True, background=True))
    assert numbers(events) == [0, 1]
    assert error.code == "response_lost"
    ended = await gateway.facts.wait_for(Ended)
    assert (ended.response.ending, ended.response.status) == (Ending.LOST, Status.IN_PROGRESS)


async def test_of_a_clone_that_keeps_nothing_what_it_queued_is_lost_after_some_polls(clone: Clone) -> None:
    _, gateway = await clone(json_answer({"id": "resp_1", "status": "queued", "background": True}))
    await fetch(f"{gateway.url}/v1/responses", "POST", body={**ask(), "background": True})
    ended = await gateway.facts.wait_for(Ended)
    assert (ended.response.ending, ended.response.error_code) == (Ending.LOST, "response_lost")
    assert (await fetch(f"{gateway.url}/v1/responses/resp_1")).body == MISSING.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_store_that_never_answers_holds_nobody_up_for_longer_than_the_settings_say(
    parts: Any, gateway_for: Any, store: str, stream: bool
) -> None:
    async def script(asked: Asked) -> None:
        await body_of(asked)
        if not asked.start.startswith(b"POST"):
            await asked.rest()  # until the gateway gives up
        elif stream:
            await asked.send(STREAM_HEAD + framed(*numbered(CREATED, DELTA)))
        else:
            await asked.send(json_answer({"id": "resp_1", "status": "queued"}))

    upstream, clock = await scripted_upstream(parts, script), Ahead()
    settings = {"poll_timeout_s": 0.1, "patience_s": 0.5, "give_up_after_s": 1000}
    gateway = await gateway_for(upstream.url, store=store, clock=clock, **settings)
    url = f"{gateway.url}/v1/responses"
    creating = asyncio.ensure_future(fetch(url, "POST", body={**ask(), "background": True, "stream": stream}))
    if not stream:
        assert (await creating).json["status"] == "queued"
        await until(lambda: len(upstream.asked) > 1)
        assert (await fetch(f"{url}/resp_1")).status in (200, 502, 504)
    assert (await gateway.facts.wait_for(BecameStuck)).response.stuck is Stuck.UPSTREAM_UNREACHABLE
    clock.by_s = 1001
    assert (await gateway.facts.wait_for(Ended)).response.ending is Ending.ABANDONED
    if stream:
        events = (await creating).events
        assert types(events) == ["response.created", "response.output_text.delta", "error"]
        assert events[-1]["error"]["code"] == "response_abandoned"
