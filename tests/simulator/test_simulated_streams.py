"""The four modes of a create, the official client's helpers, and streams that are taken up again."""

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from scene import ASK, FUNCTION, STREAMED, Scene, all_of, finished_stream, numbers, types

from gateway.simulator import SCENARIOS

# --- the four modes --------------------------------------------------------------------------------------


async def test_a_foreground_create_answers_when_it_is_over(instant: Scene) -> None:
    response = await instant.client.responses.create(**ASK, metadata={"colour": "red"}, instructions="Be brief.")
    assert response.status == "completed"
    assert response.model == "gpt-5.2-2026-08-07"
    assert (response.metadata, response.instructions) == ({"colour": "red"}, "Be brief.")
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert len(response.output_text.split()) == SCENARIOS["normal"].delta_count
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response.completed_at is not None
    assert response.to_dict()["billing"] == {"payer": "developer"}
    assert response.to_dict()["store"] is True


async def test_a_foreground_stream_begins_in_progress_and_numbers_every_event_from_zero(instant: Scene) -> None:
    events = await all_of(await instant.client.responses.create(**ASK, stream=True))
    assert types(events)[:2] == ["response.created", "response.in_progress"]
    assert events[0]["response"]["status"] == "in_progress"
    assert types(events)[-1] == "response.completed"
    assert numbers(events) == list(range(len(events)))


async def test_a_background_create_is_queued_then_runs_then_is_done_whoever_is_connected(still: Scene) -> None:
    created = await still.client.responses.create(**ASK, background=True)
    assert (created.status, created.output, created.usage, created.completed_at) == ("queued", [], None, None)
    assert "billing" not in created.to_dict()
    still.simulator.skip(1)
    running = await still.client.responses.retrieve(created.id)
    assert (running.status, running.output, running.service_tier) == ("in_progress", [], "auto")
    still.simulator.skip(10)
    done = await still.client.responses.retrieve(created.id)
    assert (done.status, done.service_tier, done.created_at) == ("completed", "default", created.created_at)
    assert done.output_text
    assert done.usage is not None


async def test_a_background_stream_begins_created_queued_in_progress(still: Scene) -> None:
    events = await finished_stream(still)
    assert types(events)[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert [event["response"]["status"] for event in events[:3]] == ["queued", "queued", "in_progress"]
    assert numbers(events) == list(range(len(events)))
    final = events[-1]["response"]
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert final["output"][1]["content"][0]["text"] == text
    assert final == (await still.client.responses.retrieve(final["id"])).to_dict()


async def test_a_stream_has_event_lines_equal_to_the_types_and_nothing_else(instant: Scene) -> None:
    async with instant.http.post(instant.server.make_url("/v1/responses"), json={**ASK, "stream": True}) as answer:
        assert answer.content_type == "text/event-stream"
        body = await answer.read()
    frames = body.decode().split("\n\n")
    assert frames.pop() == ""
    for frame in frames:
        event, data = frame.split("\n")
        assert event == f"event: {json.loads(data.removeprefix('data: '))['type']}"


async def test_every_kind_of_event_comes_in_the_order_of_its_item(still: Scene) -> None:
    events = await finished_stream(still)
    seen = list(dict.fromkeys(types(events)))
    assert seen == [
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.completed",
    ]


# --- the client's own helpers ----------------------------------------------------------------------------


class Weather(BaseModel):
    city: str
    degrees: float
    days: list[int]


async def test_the_clients_accumulator_takes_the_stream(instant: Scene) -> None:
    async with instant.client.responses.stream(**ASK) as stream:
        final = await stream.get_final_response()
    assert final.status == "completed"
    assert final.output_text


async def test_the_clients_accumulator_resumes_a_response_by_id(still: Scene) -> None:
    events = await finished_stream(still)
    async with still.client.responses.stream(response_id=events[0]["response"]["id"], starting_after=20) as stream:
        rest = [event.sequence_number async for event in stream]
        final = await stream.get_final_response()
    assert rest == list(range(21, len(events)))
    assert final.output_text == events[-1]["response"]["output"][1]["content"][0]["text"]


async def test_structured_output_fits_the_schema_that_was_asked_for(instant: Scene) -> None:
    parsed = (await instant.client.responses.parse(**ASK, text_format=Weather)).output_parsed
    assert isinstance(parsed, Weather)
    async with instant.client.responses.stream(**ASK, text_format=Weather) as stream:
        assert (await stream.get_final_response()).output_parsed is not None


async def test_a_tool_is_called_with_arguments_that_fit_and_its_output_gets_an_answer(instant: Scene) -> None:
    ask = {**ASK, "tools": [FUNCTION], "metadata": {"scenario": "tool"}}
    async with instant.client.responses.stream(**ask) as stream:
        first = await stream.get_final_response()
    call = first.output[-1]
    assert call.type == "function_call"
    assert call.name == "weather"
    assert set(json.loads(call.arguments)) == {"city"}
    answer = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    second = await instant.client.responses.create(**{**ask, "input": [answer]}, previous_response_id=first.id)
    assert second.output[-1].type == "message"
    assert second.previous_response_id == first.id


# --- stream-retrieve -------------------------------------------------------------------------------------


async def test_starting_after_is_exclusive_and_zero_is_a_cursor(still: Scene) -> None:
    events = await finished_stream(still)
    response_id = events[0]["response"]["id"]
    for after in (0, 9, len(events) - 2, len(events) - 1, len(events) + 5):
        resumed = await still.client.responses.retrieve(response_id, stream=True, starting_after=after)
        assert await all_of(resumed) == events[after + 1 :]
    assert await all_of(await still.client.responses.retrieve(response_id, stream=True)) == events


async def test_a_replay_has_another_key_order_and_the_same_values(still: Scene) -> None:
    url = still.server.make_url("/v1/responses")
    async with still.http.post(url, json=STREAMED) as answer:
        still.simulator.skip(60)
        live = (await answer.read()).decode()
    response_id = json.loads(live.split("\n")[1].removeprefix("data: "))["response"]["id"]
    async with still.http.get(f"{url}/{response_id}?stream=true") as answer:
        replay = (await answer.read()).decode()
    assert replay != live

    def values(body: str) -> list[Any]:
        return [json.loads(line.removeprefix("data: ")) for line in body.split("\n") if line.startswith("data: ")]

    assert values(replay) == values(live)


async def test_a_reader_of_a_running_response_gets_what_has_come_and_then_follows(still: Scene) -> None:
    live = await still.client.responses.create(**STREAMED)
    created = await anext(live.__aiter__())
    late = await still.client.responses.retrieve(created.response.id, stream=True, starting_after=0)
    reader = late.__aiter__()
    assert (await anext(reader)).type == "response.queued"
    assert still.simulator.connections(created.response.id) == 2
    still.simulator.skip(60)
    assert types([event.to_dict() async for event in reader])[-1] == "response.completed"


async def test_after_five_minutes_a_response_is_no_longer_streamed_and_still_polled(still: Scene) -> None:
    response_id = (await finished_stream(still))[0]["response"]["id"]
    still.simulator.skip(300)
    with pytest.raises(openai.BadRequestError, match="more than 5 minutes old"):
        await still.client.responses.retrieve(response_id, stream=True)
    assert (await still.client.responses.retrieve(response_id)).status == "completed"


@pytest.mark.parametrize(
    ("mode", "reason"), [({}, "background=true"), ({"background": True}, "stream=true")], ids=["foreground", "polled"]
)
async def test_what_was_not_created_as_a_background_stream_is_not_streamed(
    instant: Scene, mode: dict[str, Any], reason: str
) -> None:
    response = await instant.client.responses.create(**ASK, **mode)
    with pytest.raises(openai.BadRequestError) as refused:
        await instant.client.responses.retrieve(response.id, stream=True)
    assert refused.value.body == {
        "message": f"This response cannot be streamed because it was not created with {reason}.",
        "type": "invalid_request_error",
        "param": "stream",
        "code": "invalid_request_error",
    }


async def test_a_cursor_that_is_no_number_is_refused(still: Scene) -> None:
    response_id = (await finished_stream(still))[0]["response"]["id"]
    for cursor in ("x", "-1", "1.5", ""):
        answer, body = await still.get(f"/v1/responses/{response_id}?stream=true&starting_after={cursor}")
        assert (answer.status, body["error"]["param"]) == (400, "starting_after")


async def test_only_foreground_deltas_are_padded_unless_the_client_declines(instant: Scene) -> None:
    async def padded(**more: Any) -> set[str]:
        events = await all_of(await instant.client.responses.create(**ASK, stream=True, **more))
        return {event["type"] for event in events if "obfuscation" in event}

    assert await padded() == {"response.output_text.delta", "response.reasoning_summary_text.delta"}
    assert await padded(stream_options={"include_obfuscation": False}) == set()
    assert await padded(background=True) == set()
