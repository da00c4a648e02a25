"""Microsoft Agent Framework for Python: background agents as upstream has them, and resumed exactly."""

import asyncio
import json
import time

import pytest
from programs import framework_code, printed
from readme import AGENT_FRAMEWORK, examples
from stories import fetch, job, until

from gateway.domain.facts import ClientPolled, Detached, Ended
from gateway.domain.response import Status

SCRIPT = "agent_framework_program.py"
DELTA = "response.output_text.delta"
RUNNING = {"speed": 20.0, "clock": time.time}
# Two seconds, and 1, 2, 4, 8, 16, 30 s, at a fortieth of their lengths.
FIXED, BACKING_OFF = [0.05], [0.025, 0.05, 0.1, 0.2, 0.4, 0.75]


@pytest.fixture
def play(framework):
    """Start a scene on a side; `scenario` is what upstream does."""

    async def start(side, scene, *, scenario="normal", **arguments):
        metadata = {"scenario": scenario} if isinstance(scenario, str) else scenario
        return await framework(SCRIPT, scene, side.base_url, scenario=metadata, **arguments)

    return start


async def said(play, side, scene, **arguments):
    """The only thing that a scene says."""
    return await (await play(side, scene, **arguments)).says()


async def between(play, side, scene, *, first_s=0, **arguments):
    """What a scene says in the beginning, `first_s` of it, and after all that upstream does has happened."""
    program = await play(side, scene, **arguments)
    await until(lambda: side.upstream.simulator.connections() or side.upstream.simulator.requests)
    side.later(first_s)
    first = await program.says()
    side.later()
    await program.told()
    return first, await program.says()


async def resumed(play, side, cursor, *, until_left=2, leave_at=DELTA, count=10, **arguments):
    """What a run has that leaves at some event, and is resumed when all has happened."""
    program = await play(side, "resume", leave_at=leave_at, count=count, cursor=cursor, **arguments)
    assert await program.says() == "begun"
    await until(lambda: side.upstream.simulator.connections())
    side.later(until_left)
    assert await program.says() == "left"
    side.later()
    await program.told()
    return await program.says()


def deltas(updates):
    return [(update["number"], update["text"]) for update in updates if update["type"] == DELTA]


def polls_of(side):
    if side.gateway:
        return len(side.gateway.facts.of(ClientPolled))
    return side.upstream.asked("GET", "/responses/")


@pytest.mark.parametrize("pauses", [FIXED, BACKING_OFF], ids=["every 2 s", "1-2-4-8-16-30 s"])
async def test_a_run_is_polled_until_its_token_is_none(sides, play, pauses):
    both = await sides()

    async def scene(side):
        program = await play(side, "poll", pauses=pauses)
        token = await program.says()
        await program.told()
        await until(lambda: polls_of(side) >= 5)
        side.later()
        done = await program.says()
        assert done.pop("polls") >= 6
        return token, done

    direct, through = await asyncio.gather(scene(both.direct), scene(both.through))
    assert through == direct
    assert set(through[0]) == {"response_id"}
    assert through[1]["text"]


async def test_a_streamed_run_has_the_same_updates(sides, play):
    both = await sides()
    direct, through = [await between(play, side, "stream") for side in (both.direct, both.through)]
    assert through == direct
    assert through[1]["token"] is None
    assert through[1]["text"] == "".join(text for _, text in deltas(through[1]["seen"]))


async def test_a_run_that_is_left_after_three_updates_is_resumed_as_the_sample_does(sides, play):
    """The third update has a token, since upstream's `response.queued` is the second."""
    both = await sides()
    scene = "resume_as_the_sample_does"
    direct, through = [await between(play, side, scene, first_s=1) for side in (both.direct, both.through)]
    assert through == direct
    left, after = through
    assert left["token"] == {"response_id": left["token"]["response_id"]}
    assert after["text"] == "".join(text for _, text in deltas(after["seen"]))


@pytest.mark.parametrize("flushed", [2, 60], ids=["live", "all of it under way already"])
@pytest.mark.parametrize("cursor", ["header", "suffix"])
async def test_with_a_cursor_a_resume_repeats_nothing_and_loses_nothing(sides, play, cursor, flushed):
    """However much of it the gateway had written already when the client left."""
    both = await sides()
    run = await resumed(play, both.through, cursor, until_left=flushed)
    before, after = deltas(run["before"]), deltas(run["after"])
    numbers = [number for number, _ in before + after]
    assert before
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert "".join(text for _, text in before + after) == run["text"]
    # Upstream knows none of these cursors: it begins again from the start.
    if cursor == "header":
        again = await resumed(play, both.direct, cursor, until_left=flushed)
        assert deltas(again["before"]) + deltas(again["after"]) != before + after
        assert deltas(again["after"])[: len(before)] == before


async def test_without_a_cursor_a_resume_begins_again_and_loses_nothing(sides, play):
    both = await sides()
    direct, through = [await resumed(play, side, "none", until_left=60) for side in (both.direct, both.through)]
    assert through == direct
    assert deltas(through["after"])[: len(deltas(through["before"]))] == deltas(through["before"])
    assert "".join(text for _, text in deltas(through["after"])) == through["text"]


@pytest.mark.parametrize("streamed", [False, True], ids=["polled", "streamed"])
async def test_a_tool_is_called_once_and_its_result_is_sent_on(sides, play, streamed):
    both = await sides(simulated=RUNNING)
    for side in (both.direct, both.through):
        done = await said(play, side, "tools", scenario="tool", streamed=streamed)
        creates = [seen.json() for seen in side.upstream.simulator.asked("/responses", "POST")]
        assert done["text"]
        assert len(done["calls"]) == 1
        assert len(creates) == 2
        assert creates[1]["previous_response_id"]
        assert [item["type"] for item in creates[1]["input"]] == ["function_call_output"]


@pytest.mark.parametrize("cursor", ["none", "header", "suffix"])
@pytest.mark.parametrize(
    "leave_at", ["function_call_arguments.delta", "function_call_arguments.done", "output_item.done", "completed"]
)
async def test_a_tool_is_called_once_wherever_the_run_was_left(sides, play, leave_at, cursor):
    through = (await sides(simulated=RUNNING)).through
    # The reasoning is an item too, and the first to be done.
    arguments = {"leave_at": f"response.{leave_at}", "count": 2 if leave_at == "output_item.done" else 1}
    program = await play(through, "resume", cursor=cursor, tool=True, scenario="tool", **arguments)
    assert await program.says() == "begun"
    assert await program.says() == "left"
    await program.told()
    run = await program.says()
    response_id = run["before"][0]["token"]["response_id"]
    call = (await through.gateway.client().responses.retrieve(response_id)).output[-1]
    assert run["calls"] == [json.loads(call.arguments)["city"]]
    assert run["text"]
    assert through.upstream.asked("POST", "/responses") == 2


@pytest.mark.parametrize("cursor", ["header", "suffix"])
async def test_a_run_that_was_left_at_its_end_has_ended(sides, play, cursor):
    """A token that stays would have its application come back for ever."""
    run = await resumed(play, (await sides()).through, cursor, until_left=60, leave_at="response.completed", count=1)
    assert run["token"] is None
    assert deltas(run["after"]) == []


@pytest.mark.parametrize("streamed", [False, True], ids=["polled", "streamed"])
async def test_a_structured_answer_is_the_same(sides, play, streamed):
    both = await sides(simulated=RUNNING)
    direct, through = [await said(play, side, "structured", streamed=streamed) for side in (both.direct, both.through)]
    assert through == direct
    assert set(through) == {"brought", "boats"}


@pytest.mark.parametrize("cursor", ["none", "header", "suffix"])
async def test_a_structured_answer_is_whole_after_a_resume(sides, play, cursor):
    run = await resumed(play, (await sides()).through, cursor, count=2, structured=True, until_left=60)
    assert set(run["value"]) == {"brought", "boats"}


@pytest.mark.parametrize("streamed", [False, True], ids=["polled", "streamed"])
async def test_a_token_in_a_file_is_used_by_a_new_process(sides, play, tmp_path, streamed):
    both = await sides(simulated=RUNNING)
    for side, name in ((both.direct, "direct"), (both.through, "through")):
        file = str(tmp_path / name)
        began = await play(side, "begin_and_save", file=file, streamed=streamed)
        assert await began.ended() == 0
        done = await said(play, side, "load_and_finish", file=file, streamed=streamed)
        assert done["text"]
        assert done["after"] == list(range(len(done["after"])))


async def test_a_token_in_a_file_with_a_position_goes_on_exactly_there_in_a_new_process(sides, play, tmp_path):
    through = (await sides(simulated=RUNNING)).through
    scene = {"file": str(tmp_path / "saved"), "streamed": True}
    assert await (await play(through, "begin_and_save", count=30, **scene)).ended() == 0
    done = await said(play, through, "load_and_finish", position=True, **scene)
    assert done["before"] == list(range(30))
    (left,) = {fact.response.response_id for fact in through.gateway.facts.of(Ended)}
    whole = await fetch(f"{through.base_url}/responses/{left}?stream=true")
    assert [number for number in done["after"] if number > 29] == [*range(30, len(whole.events))]
    assert {whole.events[number]["type"] for number in done["after"] if number < 30}.isdisjoint({DELTA})


async def test_a_token_in_a_file_is_good_after_a_restart_of_the_gateway(sides, play, framework, gateway_for, tmp_path):
    store = f"sqlite:///{tmp_path}/responses.db"
    through = (await sides(simulated=RUNNING, store=store)).through
    began = await play(through, "begin_and_save", file=str(tmp_path / "saved"), streamed=True)
    assert await began.ended() == 0
    await through.gateway.gateway.stop()
    again = await gateway_for(through.upstream.url, store=store)
    scene = {"scenario": {"scenario": "normal"}, "file": str(tmp_path / "saved"), "streamed": True}
    done = await (await framework(SCRIPT, "load_and_finish", f"{again.url}/v1", **scene)).says()
    assert done["text"]
    assert done["after"] == list(range(len(done["after"])))
    assert through.upstream.asked("POST", "/responses") == 1


async def test_the_turns_of_a_session_follow_each_other(sides, play):
    both = await sides(simulated=RUNNING)
    for side in (both.direct, both.through):
        said_ = await said(play, side, "turns")
        first, second = [seen.json() for seen in side.upstream.simulator.asked("/responses", "POST")]
        assert all(said_["texts"])
        assert "previous_response_id" not in first
        assert second["previous_response_id"] != said_["session"]
    ends = both.through.gateway.facts.of(Ended)
    assert [end.response.previous_response_id for end in ends] == [None, ends[0].response.response_id]


async def test_a_session_goes_on_after_a_resume_by_id_and_position(sides, play):
    through = (await sides(simulated=RUNNING)).through
    done = await said(play, through, "turn_after_resume")
    first, second = [seen.json() for seen in through.upstream.simulator.asked("/responses", "POST")]
    assert done["text"]
    assert "previous_response_id" not in first
    assert second["previous_response_id"] == done["first"]


@pytest.mark.parametrize("scenario", ["drops", "drops_within"])
async def test_a_line_that_breaks_upstream_ends_a_run_there_and_not_here(sides, play, scenario):
    both = await sides()
    _, broken = await between(play, both.direct, "stream", scenario=scenario)
    _, whole = await between(play, both.through, "stream", scenario=scenario)
    assert broken["raised"] == "ChatClientException"
    assert [update["number"] for update in whole["seen"]] == list(range(len(whole["seen"])))
    assert whole["text"]


async def test_a_stream_that_upstream_closes_early_is_cut_off_silently_there_and_whole_here(sides, play):
    both = await sides()
    _, truncated = await between(play, both.direct, "stream", scenario="closes")
    _, whole = await between(play, both.through, "stream", scenario="closes")
    assert (truncated["text"], truncated["token"]) == ("", truncated["seen"][0]["token"])
    assert whole["text"]
    assert whole["token"] is None


async def test_a_failure_that_a_poll_hides_from_the_run_is_not_hidden_here(sides, play):
    """The framework takes a failed response for an empty one. The gateway's telemetry knows."""
    both = await sides(simulated=RUNNING)
    for side in (both.direct, both.through):
        program = await play(side, "poll", scenario="quota", pauses=FIXED)
        await program.says()
        await program.told()
        assert (await program.says())["text"] == ""
    ended = await both.through.gateway.facts.wait_for(Ended)
    assert (ended.response.status, ended.response.error_code) == (Status.FAILED, "insufficient_quota")


async def test_a_stream_that_fails_raises_on_both_sides(sides, play):
    both = await sides()
    outcomes = [(await between(play, side, "stream", scenario="fails"))[1] for side in (both.direct, both.through)]
    assert outcomes[1] == outcomes[0]
    assert outcomes[0]["raised"] == "ChatClientException"


async def test_what_was_begun_without_a_stream_can_be_streamed_where_it_is_tracked_by_its_stream(sides, play):
    both = await sides(simulated=RUNNING, background_tracking="stream")
    refused = await said(play, both.direct, "stream_what_was_polled")
    streamed = await said(play, both.through, "stream_what_was_polled")
    assert "not created with stream=true" in refused["message"]
    assert streamed["value"] == list(range(len(streamed["value"])))


async def test_a_token_of_a_foreground_run_is_good_here_only(sides, play):
    both = await sides(simulated=RUNNING)
    refused = await said(play, both.direct, "resume_foreground")
    resumed_ = await said(play, both.through, "resume_foreground")
    assert refused["raised"] == "ChatClientException"
    assert resumed_["value"] == list(range(len(resumed_["value"])))


async def test_a_run_that_is_left_open_holds_nobody_up(sides, play):
    """A `break` out of the loop closes nothing while the stream is referenced: its connection stays, unread."""
    through = (await sides(simulated=RUNNING, write_timeout_s=0.3)).through
    program = await play(through, "leave_open", scenario={"scenario": "big", "bytes": "20000000"})
    response_id = (await program.says())["response_id"]
    assert (await through.gateway.facts.wait_for(Ended)).response.status is Status.COMPLETED
    left = await through.gateway.facts.wait_for(Detached)
    whole = await fetch(f"{through.base_url}/responses/{response_id}?stream=true")
    await program.told()
    assert await program.says() == "still here"
    assert left.how == "slow"
    assert whole.events[-1]["type"] == "response.completed"


async def test_keepalive_events_in_a_long_silence_do_not_disturb_a_run(sides, play):
    through = (await sides(heartbeat_s=0.05, keepalive_s=0.05)).through
    program = await play(through, "stream", keepalives=3)
    await program.says()
    await program.told()
    assert await program.says() == "silence"
    through.later()
    done = await program.says()
    assert done["text"] == "".join(text for _, text in deltas(done["seen"]))


async def test_an_older_version_that_replays_a_finished_tool_call_forty_times_costs_upstream_nothing(sides):
    """Up to 1.14.0 a resumed run with a tool asks for its finished response again and again, up to its limit of 40."""
    through = (await sides(simulated=RUNNING)).through
    tools = [{"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}]
    first = await fetch(f"{through.base_url}/responses", "POST", body={**job("tool"), "tools": tools})
    response_id = first.events[0]["response"]["id"]
    for query in ("?stream=true", ""):
        for _ in range(41):
            assert (await fetch(f"{through.base_url}/responses/{response_id}{query}")).status == 200
    assert len(through.upstream.simulator.requests) == 1
    assert len(through.gateway.facts.of(Ended)) == 1


async def test_an_agent_on_azure_is_served_at_azures_path(sides, framework):
    both = await sides(base_path="/openai/v1", simulated=RUNNING)
    paths = []
    for side in (both.direct, both.through):
        arguments = {"scenario": {"scenario": "normal"}, "pauses": FIXED, "azure": True}
        program = await framework(SCRIPT, "poll", side.origin, **arguments)
        await program.says()
        await program.told()
        assert (await program.says())["model"] == "gpt-5.2-2026-08-07"
        paths.append(side.upstream.simulator.asked("/responses", "POST")[0].path)
    assert paths[0] == paths[1]
    assert paths[0].startswith("/openai/v1/responses?api-version=")


async def test_readmes_example_runs_as_it_stands(simulate, gateway_for):
    gateway = await gateway_for((await simulate()).url)
    (example,) = examples(AGENT_FRAMEWORK)
    said_ = await printed(framework_code(example.code.replace("http://127.0.0.1:8080", gateway.url)))
    assert example.prints(said_), said_
