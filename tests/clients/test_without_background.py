"""OpenAI Agents SDK, LangChain, Vercel AI SDK: they know nothing of background mode, and do not poll or resume.

Asked for it all the same they take a queued response for an empty answer, and lose what a broken line did not bring.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from stories import until

from gateway.domain.facts import Ended
from gateway.domain.response import Status

RUNNING = {"speed": 20.0, "clock": time.time}
WAITING = {"Prefer": "wait=60"}


@dataclass(frozen=True, slots=True)
class Library:
    """How a library is run. `whole`, `broken` and `truncated` are the marks of a stream's end, as its user sees it."""

    name: str
    where: str
    script: str
    answers: str
    end: Callable[[dict[str, Any]], object]
    whole: object
    broken: object
    truncated: object


LIBRARIES = [
    Library(
        name="agents",
        where="framework",
        script="openai_agents_program.py",
        answers="run",
        end=lambda said: said.get("raised"),
        whole=None,
        broken="APIConnectionError",
        truncated="ModelBehaviorError",
    ),
    Library(
        name="langchain",
        where="framework",
        script="langchain_program.py",
        answers="invoke",
        end=lambda said: said.get("raised") or said["status"],
        whole="completed",
        broken="OpenAIConnectionError",
        truncated=None,
    ),
    Library(
        name="vercel",
        where="node",
        script="vercel.mjs",
        answers="generate",
        end=lambda said: said.get("raised") or said["finishReason"],
        whole="stop",
        broken="APICallError",
        truncated="other",
    ),
]


@pytest.fixture(params=LIBRARIES, ids=lambda library: library.name)
def library(request):
    return request.param


@pytest.fixture
def play(framework, node):
    """Start a scene of a library on a side."""

    async def start(library, side, scene, *, scenario="normal", **arguments):
        run = framework if library.where == "framework" else node
        return await run(library.script, scene, side.base_url, scenario={"scenario": scenario}, **arguments)

    return start


def text_of(said):
    return said.get("value") or said.get("text")


async def streamed(play, library, side, **arguments):
    """What a stream comes to, all that upstream does having happened."""
    program = await play(library, side, "stream", **arguments)
    await program.says()
    await until(lambda: side.upstream.simulator.connections())
    side.later()
    await program.told()
    return await program.says()


async def answers(play, library, side, *tries, **arguments):
    """What the library gives for answers that are not streamed, each asked for with other headers."""
    program = await play(library, side, library.answers, tries=tries, **arguments)
    return [await program.says() for _ in tries]


async def test_a_streamed_background_response_is_the_same(sides, play, library):
    both = await sides()
    direct, through = [await streamed(play, library, side) for side in (both.direct, both.through)]
    assert through == direct
    assert library.end(through) == library.whole
    assert text_of(through)


async def test_a_line_that_breaks_upstream_is_no_matter_here(sides, play, library):
    both = await sides()
    broken = await streamed(play, library, both.direct, scenario="drops")
    whole = await streamed(play, library, both.through, scenario="drops")
    ended = await both.through.gateway.facts.wait_for(Ended)
    shown = await both.through.gateway.client().responses.retrieve(ended.response.response_id)
    assert library.end(broken) == library.broken
    assert library.end(whole) == library.whole
    assert text_of(whole) == shown.output_text


async def test_a_stream_that_upstream_closes_early_is_whole_here(sides, play, library):
    both = await sides()
    truncated = await streamed(play, library, both.direct, scenario="closes")
    whole = await streamed(play, library, both.through, scenario="closes")
    assert library.end(truncated) == library.truncated
    assert library.end(whole) == library.whole
    assert text_of(whole)


async def test_a_failure_is_told_as_upstream_tells_it(sides, play, library):
    both = await sides()
    direct, through = [await streamed(play, library, side, scenario="fails") for side in (both.direct, both.through)]
    assert through == direct
    assert library.end(through) != library.whole


async def test_without_a_stream_an_answer_is_empty_unless_the_create_waits(sides, play, library):
    both = await sides(simulated=RUNNING)
    assert not any(said["text"] for said in await answers(play, library, both.direct, {}, WAITING))
    unasked, waited = await answers(play, library, both.through, {}, WAITING)
    assert not unasked["text"]
    assert waited["text"]


@pytest.mark.parametrize("library", LIBRARIES[:1], indirect=True, ids=["agents"])
async def test_the_tool_loop_of_the_agents_sdk_runs_where_its_creates_wait(sides, play, library):
    through = (await sides(simulated=RUNNING)).through
    (done,) = await answers(play, library, through, WAITING, scenario="tool", tool=True)
    assert done["text"]
    assert len(done["calls"]) == 1
    assert through.upstream.asked("POST", "/responses") == 2


@pytest.mark.parametrize("library", LIBRARIES[:1], indirect=True, ids=["agents"])
async def test_a_run_that_the_agents_sdk_abandons_goes_on_upstream_and_is_counted(sides, play, library):
    """Its `cancel` sends nothing: what it began goes on, and is billed."""
    through = (await sides(simulated=RUNNING)).through
    program = await play(library, through, "abandon")
    assert await program.says() == "cancelled"
    assert await program.ended() == 0
    ended = (await through.gateway.facts.wait_for(Ended)).response
    assert ended.status is Status.COMPLETED
    assert ended.usage.output > 0
    assert through.upstream.asked("POST", "/cancel") == 0


@pytest.mark.parametrize("library", LIBRARIES[1:2], indirect=True, ids=["langchain"])
async def test_langchains_timer_between_events_is_kept_by_keepalive_events_and_not_by_comments(sides, play, library):
    """It gives up after two minutes without an event, here five, and does not see comments."""
    comments_only = await sides(heartbeat_s=0.1, keepalive_s=0)
    events_too = await sides(heartbeat_s=0.1, keepalive_s=0.1)
    alive = await play(library, events_too.through, "stream", chunk_timeout_s=5)
    dead = [
        await play(library, side, "stream", chunk_timeout_s=5) for side in (comments_only.through, comments_only.direct)
    ]
    for program in (alive, *dead):
        await program.says()
        await program.told()
    for program in dead:
        assert (await program.says())["raised"] == "StreamChunkTimeoutError"
    # So long this one has been silent, too.
    events_too.through.later()
    assert library.end(await alive.says()) == library.whole


@pytest.mark.parametrize("library", LIBRARIES[2:], indirect=True, ids=["vercel"])
async def test_vercels_timer_between_chunks_sees_keepalive_events_where_it_is_shown_raw_chunks(sides, play, library):
    """It is off unless an application asks for it, and runs from one thing that the model said to the next."""
    both = await sides(heartbeat_s=0.1, keepalive_s=0.1)
    raw = {"timeout": {"chunkMs": 5000}, "includeRawChunks": True}
    tries = ((both.through, raw), (both.through, {**raw, "includeRawChunks": False}), (both.direct, raw))
    alive, unshown, unheard = [await play(library, side, "stream", options=options) for side, options in tries]
    for program in (alive, unshown, unheard):
        await program.says()
        await program.told()
    await until(
        lambda: (both.through.upstream.simulator.connections(), both.direct.upstream.simulator.connections()) == (2, 1)
    )
    both.direct.later(2)
    both.through.later(2)
    assert [library.end(await program.says()) for program in (unheard, unshown)] == ["abort", "abort"]
    # So long this one has been silent, too.
    both.through.later()
    assert library.end(await alive.says()) == library.whole


async def test_long_silence_with_keepalive_events_disturbs_nobody(sides, play, library):
    through = (await sides(heartbeat_s=0.05, keepalive_s=0.05)).through
    program = await play(library, through, "stream")
    await program.says()
    await program.told()
    # As long as another reader of the same stream needs to see some.
    await until(lambda: through.gateway.gateway.context.tracker.live)
    held = next(iter(through.gateway.gateway.context.tracker.live.values()))
    await until(lambda: held.response.response_id)
    seen = 0
    async for event in await through.gateway.client().responses.retrieve(held.response.response_id, stream=True):
        seen += event.type == "keepalive"
        if seen == 5:
            break
    through.later()
    said = await program.says()
    assert library.end(said) == library.whole
    assert text_of(said)


@pytest.mark.parametrize("library", LIBRARIES[1:2], indirect=True, ids=["langchain"])
async def test_langchains_turns_name_the_response_before(sides, play, library):
    through = (await sides(simulated=RUNNING)).through
    program = await play(library, through, "turns", headers=WAITING)
    first, text = await program.says()
    creates = [seen.json() for seen in through.upstream.simulator.asked("/responses", "POST")]
    assert text
    assert creates[1]["previous_response_id"] == first


@pytest.mark.parametrize("library", LIBRARIES[2:], indirect=True, ids=["vercel"])
async def test_equal_creates_of_the_vercel_sdk_stay_as_many_as_they_are(sides, play, library):
    """Its retries carry no mark, so that nothing tells them from two requests that are meant."""
    through = (await sides(simulated=RUNNING)).through
    await answers(play, library, through, {}, {}, maxRetries=2)
    creates = through.upstream.simulator.asked("/responses", "POST")
    assert creates[0].body == creates[1].body
    assert [seen.header("x-stainless-retry-count") for seen in creates] == [None, None]
    await until(lambda: len(through.gateway.facts.of(Ended)) == 2)
    assert len({fact.response.response_id for fact in through.gateway.facts.of(Ended)}) == 2
