"""A restart loses nothing acknowledged: stories with a real process, killed or told to stop."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
from cutting import Cutting, cutting
from openai import AsyncOpenAI
from processes import Process, eventually, serve
from running import PATIENCE_S, Running, Upstream
from stories import STILL, all_of, ask, fetch, job, live, numbers, some, types, until, until_error

from gateway.domain.facts import UpstreamPolled

Serve = Callable[..., Awaitable[Process]]
Simulate = Callable[..., Awaitable[Upstream]]
LONG_S = 3600.0


@pytest.fixture
def run(parts: AsyncExitStack, tmp_path: Path) -> Serve:
    """Start gateways on one SQLite file, one after the other."""

    async def start(upstream: Upstream, **settings: Any) -> Process:
        quick = {"poll_schedule_s": "0.05,0.1,0.2", "drain_delay_s": 0, "upstream_retry_max_s": 0.2}
        process = await serve(upstream.url, f"sqlite:///{tmp_path}/responses.db", **{**quick, **settings})
        parts.push_async_callback(process.close)
        return process

    return start


async def until_cut(stream: Any, *, kill: Process | None = None, at: int = 0) -> list[dict[str, Any]]:
    """Read until the line is lost; the gateway is killed at an event."""
    events: list[dict[str, Any]] = []
    try:
        async for event in stream:
            events.append(event.to_dict())
            if kill is not None and len(events) == at:
                await kill.kill()
    except openai.APIConnectionError:
        return events
    finally:
        await stream.close()
    raise AssertionError(f"the stream ended cleanly after {types(events)[-3:]}")


async def terminal(client: AsyncOpenAI, response_id: str) -> Any:
    """Poll as a user does."""
    return await eventually(
        lambda: client.responses.retrieve(response_id),
        lambda response: response.status not in ("queued", "in_progress"),
    )


async def story_of(process: Process, response_id: str) -> dict[str, Any]:
    """What the operator is shown of a response."""
    story: dict[str, Any] = (await fetch(f"{process.ops_url}/responses/{response_id}")).json
    return story


@pytest.mark.parametrize("at", [3, 20, 60])
async def test_a_stream_survives_kill_9_of_the_gateway_in_its_middle(simulate: Simulate, run: Serve, at: int) -> None:
    upstream = await simulate(**STILL)
    first = await run(upstream)
    stream = await first.client().responses.create(**job(delta_count=200))
    upstream.simulator.skip(2)  # half of its events come, and no more before it is killed
    before = await until_cut(stream, kill=first, at=at)

    upstream.simulator.skip(60)
    second = await run(upstream)
    last = before[-1]["sequence_number"]
    response_id = before[0]["response"]["id"]
    after = await all_of(await second.client().responses.retrieve(response_id, stream=True, starting_after=last))

    assert numbers(before + after) == await upstream.numbers_of(response_id)
    assert types(after)[-1] == "response.completed"


async def test_until_its_owner_comes_back_a_response_waits_and_says_so(simulate: Simulate, run: Serve) -> None:
    upstream = await simulate(speed=2.0)
    first = await run(upstream)
    created = await first.client().responses.create(**ask(), background=True)
    await first.kill()

    second = await run(upstream)
    assert (await story_of(second, created.id))["waits_for_owner"] is True
    await second.client().responses.retrieve(created.id)
    assert (await story_of(second, created.id))["waits_for_owner"] is False
    assert (await terminal(second.client(), created.id)).status == "completed"


async def test_the_pauses_between_polls_go_on_where_they_were(
    simulate: Simulate, gateway_for: Callable[..., Awaitable[Running]], tmp_path: Path
) -> None:
    upstream = await simulate(**STILL)
    settings = {"store": f"sqlite:///{tmp_path}/responses.db", "poll_schedule_s": (0.05, 0.05, 0.05, LONG_S)}
    first = await gateway_for(upstream.url, upstream_api_key="sk-gateway", **settings)
    created = await first.client().responses.create(**ask(), background=True)
    await until(lambda: len(first.facts.of(UpstreamPolled)) == 3)
    await first.gateway.stop()

    second = await gateway_for(upstream.url, upstream_api_key="sk-gateway", **settings)
    await second.facts.wait_for(UpstreamPolled)
    assert live(second, created.id).due - time.monotonic() > LONG_S / 2


async def test_with_a_key_of_its_own_the_gateway_takes_responses_up_alone(simulate: Simulate, run: Serve) -> None:
    upstream = await simulate(speed=10.0)
    first = await run(upstream, upstream_api_key="sk-gateway")
    created = await first.client("sk-alice").responses.create(**ask(), background=True)
    await first.kill()

    second = await run(upstream, upstream_api_key="sk-gateway")
    ended = await eventually(lambda: story_of(second, created.id), lambda story: story["ending"] is not None)
    assert ended["status"] == "completed"


async def test_a_foreground_stream_ends_with_the_nested_error_after_kill_9(simulate: Simulate, run: Serve) -> None:
    upstream = await simulate(**STILL)
    first = await run(upstream)
    stream = await first.client().responses.create(**ask(delta_count=200), stream=True)
    upstream.simulator.skip(1)
    before = await until_cut(stream, kill=first, at=10)

    second = await run(upstream)
    last = before[-1]["sequence_number"]
    stream = await second.client().responses.retrieve(before[0]["response"]["id"], stream=True, starting_after=last)
    after, error = await until_error(stream)

    assert error.code == "upstream_lost"
    assert numbers(before + after) == list(range(len(before + after)))


async def test_a_finished_response_is_replayed_by_the_next_process(simulate: Simulate, run: Serve) -> None:
    upstream = await simulate()
    first = await run(upstream)
    before = await all_of(await first.client().responses.create(**job()))
    response_id = before[0]["response"]["id"]
    await first.kill()
    upstream.simulator.forget(response_id)

    second = await run(upstream)
    assert await all_of(await second.client().responses.retrieve(response_id, stream=True)) == before
    assert (await second.client().responses.retrieve(response_id)).status == "completed"


@pytest.fixture
def losing(parts: AsyncExitStack) -> Callable[..., Awaitable[tuple[Cutting, "asyncio.Future[Any]"]]]:
    """Have the SDK send a create over a line that keeps its answer back; it sends it again when the line is cut."""

    async def start(process: Process, **body: Any) -> tuple[Cutting, "asyncio.Future[Any]"]:
        line = await cutting(parts, process.url, "held")
        client = AsyncOpenAI(api_key="sk-test", base_url=f"{line.url}/v1", max_retries=2, timeout=PATIENCE_S)
        parts.push_async_callback(client.close)
        return line, asyncio.ensure_future(client.responses.create(**body))

    return start


def posts(upstream: Upstream) -> int:
    return upstream.asked("POST", "/v1/responses")


@pytest.mark.parametrize("body", [{"background": True}, {}], ids=["background", "foreground"])
async def test_a_create_whose_answer_died_with_the_gateway_is_answered_by_the_next_one(
    simulate: Simulate, run: Serve, losing: Any, body: dict[str, Any]
) -> None:
    upstream = await simulate()
    first = await run(upstream)
    line, creating = await losing(first, **ask(), **body)
    await until(lambda: line.held)
    await first.kill()

    second = await run(upstream)
    line.target = second.url
    line.cut()
    made = await creating
    assert (await terminal(second.client(), made.id)).status == "completed"
    assert posts(upstream) == 1


async def test_a_background_stream_whose_beginning_was_lost_with_the_gateway_begins_again(
    simulate: Simulate, run: Serve, losing: Any
) -> None:
    upstream = await simulate(speed=4.0)
    first = await run(upstream)
    line, creating = await losing(first, **job())
    await until(lambda: line.held)
    await first.kill()

    second = await run(upstream)
    line.target = second.url
    line.cut()
    events = await all_of(await creating)
    assert numbers(events) == await upstream.numbers_of(events[0]["response"]["id"])
    assert posts(upstream) == 1


async def test_a_foreground_stream_whose_beginning_was_lost_with_the_gateway_is_what_there_was_and_an_error(
    simulate: Simulate, run: Serve, losing: Any
) -> None:
    upstream = await simulate(**STILL)
    first = await run(upstream)
    line, creating = await losing(first, **ask(), stream=True)
    await until(lambda: line.held)
    listed = await eventually(lambda: fetch(f"{first.ops_url}/responses"), lambda listed: listed.json["data"])
    upstream.simulator.skip(2)
    log = await eventually(
        lambda: fetch(f"{first.ops_url}/responses/{listed.json['data'][0]['key']}/events"),
        lambda log: len(log.events) > 9,
    )
    await first.kill()

    second = await run(upstream)
    line.target = second.url
    line.cut()
    events, error = await until_error(await creating)
    assert error.code == "upstream_lost"
    assert numbers(events)[: len(log.events)] == [event["number"] for event in log.events]
    assert posts(upstream) == 1


@pytest.mark.parametrize(
    "body", [{"background": True}, {"stream": True}, {}], ids=["background", "stream", "foreground"]
)
async def test_a_create_of_which_nobody_knows_what_came_is_not_sent_again_and_says_so(
    simulate: Simulate, run: Serve, losing: Any, body: dict[str, Any]
) -> None:
    upstream = await simulate(**STILL)
    first = await run(upstream)
    line, creating = await losing(first, **ask("late"), **body)
    await until(lambda: posts(upstream))
    await first.kill()

    second = await run(upstream)
    line.target = second.url
    line.cut()
    with pytest.raises(openai.APIStatusError) as unknown:
        await creating
    assert (unknown.value.status_code, unknown.value.code) == (502, "outcome_unknown")
    assert unknown.value.response.headers["x-should-retry"] == "false"
    assert posts(upstream) == 1


async def test_told_to_stop_it_finishes_foreground_streams_and_cuts_background_readers(
    simulate: Simulate, run: Serve
) -> None:
    upstream = await simulate(speed=4.0)
    process = await run(upstream, drain_s=60)
    foreground = await process.client().responses.create(**ask(), stream=True)
    background = await process.client().responses.create(**job())
    first = (await anext(aiter(background))).to_dict()
    process.tell_to_stop()

    cut = [first, *await until_cut(background)]
    assert types(await all_of(foreground))[-1] == "response.completed"
    assert await process.stopped() == 0

    later = await run(upstream)
    response_id, last = first["response"]["id"], cut[-1]["sequence_number"]
    rest = await all_of(await later.client().responses.retrieve(response_id, stream=True, starting_after=last))
    assert numbers(cut + rest) == await upstream.numbers_of(response_id)


async def test_a_foreground_stream_that_outlives_the_drain_ends_with_the_process(
    simulate: Simulate, run: Serve
) -> None:
    upstream = await simulate(speed=1.0)
    process = await run(upstream, drain_s=0.2)
    stream = await process.client().responses.create(**ask("stalls"), stream=True)
    await anext(aiter(stream))
    process.tell_to_stop()

    with pytest.raises(openai.APIError):
        await all_of(stream)
    assert await process.stopped() == 0


async def test_while_it_drains_new_work_is_refused_with_a_word_to_try_again(simulate: Simulate, run: Serve) -> None:
    upstream = await simulate(speed=1.0)
    process = await run(upstream, drain_s=60)
    stream = await process.client().responses.create(**ask(), stream=True)
    await anext(aiter(stream))
    process.tell_to_stop()

    await eventually(lambda: fetch(f"{process.ops_url}/readyz"), lambda answer: answer.status == 503)
    refused = await eventually(lambda: fetch(f"{process.url}/v1/models"), lambda answer: answer.status == 503)
    assert refused.error["code"] == "gateway_draining"
    assert types(await some(stream, 5))
