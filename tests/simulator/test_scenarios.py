"""Every way in which a simulated response can behave."""

import asyncio
from math import inf
from typing import Any

import openai
import pytest
from scene import (
    ASK,
    FUNCTION,
    NOON,
    STREAMED,
    Scene,
    acting,
    all_of,
    eventually,
    finished_stream,
    numbers,
    raw_request,
    staged,
    types,
    until_cut,
)

from gateway.simulator import SCENARIOS
from gateway.simulator.plan import Plan
from gateway.simulator.script import events, response_at


async def test_a_scenario_is_chosen_by_the_models_name_too(instant: Scene) -> None:
    response = await instant.client.responses.create(model="simulated-incomplete", input="x")
    assert (response.status, response.completed_at) == ("incomplete", None)
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


async def test_an_unknown_scenario_or_setting_is_refused_with_what_there_is(still: Scene) -> None:
    with pytest.raises(openai.BadRequestError, match="There are: normal, slow"):
        await still.client.responses.create(**ASK, **acting("nonsense"))
    for wrong in ("many", "-1", "nan"):
        with pytest.raises(openai.BadRequestError, match="after"):
            await still.client.responses.create(**ASK, **acting("drops", after=wrong))
    with pytest.raises(openai.BadRequestError, match="duration_s"):
        await still.client.responses.create(**ASK, **acting("normal", duration_s="nan"))


@pytest.mark.parametrize(("name", "how_it_is_resumed"), [("drops", 1), ("drops_within", 1), ("drops_every", 8)])
async def test_a_stream_that_is_cut_is_whole_when_it_is_resumed(
    still: Scene, name: str, how_it_is_resumed: int
) -> None:
    stream = await still.client.responses.create(**STREAMED, **acting(name, after=10))
    still.simulator.skip(60)
    got = await until_cut(stream)
    assert numbers(got) == list(range(10))
    for resume in range(1, how_it_is_resumed + 1):
        again = await still.client.responses.retrieve(
            got[0]["response"]["id"], stream=True, starting_after=got[-1]["sequence_number"]
        )
        got += await (all_of(again) if resume == how_it_is_resumed else until_cut(again))
    assert numbers(got) == list(range(len(got)))
    assert types(got)[-1] == "response.completed"


@pytest.mark.parametrize(("name", "ends", "whole"), [("drops", "reset", True), ("drops_within", "closed", False)])
async def test_a_cut_is_a_reset_or_an_end_within_an_event(still: Scene, name: str, ends: str, whole: bool) -> None:
    reader, writer = await raw_request(still, {**STREAMED, **acting(name)})
    still.simulator.skip(60)
    got = b""
    try:
        while more := await reader.read(65536):
            got += more
        ended = "closed"
    except ConnectionResetError:
        ended = "reset"
    writer.close()
    assert ended == ends
    assert got.count(b"event: ") == (12 if whole else 13)
    assert (got.rstrip().endswith(b"}")) == whole
    assert not got.endswith(b"0\r\n\r\n")


async def test_a_stream_that_closes_ends_cleanly_without_its_end(still: Scene) -> None:
    stream = await still.client.responses.create(**STREAMED, **acting("closes"))
    still.simulator.skip(60)
    got = await all_of(stream)
    assert numbers(got) == list(range(12))
    rest = await still.client.responses.retrieve(got[0]["response"]["id"], stream=True, starting_after=11)
    assert types(await all_of(rest))[-1] == "response.completed"


@pytest.mark.parametrize("name", ["drops", "drops_within", "closes"])
async def test_a_foreground_stream_that_is_cut_is_lost(instant: Scene, name: str) -> None:
    stream = await instant.client.responses.create(**ASK, stream=True, **acting(name))
    response_id = (await (all_of if name == "closes" else until_cut)(stream))[0]["response"]["id"]
    with pytest.raises(openai.NotFoundError):
        await instant.client.responses.retrieve(response_id)


async def test_a_resume_can_be_refused_and_the_response_is_polled(still: Scene) -> None:
    stream = await still.client.responses.create(**STREAMED, **acting("refuses_resume"))
    still.simulator.skip(60)
    response_id = (await until_cut(stream))[0]["response"]["id"]
    with pytest.raises(openai.BadRequestError, match="no longer be streamed"):
        await still.client.responses.retrieve(response_id, stream=True, starting_after=11)
    assert (await still.client.responses.retrieve(response_id)).status == "completed"


@pytest.mark.parametrize(("name", "status", "seen"), [("stuck", "queued", 2), ("stalls", "in_progress", 12)])
async def test_some_responses_never_end_until_they_are_cancelled(
    still: Scene, name: str, status: str, seen: int
) -> None:
    reader = (await still.client.responses.create(**STREAMED, **acting(name))).__aiter__()
    response_id = (await anext(reader)).response.id
    still.simulator.skip(1e9)
    for _ in range(seen - 1):
        await anext(reader)
    assert (await still.client.responses.retrieve(response_id)).status == status
    assert still.simulator.connections(response_id) == 1
    await still.client.responses.cancel(response_id)
    assert [event async for event in reader] == []


async def test_a_silent_stream_goes_on_after_six_minutes(still: Scene) -> None:
    reader = (await still.client.responses.create(**STREAMED, **acting("silent"))).__aiter__()
    response_id = (await anext(reader)).response.id
    still.simulator.skip(300)
    for _ in range(11):
        await anext(reader)
    assert still.simulator.status(response_id) == "in_progress"
    still.simulator.skip(100)
    assert types([event.to_dict() async for event in reader])[-1] == "response.completed"


async def test_a_failure_is_told_by_an_error_event_and_then_by_the_response(still: Scene) -> None:
    stream = await still.client.responses.create(**STREAMED, **acting("fails"))
    still.simulator.skip(60)
    with pytest.raises(openai.APIError, match="wfr_"):
        await all_of(stream)
    flat = await finished_stream(still, **acting("fails_flat"))
    assert types(flat)[-2:] == ["error", "response.failed"]
    assert flat[-2]["code"] == flat[-1]["response"]["error"]["code"] == "server_error"
    assert flat[-1]["response"]["output"] == []


def test_an_error_event_is_nested_and_may_carry_rate_limits() -> None:
    *_, told, failed = events(Plan("resp_1", NOON, SCENARIOS["rate_limited_midstream"], STREAMED, seed="s"))
    assert told.data["type"] == "error"
    assert told.data["error"]["code"] == failed.data["response"]["error"]["code"] == "rate_limit_exceeded"
    assert told.data["error"]["headers"]["x-ratelimit-remaining-tokens"] == "0"


async def test_a_lack_of_quota_fails_in_the_background_without_an_http_error(still: Scene) -> None:
    created = await still.client.responses.create(**ASK, background=True, **acting("quota"))
    still.simulator.skip(1)
    failed = await still.client.responses.retrieve(created.id)
    assert failed.error is not None
    assert (failed.status, failed.error.code, failed.usage) == ("failed", "insufficient_quota", None)


async def test_the_type_of_the_last_event_may_contradict_the_status_in_it(still: Scene) -> None:
    last = (await finished_stream(still, **acting("completed_incomplete")))[-1]
    assert (last["type"], last["response"]["status"]) == ("response.completed", "incomplete")


async def test_keepalives_use_up_numbers_or_repeat_the_last(still: Scene) -> None:
    using = await finished_stream(still, **acting("keepalive"))
    assert types(using)[12:17] == ["keepalive"] * 5
    assert numbers(using) == list(range(len(using)))
    repeating = await finished_stream(still, **acting("keepalive_repeated"))
    assert numbers(repeating) == [*range(12), *[11] * 5, *range(12, len(repeating) - 5)]
    again = await still.client.responses.retrieve(using[0]["response"]["id"], stream=True, starting_after=13)
    assert numbers(await all_of(again)) == list(range(14, len(using)))


async def test_numbers_may_be_missing_or_begin_again(still: Scene) -> None:
    assert all("sequence_number" not in event for event in await finished_stream(still, **acting("no_numbers")))
    events = await finished_stream(still, **acting("restarts"))
    assert numbers(events) == [*range(12), *range(len(events) - 12)]


async def test_one_event_can_be_big(still: Scene) -> None:
    events = await finished_stream(still, **acting("big", bytes=300_000))
    sizes = {event["type"]: len(event["partial_image_b64"]) for event in events if "partial_image_b64" in event}
    assert sizes == {"response.image_generation_call.partial_image": 300_000}
    assert events[-1]["response"]["output"][0]["type"] == "image_generation_call"


async def test_pace_and_length_can_be_set(still: Scene) -> None:
    created = await still.client.responses.create(
        **ASK, background=True, **acting("normal", queue_s=5, duration_s=30, delta_count=200)
    )
    for age_s, status in ((4, "queued"), (6, "in_progress"), (34, "in_progress"), (36, "completed")):
        still.simulator.skip(age_s)
        assert still.simulator.status(created.id) == status
        still.simulator.skip(-age_s)
    still.simulator.skip(40)
    assert len((await still.client.responses.retrieve(created.id)).output_text.split()) == 200


async def test_a_rate_limited_create_gets_through_when_it_is_repeated(still: Scene) -> None:
    patient = still.another(max_retries=2)
    await patient.responses.create(**ASK, background=True, **acting("rate_limited", retry_after_s=0.01))
    seen = still.simulator.asked("/responses", "POST")
    assert [one.header("X-Stainless-Retry-Count") for one in seen] == ["0", "1", "2"]


async def test_the_next_create_of_the_same_body_is_limited_anew(still: Scene) -> None:
    body = {**ASK, "background": True, **acting("rate_limited")}
    answers = [await still.call("POST", "/v1/responses", json=body) for _ in range(4)]
    assert [answer.status for answer, _ in answers] == [429, 429, 200, 429]
    refused, error = answers[0]
    assert refused.headers["Retry-After"] == "1"
    assert error["error"]["code"] == "rate_limit_exceeded"


async def test_every_second_poll_may_be_refused(still: Scene) -> None:
    created = await still.client.responses.create(**ASK, background=True, **acting("rate_limited_polls"))
    polls = [(await still.get(f"/v1/responses/{created.id}"))[0].status for _ in range(5)]
    assert polls == [429, 200, 429, 200, 429]


async def test_a_flaky_upstream_fails_every_second_time(still: Scene) -> None:
    body = {**ASK, "background": True, **acting("flaky")}
    created = [(await still.call("POST", "/v1/responses", json=body)) for _ in range(4)]
    assert [answer.status for answer, _ in created] == [500, 200, 500, 200]
    polls = [(await still.get(f"/v1/responses/{created[1][1]['id']}"))[0].status for _ in range(4)]
    assert polls == [500, 200, 500, 200]


async def test_errors_come_in_other_shapes_too(still: Scene) -> None:
    answer, body = await still.call("POST", "/v1/responses", json={**ASK, **acting("detail_error")})
    assert (answer.status, set(body)) == (422, {"detail"})
    with pytest.raises(openai.InternalServerError, match="502"):
        await still.client.responses.create(**ASK, background=True, **acting("bad_gateway"))
    with pytest.raises(openai.BadRequestError):
        await still.client.responses.create(**ASK, background=True, **acting("rejected"))


async def test_some_servers_answer_in_another_form_than_asked(still: Scene) -> None:
    url = still.server.make_url("/v1/responses")
    forms = {
        ("json_for_stream", True): (200, "application/json"),
        ("sse_for_json", False): (200, "text/event-stream"),
        ("refuses_stream", True): (400, "application/json"),
        ("refuses_stream", False): (200, "application/json"),
        ("created_202", False): (202, "application/json"),
    }
    for (name, stream), form in forms.items():
        async with still.http.post(url, json={**STREAMED, "stream": stream, **acting(name)}) as answer:
            assert (answer.status, answer.content_type) == form


async def test_other_servers_frame_their_streams_otherwise(still: Scene) -> None:
    async with still.http.post(
        still.server.make_url("/v1/responses"), json={**STREAMED, **acting("foreign")}
    ) as answer:
        still.simulator.skip(60)
        body = (await answer.read()).decode()
    assert "event:" not in body
    assert ": ping\n\n" in body
    assert body.endswith("data: [DONE]\n\n")
    assert types(await finished_stream(still, **acting("foreign")))[-1] == "response.completed"


async def test_a_create_whose_answer_is_lost_has_created_all_the_same(still: Scene) -> None:
    with pytest.raises(openai.APIConnectionError):
        await still.client.responses.create(**ASK, background=True, **acting("vanishes"))
    _, made = await still.get("/_simulator/responses")
    assert [one["status"] for one in made] == ["queued"]


async def test_a_late_answer_shows_what_has_become_of_the_response(still: Scene) -> None:
    creating = asyncio.ensure_future(still.client.responses.create(**ASK, background=True, **acting("late")))
    await eventually(lambda: still.simulator.connections())
    still.simulator.skip(5)
    assert (await creating).status == "completed"


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_script_is_a_pure_function_of_its_plan_in_the_order_of_time(name: str) -> None:
    plan = Plan("resp_1", NOON, SCENARIOS[name], {**STREAMED, "tools": [FUNCTION]}, seed="s")
    script = list(events(plan))
    assert script == list(events(plan))
    assert script[0].type == "response.created"
    assert [one.cursor for one in script] == sorted(one.cursor for one in script)
    ages = [one.age_s for one in script]
    assert ages == sorted(ages)
    if plan.end_s < inf:
        assert script[-1].data["response"] == response_at(plan, plan.end_s)
        assert script[-1].age_s == plan.end_s
        assert plan.status_at(plan.end_s - 0.01) == "in_progress"
    else:
        assert plan.status_at(1e12) in ("queued", "in_progress")


@pytest.mark.parametrize("name", SCENARIOS)
async def test_whatever_is_going_on_the_server_can_be_stopped(name: str) -> None:
    async with staged() as at:
        url = at.server.make_url("/v1/responses")

        async def read_all() -> bytes:
            async with at.http.post(url, json={**STREAMED, **acting(name)}) as answer:
                return await answer.read()

        reading = asyncio.ensure_future(read_all())
        await eventually(lambda: at.simulator.requests)
        await at.server.close()
        await asyncio.gather(reading, return_exceptions=True)


async def test_a_seed_decides_the_text_and_never_the_id() -> None:
    async def once(seed: int, clock: float) -> Any:
        async with staged(seed=seed, clock=lambda: clock) as at:
            created = await at.client.responses.create(**ASK, background=True)
            at.simulator.skip(60)
            return await at.client.responses.retrieve(created.id)

    first, second, other = await once(1, NOON), await once(1, NOON + 1), await once(2, NOON)
    assert first.output_text == second.output_text != other.output_text
    assert len({first.id, second.id, other.id}) == 3
