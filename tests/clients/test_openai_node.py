"""OpenAI's Node SDK, its strict helper included: all that upstream gives it comes through, and what it lacks too."""

import time

import pytest
from programs import node_module, printed
from readme import EXAMPLES
from stories import ask, job, numbers, types, until

from gateway.domain.facts import Created, Detached, Ended

SCRIPT = "openai.mjs"
AGAIN_AT_ONCE = {"retry_after_s": 0.01}


@pytest.fixture
def play(node):
    """Start a scene on a side."""

    async def start(side, scene, **arguments):
        return await node(SCRIPT, scene, side.base_url, **arguments)

    return start


@pytest.fixture
def on_both(play):
    """Play a scene on each side; both have the same outcome, which is returned. Between two words time passes."""

    async def run(sides, scene, **arguments):
        outcomes = []
        for side in (sides.direct, sides.through):
            program = await play(side, scene, **arguments)
            first = await program.says()
            side.later()
            await program.told()
            outcomes.append([first, await program.says()])
        assert outcomes[1] == outcomes[0]
        return outcomes[1]

    return run


async def said(play, side, scene, **arguments):
    """The only thing that a scene says."""
    return await (await play(side, scene, **arguments)).says()


async def test_the_life_of_a_polled_response_is_the_same(sides, on_both):
    created, (done, text, items, _, gone) = await on_both(await sides(), "life", body=ask())
    assert (created["status"], done["status"], gone["raised"]) == ("queued", "completed", "NotFoundError")
    assert text
    assert len(items) == 1


async def test_a_cancel_is_the_same(sides, play):
    both = await sides()
    direct, through = [await said(play, side, "cancel", body=ask("stuck")) for side in (both.direct, both.through)]
    assert through == direct
    assert {shown["status"] for shown in through} == {"cancelled"}


@pytest.mark.parametrize("background", [True, False])
async def test_a_stream_has_the_same_events(sides, on_both, background):
    first, rest = await on_both(await sides(), "stream", body={**ask(), "background": background})
    assert types([first, *rest["value"]])[-1] == "response.completed"


async def resumed(play, side, body, count=20, then=60):
    """What a client has that leaves after some events and comes back."""
    program = await play(side, "resume", body=body, count=count)
    await program.says()
    side.later(2)
    await program.told()
    await program.says()
    if side.gateway:
        await side.gateway.facts.wait_for(Detached)
    elif not body.get("background"):
        await until(lambda: not side.upstream.simulator.connections())
    side.later(then)
    await program.told()
    return await program.says()


async def test_a_stream_is_resumed_from_its_last_event_on(sides, play):
    both = await sides()
    direct = await resumed(play, both.direct, job())
    through = await resumed(play, both.through, job())
    before, after = through[0], through[1]["value"]
    assert through == direct
    assert numbers(before + after) == list(range(len(before + after)))


async def test_upstream_stops_streaming_after_five_minutes_and_the_gateway_does_not(sides, play):
    both = await sides()
    _, refused = await resumed(play, both.direct, job("slow"), count=2, then=400)
    before, after = await resumed(play, both.through, job("slow"), count=2, then=400)
    assert (refused["raised"], refused["status"]) == ("BadRequestError", 400)
    assert types(before + after["value"])[-1] == "response.completed"


async def test_a_foreground_stream_can_be_resumed_here_only(sides, play):
    both = await sides(linger_s=600)
    body = {**ask(), "background": False}
    _, refused = await resumed(play, both.direct, body)
    before, after = await resumed(play, both.through, body)
    assert refused["raised"] == "NotFoundError"
    assert numbers(before + after["value"]) == list(range(len(before + after["value"])))


@pytest.mark.parametrize("cursor", [{}, {"starting_after": 25}], ids=["from the start", "after 25"])
async def test_the_stream_helper_takes_a_response_up_by_its_id(sides, on_both, cursor):
    """It asks for the whole stream whatever its cursor, since its accumulator has to see the beginning."""
    both = await sides()
    response_id, (events, final) = await on_both(both, "helper_by_id", body=job(), **cursor)
    assert numbers(events["value"])[0] == (26 if cursor else 0)
    assert final["value"]["status"] == "completed"
    asked = [seen.path for seen in both.direct.upstream.simulator.asked(response_id, "GET")]
    assert asked == [f"/v1/responses/{response_id}?stream=true"]


@pytest.mark.parametrize("scenario", ["normal", "tool"])
async def test_the_stream_helper_goes_on_from_any_event_with_last_event_id(sides, play, scenario):
    through = (await sides(simulated={"speed": 20.0, "clock": time.time})).through
    tools = [{"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}]
    count, failed = await said(play, through, "helper_from_everywhere", body={**job(scenario), "tools": tools})
    assert count > 10
    assert not failed


async def test_the_stream_helper_creates_and_accumulates(sides, on_both):
    _, (final, events) = await on_both(await sides(), "helper", body={**ask(), "background": True})
    assert final["value"]["status"] == "completed"
    assert types(events)[:3] == ["response.created", "response.queued", "response.in_progress"]


async def test_parse_gives_the_same_values_and_in_the_background_where_the_create_can_wait(sides, play):
    both = await sides(simulated={"speed": 20.0, "clock": time.time})
    for side in (both.direct, both.through):
        status, parsed = await said(play, side, "parse", body=ask())
        assert (status, set(parsed)) == ("completed", {"brought", "boats"})
    waiting = {"body": {**ask(), "background": True}, "headers": {"Prefer": "wait=60"}}
    assert await said(play, both.direct, "parse", **waiting) == ["queued", None]
    status, parsed = await said(play, both.through, "parse", **waiting)
    assert (status, set(parsed)) == ("completed", {"brought", "boats"})


async def test_raw_responses_have_upstreams_headers_and_bytes(sides, play):
    both = await sides()
    direct, through = [await said(play, side, "raw", body=ask()) for side in (both.direct, both.through)]
    assert through == direct
    assert through[2] is True


async def test_errors_are_upstreams_own(sides, play):
    both = await sides()
    bodies = [
        ask("rejected"),
        {**ask("detail_error"), "background": True},
        {**ask("bad_gateway"), "stream": True},
        {"model": "gpt-5.2"},
        {**ask(), "previous_response_id": "resp_0000"},
    ]
    direct, through = [await said(play, side, "errors", bodies=bodies) for side in (both.direct, both.through)]
    assert through == direct
    assert [refused.get("status") for refused in through] == [400, 422, 502, 400, 400, 404, 404, 404, 404]


async def test_the_sdk_sends_again_what_upstream_refuses_for_now(sides, play):
    both = await sides()
    for side in (both.direct, both.through):
        await said(play, side, "retries", body=ask("rate_limited", **AGAIN_AT_ONCE))
        tries = [seen.header("x-stainless-retry-count") for seen in side.upstream.simulator.asked("/responses", "POST")]
        assert tries == ["0", "1", "2"]
    assert len(both.through.gateway.facts.of(Created)) == 1


async def test_what_is_no_response_is_the_same(sides, play):
    both = await sides()
    direct, through = [await said(play, side, "others") for side in (both.direct, both.through)]
    assert through == direct
    assert [gone.get("status") or gone.get("deleted") for gone in through[-2:]] == [True, 404]


async def test_the_base_url_may_end_in_a_slash(sides, node):
    through = (await sides()).through
    program = await node(SCRIPT, "retries", f"{through.base_url}/", body=ask())
    assert (await program.says())["status"] == "queued"


async def streamed(play, side, body, scene="stream"):
    """A stream to its end, as the client sees it."""
    program = await play(side, scene, body=body)
    await program.says()
    side.later()
    await program.told()
    return await program.says()


@pytest.mark.parametrize("scenario", ["drops", "drops_within", "drops_every"])
async def test_a_line_that_breaks_upstream_is_no_matter_here(sides, play, scenario):
    both = await sides()
    broken = await streamed(play, both.direct, job(scenario))
    whole = await streamed(play, both.through, job(scenario))
    assert (broken["raised"], broken["message"]) == ("TypeError", "terminated")
    assert numbers(whole["value"]) == list(range(1, len(whole["value"]) + 1))
    assert len(both.through.gateway.facts.of(Ended)) == 1


async def test_a_stream_that_upstream_closes_early_looks_whole_there_and_is_whole_here(sides, play):
    """The helper takes the response as it was when the stream stopped for the final one."""
    both = await sides()
    body = {**ask("closes"), "background": True}
    truncated, _ = await streamed(play, both.direct, body, "helper")
    final, _ = await streamed(play, both.through, body, "helper")
    assert truncated["value"]["status"] == "in_progress"
    assert final["value"]["status"] == "completed"


@pytest.mark.parametrize("scene", ["stream", "helper"])
async def test_a_foreground_stream_that_upstream_closes_early_ends_with_an_error_that_says_so(sides, play, scene):
    ended = await streamed(play, (await sides()).through, ask("closes"), scene)
    error = ended if scene == "stream" else ended[0]
    assert (error["raised"], error["code"]) == ("APIError", "upstream_lost")


async def test_a_cancelled_stream_ends_with_an_error_that_says_so(sides, play):
    through = (await sides()).through
    for scene in ("stream", "helper"):
        program = await play(through, scene, body={**ask("long"), "background": True})
        first = await program.says()
        response_id = first if scene == "helper" else first["response"]["id"]
        await through.gateway.client().responses.cancel(response_id)
        await program.told()
        ended = await program.says()
        error = ended if scene == "stream" else ended[0]
        assert (error["raised"], error["code"]) == ("APIError", "response_cancelled")


async def test_a_response_that_fails_raises_with_upstreams_words(sides, play):
    both = await sides()
    direct, through = [await streamed(play, side, job("fails")) for side in (both.direct, both.through)]
    assert through == direct
    assert (through["raised"], through["code"]) == ("APIError", "server_error")


async def test_the_strict_helper_takes_keepalive_events_in_long_silence(sides, play):
    """It throws on event types that it does not know; this one it does."""
    through = (await sides(heartbeat_s=0.05, keepalive_s=0.05)).through
    program = await play(through, "helper", body={**ask(), "background": True}, first="keepalive")
    await program.says()
    through.later()
    await program.told()
    final, events = await program.says()
    assert final["value"]["status"] == "completed"
    real = [event for event in events if event["type"] != "keepalive"]
    assert len(real) < len(events)
    assert numbers(real) == list(range(len(real)))


async def test_a_silence_longer_than_the_clients_patience_does_not_matter_here(sides, play):
    """Node's fetch gives up after five minutes without a byte; here it is five seconds."""
    both = await sides(heartbeat_s=0.1)
    here, there = [await play(side, "silence", body=job(), patience_ms=5000) for side in (both.through, both.direct)]
    await here.says()
    await there.says()
    assert (await there.says())["raised"] == "TypeError"
    # So long this side has been silent, too.
    both.through.later()
    assert types((await here.says())["value"])[-1] == "response.completed"


@pytest.mark.parametrize("example", [one for one in EXAMPLES if one.language == "js"], ids=["connect", "resume"])
async def test_readmes_examples_for_node_run_as_they_stand(simulate, gateway_for, tmp_path, example):
    gateway = await gateway_for((await simulate()).url)
    said_ = await printed(node_module(tmp_path, example.code.replace("http://127.0.0.1:8080", gateway.url)))
    assert example.prints(said_), said_
