"""OpenAI's Python SDK, blocking and async: all that upstream gives it comes through, and what upstream lacks too."""

import json
import time
from contextlib import AsyncExitStack

import httpx2
import openai
import pytest
from pydantic import BaseModel
from sdk import connected
from stories import ask, job, types, until

from gateway.domain.facts import Created, Detached, Ended

KEY = "sk-test"
# The metadata of a create body asks the simulator for a failure at every second request, and to come back at once.
RUNNING = {"clock": time.time, "speed": 20.0}
AGAIN_AT_ONCE = {"retry_after_s": 0.01}


class Tide(BaseModel):
    """What a structured answer is parsed into."""

    brought: str
    boats: int


@pytest.fixture(params=["blocking", "async"])
async def client_of(request):
    """Make a client of a side; closed after the test."""
    async with AsyncExitStack() as stack:

        async def make(side, **options):
            named = {"api_key": KEY, "base_url": side.base_url, **options}
            return await stack.enter_async_context(connected(request.param, **named))

        yield make


def plain(found):
    """What the SDK gives, as values to compare."""
    return found.to_dict(warnings=False) if hasattr(found, "to_dict") else found


async def on_both(sides, client_of, scene, **options):
    """Play a scene with a client of each side; both have the same outcome, which is returned."""
    outcomes = [await scene(await client_of(side, **options), side) for side in (sides.direct, sides.through)]
    assert outcomes[1] == outcomes[0]
    return outcomes[1]


async def refusal(sdk, method, *arguments, **named):
    """How a call is refused, as the application sees it."""
    with pytest.raises(openai.APIStatusError) as refused:
        await sdk(method, *arguments, **named)
    error = refused.value
    return type(error).__name__, error.status_code, error.body, error.message


@pytest.mark.parametrize("tracking", ["poll", "stream"])
async def test_the_life_of_a_polled_response_is_the_same(sides, client_of, tracking):
    async def scene(sdk, side):
        created = await sdk("responses.create", **ask(), background=True)
        side.later(1)
        while (running := await sdk("responses.retrieve", created.id)).status == "queued":
            pass
        side.later(60)
        while (done := await sdk("responses.retrieve", created.id)).status != "completed":
            pass
        items = await sdk("responses.input_items.list", created.id, order="asc", limit=1)
        again = await sdk("responses.retrieve", created.id, include=["message.output_text.logprobs"])
        gone = await sdk("responses.delete", created.id)
        with pytest.raises(openai.NotFoundError):
            await sdk("responses.retrieve", created.id)
        assert (created.status, running.status, gone) == ("queued", "in_progress", None)
        return list(map(plain, (created, running, done, items, again)))

    await on_both(await sides(background_tracking=tracking), client_of, scene)


@pytest.mark.parametrize("tracking", ["poll", "stream"])
async def test_a_cancel_is_the_same_at_any_time(sides, client_of, tracking):
    async def scene(sdk, side):
        stuck = await sdk("responses.create", **ask("stuck"), background=True)
        first = await sdk("responses.cancel", stuck.id)
        second = await sdk("responses.cancel", stuck.id)
        shown = await sdk("responses.retrieve", stuck.id)
        foreground = await sdk("responses.create", **ask(duration_s=0, queue_s=0))
        assert {first.status, second.status, shown.status} == {"cancelled"}
        return [*map(plain, (first, second, shown)), await refusal(sdk, "responses.cancel", foreground.id)]

    await on_both(await sides(background_tracking=tracking), client_of, scene)


@pytest.mark.parametrize("background", [True, False])
async def test_a_stream_has_the_same_events(sides, client_of, background):
    async def scene(sdk, side):
        stream = await sdk("responses.create", **ask(), stream=True, background=background)
        first = await sdk.each(stream, 2)
        side.later()
        return list(map(plain, first + await sdk.each(stream)))

    events = await on_both(await sides(), client_of, scene)
    assert types(events)[-1] == "response.completed"


async def test_a_stream_is_resumed_from_any_event_on_as_upstream_does_it(sides, client_of):
    async def scene(sdk, side):
        stream = await sdk("responses.create", **job())
        side.later(2)
        before = await sdk.each(stream, 20)
        await sdk.run(stream.close)
        side.later()
        tails = []
        for after in (19, 0, 50):
            resumed = await sdk("responses.retrieve", before[0].response.id, stream=True, starting_after=after)
            tails.append(list(map(plain, await sdk.each(resumed))))
        whole = await sdk.each(await sdk("responses.retrieve", before[0].response.id, stream=True))
        assert list(map(plain, before)) + tails[0] == list(map(plain, whole))
        return [list(map(plain, before)), *tails]

    await on_both(await sides(), client_of, scene)


async def test_upstream_stops_streaming_after_five_minutes_and_the_gateway_does_not(sides, client_of):
    async def resumed(side):
        sdk = await client_of(side)
        stream = await sdk("responses.create", **job("long"))
        side.later(200)
        before = await sdk.each(stream, 20)
        await sdk.run(stream.close)
        side.later(200)
        stream = await sdk("responses.retrieve", before[0].response.id, stream=True, starting_after=19)
        side.later(3000)
        return before + await sdk.each(stream)

    both = await sides()
    with pytest.raises(openai.BadRequestError, match="more than 5 minutes old"):
        await resumed(both.direct)
    events = await resumed(both.through)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"


async def test_a_foreground_stream_can_be_resumed_here_only(sides, client_of):
    async def resumed(side):
        sdk = await client_of(side)
        stream = await sdk("responses.create", **ask(), stream=True)
        side.later(2)
        before = await sdk.each(stream, 20)
        await sdk.run(stream.close)
        if side.gateway:
            await side.gateway.facts.wait_for(Detached)
        else:
            await until(lambda: not side.upstream.simulator.connections())
        stream = await sdk("responses.retrieve", before[0].response.id, stream=True, starting_after=19)
        side.later()
        return before + await sdk.each(stream)

    both = await sides(linger_s=600)
    with pytest.raises(openai.NotFoundError):
        await resumed(both.direct)
    events = await resumed(both.through)
    assert [event.sequence_number for event in events] == list(range(len(events)))


@pytest.mark.parametrize("after", [{}, {"starting_after": 25}], ids=["from the start", "after 25"])
async def test_the_stream_helper_takes_a_response_up_by_its_id(sides, client_of, after):
    """It asks for the whole stream whatever its cursor, since its accumulator has to see the beginning."""

    async def scene(sdk, side):
        stream = await sdk("responses.create", **job())
        created = (await sdk.each(stream, 1))[0].response
        await sdk.run(stream.close)
        side.later()
        async with sdk.opened(sdk.client.responses.stream(response_id=created.id, **after)) as helper:
            events = await sdk.each(helper)
            final = await sdk.run(helper.get_final_response)
        attached = [seen.path for seen in side.upstream.simulator.asked(created.id, "GET")]
        assert side.gateway or attached == [f"/v1/responses/{created.id}?stream=true"]
        assert min(event.sequence_number for event in events) == (26 if after else 0)
        return list(map(plain, events)), plain(final), final.output_text

    await on_both(await sides(), client_of, scene)


@pytest.mark.parametrize("scenario", ["normal", "tool"])
async def test_the_stream_helper_goes_on_from_any_event_with_last_event_id(sides, client_of, scenario):
    """It filters by itself where it is given `starting_after`; with this it is sent no more than it needs."""
    through = (await sides(simulated=RUNNING)).through
    sdk = await client_of(through)
    tools = [{"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}]
    whole = await sdk.each(await sdk("responses.create", **job(scenario), tools=tools))

    async def helped(**after):
        async with sdk.opened(sdk.client.responses.stream(response_id=whole[0].response.id, **after)) as helper:
            numbers = [event.sequence_number for event in await sdk.each(helper)]
            return numbers, plain(await sdk.run(helper.get_final_response))

    _, expected = await helped()
    for number in sorted({*range(0, len(whole), 5), *range(len(whole) - 4, len(whole))}):
        numbers, final = await helped(extra_headers={"Last-Event-ID": str(number)})
        assert [one for one in numbers if one > number] == list(range(number + 1, len(whole)))
        assert final == expected


async def test_the_stream_helper_creates_and_parses(sides, client_of):
    async def scene(sdk, side):
        create = {**ask(), "background": True, "text_format": Tide}
        async with sdk.opened(sdk.client.responses.stream(**create)) as helper:
            first = await sdk.each(helper, 2)
            side.later()
            events = first + await sdk.each(helper)
            final = await sdk.run(helper.get_final_response)
        assert isinstance(final.output_parsed, Tide)
        return [event.type for event in events], final.output_parsed, final.output_text

    await on_both(await sides(), client_of, scene)


async def test_parse_gives_the_same_values(sides, client_of):
    async def scene(sdk, side):
        parsed = await sdk("responses.parse", **ask(queue_s=0, duration_s=0), text_format=Tide)
        assert isinstance(parsed.output_parsed, Tide)
        return parsed.output_parsed, plain(parsed)

    await on_both(await sides(), client_of, scene)


async def test_parse_in_the_background_gives_a_value_only_where_the_create_can_wait(sides, client_of):
    both = await sides(simulated=RUNNING)
    in_background = {**ask(), "background": True, "text_format": Tide, "extra_headers": {"Prefer": "wait=60"}}
    assert (await (await client_of(both.direct))("responses.parse", **in_background)).output_parsed is None
    assert isinstance((await (await client_of(both.through))("responses.parse", **in_background)).output_parsed, Tide)


async def test_raw_responses_have_upstreams_headers_and_body(sides, client_of):
    async def scene(sdk, side):
        created = await sdk("responses.with_raw_response.create", **ask(), background=True)
        shown = await sdk("responses.with_raw_response.retrieve", created.parse().id)
        stream = await sdk("responses.with_raw_response.create", **ask(), stream=True)
        side.later()
        events = await sdk.each(stream.parse())
        for answer in (created, shown, stream):
            assert answer.headers["x-request-id"].startswith("req_")
            assert answer.http_response.status_code == 200
        assert created.parse()._request_id == created.headers["x-request-id"]
        kept = ("openai-organization", "openai-version", "x-ratelimit-remaining-tokens", "content-type")
        headers = [{name: answer.headers.get(name) for name in kept} for answer in (created, shown, stream)]
        return [plain(created.parse()), plain(shown.parse()), list(map(plain, events)), *headers[:1], *headers[2:]]

    await on_both(await sides(), client_of, scene)


async def test_streamed_raw_responses_have_upstreams_bytes(sides, client_of):
    async def scene(sdk, side):
        created = await sdk("responses.create", **ask(), background=True)
        side.later()
        streaming = sdk.client.responses.with_streaming_response
        async with sdk.opened(streaming.retrieve(created.id, include=["message.output_text.logprobs"])) as answer:
            whole = await sdk.run(answer.read)
        async with sdk.opened(streaming.create(**ask(), stream=True)) as answer:
            side.later()
            lines = await sdk.each(answer.iter_lines())
        return whole, lines

    whole, lines = await on_both(await sides(), client_of, scene)
    assert json.loads(whole)["status"] == "completed"
    assert "event: response.completed" in lines


async def test_errors_are_upstreams_own(sides, client_of):
    async def scene(sdk, side):
        foreground = await sdk("responses.create", **ask(queue_s=0, duration_s=0))
        polled = await sdk("responses.create", **ask(), background=True)
        missing = "resp_0000"
        return [
            await refusal(sdk, "responses.create", **ask("rejected")),
            await refusal(sdk, "responses.create", **ask("detail_error"), background=True),
            await refusal(sdk, "responses.create", **ask("bad_gateway"), stream=True),
            await refusal(sdk, "responses.create", model="gpt-5.2"),
            await refusal(sdk, "responses.create", **ask(), previous_response_id=missing),
            await refusal(sdk, "responses.retrieve", missing),
            await refusal(sdk, "responses.retrieve", missing, stream=True, starting_after=3),
            await refusal(sdk, "responses.cancel", missing),
            await refusal(sdk, "responses.delete", missing),
            await refusal(sdk, "responses.input_items.list", missing),
            await refusal(sdk, "responses.retrieve", foreground.id, stream=True),
            await refusal(sdk, "responses.retrieve", polled.id, stream=True),
        ]

    await on_both(await sides(), client_of, scene)


async def test_tracked_by_its_stream_a_create_is_refused_as_upstream_refuses_it(sides, client_of):
    async def scene(sdk, side):
        bodies = [ask("rejected"), ask("detail_error"), ask("refuses_stream"), {"model": "gpt-5.2"}]
        refused = [await refusal(sdk, "responses.create", **body, background=True) for body in bodies[:2]]
        made = await sdk("responses.create", **bodies[2], background=True)
        return [*refused, plain(made), await refusal(sdk, "responses.create", **bodies[3], background=True)]

    await on_both(await sides(background_tracking="stream"), client_of, scene)


async def test_the_sdk_sends_again_what_upstream_refuses_for_now(sides, client_of):
    async def scene(sdk, side):
        created = await sdk("responses.create", **ask("rate_limited", **AGAIN_AT_ONCE), background=True)
        tries = [seen.header("x-stainless-retry-count") for seen in side.upstream.simulator.asked("/responses", "POST")]
        assert tries == ["0", "1", "2"]
        return plain(created)

    both = await sides()
    await on_both(both, client_of, scene, max_retries=2)
    assert len(both.through.gateway.facts.of(Created)) == 1


async def test_the_sdk_polls_on_through_server_errors(sides, client_of):
    async def scene(sdk, side):
        created = await sdk("responses.create", **ask("flaky"), background=True)
        side.later()
        while (done := await sdk("responses.retrieve", created.id)).status != "completed":
            pass
        return plain(done)

    await on_both(await sides(), client_of, scene, max_retries=2)


@pytest.mark.parametrize("scenario", ["drops", "drops_within", "drops_every"])
async def test_a_line_that_breaks_upstream_is_no_matter_here(sides, client_of, scenario):
    async def read(side):
        sdk = await client_of(side)
        stream = await sdk("responses.create", **job(scenario))
        side.later()
        return [event.sequence_number for event in await sdk.each(stream)]

    both = await sides()
    with pytest.raises(openai.APIConnectionError):
        await read(both.direct)
    got = await read(both.through)
    assert got == list(range(got[-1] + 1))
    assert len(both.through.gateway.facts.of(Ended)) == 1


async def test_a_stream_that_upstream_closes_early_looks_whole_there_and_is_whole_here(sides, client_of):
    async def read(side):
        sdk = await client_of(side)
        stream = await sdk("responses.create", **job("closes"))
        side.later()
        return [event.type for event in await sdk.each(stream)]

    both = await sides()
    assert (await read(both.direct))[-1] == "response.reasoning_summary_text.delta"
    assert (await read(both.through))[-1] == "response.completed"


@pytest.mark.parametrize("scenario", ["drops", "closes"])
async def test_a_foreground_stream_that_upstream_cuts_ends_with_an_error_that_says_so(sides, client_of, scenario):
    through = (await sides()).through
    sdk = await client_of(through)
    stream = await sdk("responses.create", **ask(scenario), stream=True)
    through.later()
    with pytest.raises(openai.APIError, match="stream broke") as raised:
        await sdk.each(stream)
    assert raised.value.code == "upstream_lost"
    assert not isinstance(raised.value, openai.APIConnectionError)
    async with sdk.opened(sdk.client.responses.stream(**ask(scenario))) as helper:
        through.later()
        with pytest.raises(openai.APIError, match="stream broke"):
            await sdk.each(helper)


@pytest.mark.parametrize("scenario", ["fails", "rate_limited_midstream"])
async def test_a_response_that_fails_raises_with_upstreams_words(sides, client_of, scenario):
    async def scene(sdk, side):
        stream = await sdk("responses.create", **job(scenario))
        response = (await sdk.each(stream, 1))[0].response
        side.later()
        with pytest.raises(openai.APIError) as raised:
            await sdk.each(stream)
        while (shown := await sdk("responses.retrieve", response.id)).status != "failed":
            pass
        return raised.value.code, raised.value.message, plain(shown)

    await on_both(await sides(), client_of, scene)


async def test_a_cancelled_stream_ends_with_an_error_that_says_so(sides, client_of):
    through = (await sides()).through
    sdk = await client_of(through)
    stream = await sdk("responses.create", **job("long"))
    response = (await sdk.each(stream, 2))[0].response
    await sdk("responses.cancel", response.id)
    with pytest.raises(openai.APIError) as raised:
        await sdk.each(stream)
    assert raised.value.code == "response_cancelled"


async def test_a_silence_longer_than_the_clients_patience_does_not_matter_here(sides, client_of):
    """Its timer runs from byte to byte, so that heartbeats keep it."""

    async def silent(side):
        sdk = await client_of(side, timeout=httpx2.Timeout(60, read=5))
        stream = await sdk("responses.create", **job())
        await sdk.each(stream, 2)
        return sdk, stream

    both = await sides(heartbeat_s=0.1)
    here, stream = await silent(both.through)
    upstream, lost = await silent(both.direct)
    with pytest.raises(openai.APITimeoutError):
        await upstream.each(lost)
    # So long this side has been silent, too.
    both.through.later()
    assert (await here.each(stream))[-1].type == "response.completed"


async def test_the_stream_helper_takes_comments_and_keepalive_events_in_long_silence(sides, client_of):
    through = (await sides(heartbeat_s=0.02, keepalive_s=0.05)).through
    sdk = await client_of(through)
    async with sdk.opened(sdk.client.responses.stream(**ask(), background=True)) as helper:
        silent = await sdk.each(helper, 5)
        through.later()
        events = silent + await sdk.each(helper)
        final = await sdk.run(helper.get_final_response)
    assert [event.type for event in silent] == ["response.created", "response.queued"] + ["keepalive"] * 3
    assert {event.sequence_number for event in silent[2:]} == {1}
    numbers = [event.sequence_number for event in events if event.type != "keepalive"]
    assert numbers == list(range(len(numbers)))
    assert final.status == "completed"


async def test_what_is_no_response_is_the_same(sides, client_of):
    async def scene(sdk, side):
        said = [{"type": "message", "role": "user", "content": "What did the tide bring?"}]
        conversation = await sdk("conversations.create", items=said, metadata={"tide": "high"})
        updated = await sdk("conversations.update", conversation.id, metadata={"tide": "low"})
        added = await sdk("conversations.items.create", conversation.id, items=said)
        items = await sdk("conversations.items.list", conversation.id, limit=1, order="asc")
        item = await sdk("conversations.items.retrieve", items.data[0].id, conversation_id=conversation.id)
        gone = await sdk("conversations.delete", conversation.id)
        hook = {"name": "tides", "url": "https://example.org", "event_types": ["response.completed"]}
        endpoint = await sdk("webhooks.create", **hook)
        rotated = await sdk("webhooks.rotate_secret", endpoint.id)
        tested = await sdk("webhooks.test", endpoint.id, event_type="response.completed")
        listed = await sdk("webhooks.list")
        counted = await sdk("responses.input_tokens.count", model="gpt-5.2", input="What did the tide bring?")
        compacted = await sdk("responses.compact", model="gpt-5.2", input=said)
        refused = await refusal(sdk, "conversations.retrieve", conversation.id)
        assert (len(items.data), counted.input_tokens > 0, gone.deleted) == (1, True, True)
        found = (conversation, updated, added, items, item, gone, endpoint, rotated, tested, listed, counted, compacted)
        return [*map(plain, found), refused]

    both = await sides()
    await on_both(both, client_of, scene)
    asked = [[(seen.method, seen.path, seen.body) for seen in side.upstream.simulator.requests] for side in
             (both.direct, both.through)]  # fmt: skip
    assert asked[0] == asked[1]


@pytest.mark.parametrize("background", [True, False])
async def test_the_beta_of_several_agents_is_the_same(sides, client_of, background):
    async def scene(sdk, side):
        agents = {"betas": ["responses_multi_agent=v1"], "multi_agent": {"enabled": True}, "background": background}
        stream = await sdk("beta.responses.create", **ask(), **agents, stream=True)
        first = await sdk.each(stream, 2)
        side.later()
        events = first + await sdk.each(stream)
        shown = await sdk("beta.responses.retrieve", first[0].response.id, betas=agents["betas"])
        without = await refusal(sdk, "beta.responses.create", **ask(), multi_agent={"enabled": True})
        return [*map(plain, events), plain(shown), without]

    *events, shown, without = await on_both(await sides(), client_of, scene)
    assert {"agent_name": "/root"} in [event.get("agent") for event in events]
    assert (shown["status"], without[1]) == ("completed", 400)


@pytest.mark.parametrize("written", ["{}", "{}/"])
async def test_the_base_url_may_end_in_a_slash(sides, client_of, written):
    through = (await sides()).through
    sdk = await client_of(through, base_url=written.format(through.base_url))
    created = await sdk("responses.create", **ask(), background=True)
    assert (await sdk("responses.retrieve", created.id)).id == created.id
    assert [seen.path for seen in through.upstream.simulator.requests] == ["/v1/responses"]


async def test_upstream_sees_the_client_as_it_is(sides, client_of):
    async def scene(sdk, side):
        await sdk("responses.create", **ask(), background=True)
        seen = side.upstream.simulator.requests[-1]
        ours = {"host", "connection", "traceparent", "accept-encoding"}
        return seen.method, seen.path, seen.body, {(n.lower(), v) for n, v in seen.headers if n.lower() not in ours}

    *_, headers = await on_both(await sides(), client_of, scene)
    assert {"x-stainless-lang", "x-stainless-retry-count", "authorization", "user-agent"} <= {
        name for name, _ in headers
    }
