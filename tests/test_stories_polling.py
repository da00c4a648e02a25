"""Background responses that are polled: any number of clients ask the gateway, upstream is asked seldom."""

import asyncio
import time

import openai
import pytest
from stories import STILL, all_of, ask, fetch, job, live, some, until, until_error

from gateway.domain.facts import Attached, Cancelled, ClientPolled, Ended, TokenIssued, TokenRedeemed
from gateway.domain.response import Ending, Status

RUNNING = ("queued", "in_progress")


async def finished(client, response_id):
    """Poll as an application does, until the response is over."""
    seen = []
    async with asyncio.timeout(60):
        while True:
            response = await client.responses.retrieve(response_id)
            seen.append(response.status)
            if response.status not in RUNNING:
                return response, list(dict.fromkeys(seen))
            await asyncio.sleep(0.02)


async def test_a_background_response_is_polled_to_its_end(stage):
    upstream, gateway = await stage(simulated={"speed": 4.0})
    client = gateway.client()
    created = await client.responses.create(**ask(), background=True)
    response, seen = await finished(client, created.id)
    direct = await client.with_options(base_url=upstream.url).responses.retrieve(created.id)
    assert created.status == "queued"
    assert seen[-2:] == ["in_progress", "completed"]
    assert response.to_dict() == direct.to_dict()
    ended = await gateway.facts.wait_for(Ended)
    assert ended.response.usage is not None
    assert ended.response.usage.output == response.usage.output_tokens
    assert len(gateway.facts.of(Ended)) == 1


async def test_a_foreground_response_is_counted_from_its_answer(stage):
    upstream, gateway = await stage()
    response = await gateway.client().responses.create(**ask())
    ended = await gateway.facts.wait_for(Ended)
    assert ended.response.status is Status.COMPLETED
    assert ended.response.usage is not None
    assert ended.response.usage.input == response.usage.input_tokens
    assert len(upstream.simulator.requests) == 1


async def test_the_gateway_sees_the_end_though_no_client_polls(stage):
    _, gateway = await stage()
    created = await gateway.client().responses.create(**ask(), background=True)
    ended = await gateway.facts.wait_for(Ended)
    assert (ended.response.response_id, ended.response.status) == (created.id, Status.COMPLETED)


async def test_fifty_clients_that_poll_are_one_to_upstream(stage):
    upstream, gateway = await stage(simulated=STILL, poll_schedule_s=(1.0,), poll_max_age_s=0.5)
    created = await gateway.client().responses.create(**ask("stuck"), background=True)
    client = gateway.client()
    began = time.monotonic()
    for _ in range(4):
        answers = await asyncio.gather(*(client.responses.retrieve(created.id) for _ in range(50)))
        assert {answer.status for answer in answers} == {"queued"}
    for _ in range(50):
        assert (await client.responses.retrieve(created.id)).status == "queued"
    took = time.monotonic() - began
    asked = upstream.asked("GET", created.id)
    assert len(gateway.facts.of(ClientPolled)) == 250
    # One whenever the last is too old, and what the schedule (with its jitter) brings.
    assert asked <= 2 + took / 0.5 + took / 0.9


async def test_polls_at_the_same_moment_share_one_upstream_call(stage):
    upstream, gateway = await stage(simulated=STILL, poll_schedule_s=(300.0,), poll_max_age_s=0.001)
    created = await gateway.client().responses.create(**ask("stuck"), background=True)
    client = gateway.client()
    await until(lambda: time.time() > live(gateway, created.id).body.at + 0.001)
    polls = [asyncio.create_task(client.responses.retrieve(created.id)) for _ in range(20)]
    await asyncio.gather(*polls)
    served = [fact.served for fact in gateway.facts.of(ClientPolled)]
    assert upstream.asked("GET", created.id) == served.count("upstream") < 20


async def test_a_finished_response_is_polled_without_any_upstream_call(stage):
    upstream, gateway = await stage()
    client = gateway.client()
    created = await client.responses.create(**ask(), background=True)
    await gateway.facts.wait_for(Ended)
    asked = len(upstream.simulator.requests)
    answers = [await client.responses.retrieve(created.id) for _ in range(5)]
    upstream.simulator.forget(created.id)
    answers.append(await client.responses.retrieve(created.id))
    assert {answer.status for answer in answers} == {"completed"}
    assert all(answer.output_text == answers[0].output_text for answer in answers)
    assert len(upstream.simulator.requests) == asked


async def test_a_poll_of_a_streamed_response_needs_no_upstream_call(stage):
    upstream, gateway = await stage(simulated=STILL, poll_max_age_s=0.001)
    client = gateway.client()
    before = await some(await client.responses.create(**job()), 2)
    response_id = before[0]["response"]["id"]
    assert (await client.responses.retrieve(response_id)).status == "queued"
    wait = {"Prefer": "wait=20"}
    held = asyncio.create_task(client.responses.retrieve(response_id, extra_headers=wait))
    await until(lambda: live(gateway, response_id).holds)
    upstream.simulator.skip(1)
    assert (await held).status == "in_progress"
    upstream.simulator.skip(60)
    response, _ = await finished(client, response_id)
    assert response.output_text
    assert upstream.asked("GET", "/responses") == 0


async def test_prefer_wait_is_answered_when_the_status_changes(stage):
    upstream, gateway = await stage(simulated=STILL, poll_schedule_s=(300.0,), poll_waiting_s=0.05)
    client = gateway.client()
    created = await client.responses.create(**ask(), background=True)
    held = asyncio.create_task(
        client.responses.with_raw_response.retrieve(created.id, extra_headers={"Prefer": "wait=20"})
    )
    await until(lambda: live(gateway, created.id).holds)
    upstream.simulator.skip(1)
    answer = await held
    assert answer.headers["Preference-Applied"] == "wait=20"
    assert answer.parse().status == "in_progress"
    assert upstream.asked("GET", created.id) > 0
    assert all(seen.header("prefer") is None for seen in upstream.simulator.requests)


async def test_prefer_wait_is_answered_when_its_time_is_over(stage):
    _, gateway = await stage(simulated=STILL, prefer_wait_max_s=0.2)
    client = gateway.client()
    created = await client.responses.create(**ask("stuck"), background=True)
    answer = await client.responses.with_raw_response.retrieve(created.id, extra_headers={"Prefer": "wait=20"})
    assert answer.headers["Preference-Applied"] == "wait=0.2"
    assert answer.parse().status == "queued"


async def test_a_client_that_goes_during_a_held_poll_is_released(stage):
    _, gateway = await stage(simulated=STILL)
    client = gateway.client()
    created = await client.responses.create(**ask("stuck"), background=True)
    held = asyncio.create_task(client.responses.retrieve(created.id, extra_headers={"Prefer": "wait=50"}))
    await until(lambda: live(gateway, created.id).holds == 1)
    held.cancel()
    await until(lambda: live(gateway, created.id).holds == 0)


async def test_a_cancel_ends_the_response_for_whoever_polls_or_reads(stage):
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    stream = await client.responses.create(**job())
    upstream.simulator.skip(2)
    created = (await anext(aiter(stream))).response
    reader = asyncio.create_task(until_error(stream))
    await until(lambda: live(gateway, created.id).response.status is Status.IN_PROGRESS)
    held = asyncio.create_task(client.responses.retrieve(created.id, extra_headers={"Prefer": "wait=50"}))
    await until(lambda: live(gateway, created.id).holds)
    cancelled = await client.responses.cancel(created.id)
    events, error = await reader
    assert cancelled.status == "cancelled"
    assert error.code == "response_cancelled"
    assert error.body["message"]
    assert (await held).status == "cancelled"
    assert (await client.responses.retrieve(created.id)).status == "cancelled"
    replayed, error = await until_error(await client.responses.retrieve(created.id, stream=True))
    assert replayed[1:] == events
    assert error.code == "response_cancelled"
    ended = gateway.facts.of(Ended)
    assert [(fact.response.status, fact.response.ending) for fact in ended] == [(Status.CANCELLED, Ending.TERMINAL)]


async def test_the_nested_error_after_a_cancel_has_the_last_number_that_the_reader_got(stage):
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    stream = await client.responses.create(**job())
    upstream.simulator.skip(2)
    created = (await some(stream, 5))[0]["response"]
    await client.responses.cancel(created["id"])
    url = f"{gateway.url}/v1/responses/{created['id']}?stream=true"
    replay = (await fetch(url)).events
    assert replay[-1]["sequence_number"] == replay[-2]["sequence_number"]
    assert set(replay[-1]) == {"type", "sequence_number", "error"}
    assert replay[-1]["error"]["code"] == "response_cancelled"
    beyond = (await fetch(f"{url}&starting_after=1000")).events
    assert [event["sequence_number"] for event in beyond] == [1000]


async def test_a_cancel_ends_an_upstream_stream_that_would_go_on(stage):
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    stream = await client.responses.create(**job("cancelled_completes", silence_s="inf"))
    upstream.simulator.skip(5)
    created = (await some(stream, 8))[0]["response"]
    assert (await client.responses.cancel(created["id"])).status == "cancelled"
    await until(lambda: not upstream.simulator.connections(created["id"]))


async def test_cancelling_twice_or_after_the_end_is_as_upstream_has_it(stage):
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    stuck = await client.responses.create(**ask("stuck"), background=True)
    first = await client.responses.cancel(stuck.id)
    second = await client.responses.cancel(stuck.id)
    assert first.to_dict() == second.to_dict()
    done = await client.responses.create(**ask(), background=True)
    upstream.simulator.skip(60)
    await gateway.facts.wait_for(Ended, lambda fact: fact.response.response_id == done.id)
    assert (await client.responses.cancel(done.id)).status == "completed"
    stream = await client.responses.create(**job())
    upstream.simulator.skip(60)
    streamed = (await all_of(stream))[0]["response"]
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a completed response"):
        await client.responses.cancel(streamed["id"])
    assert [fact.status for fact in gateway.facts.of(Cancelled)] == [200, 200, 200, 400]
    assert len(gateway.facts.of(Ended)) == 3


async def test_a_deleted_response_is_gone_for_everybody(stage):
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    stream = await client.responses.create(**job())
    upstream.simulator.skip(2)
    created = (await anext(aiter(stream))).response
    reader = asyncio.create_task(until_error(stream))
    await gateway.facts.wait_for(Attached)
    await client.responses.delete(created.id)
    _, error = await reader
    assert error.code == "response_deleted"
    for again in ({}, {"stream": True}, {"stream": True, "starting_after": 3}):
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(created.id, **again)
    assert [fact.response.ending for fact in gateway.facts.of(Ended)] == [Ending.DELETED]
    await until(lambda: not gateway.gateway.context.tracker.live)


async def test_a_finished_response_can_be_deleted(stage):
    _, gateway = await stage()
    client = gateway.client()
    events = await all_of(await client.responses.create(**job()))
    response_id = events[0]["response"]["id"]
    await client.responses.delete(response_id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response_id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response_id, stream=True)
    assert len(gateway.facts.of(Ended)) == 1


async def test_what_upstream_has_forgotten_can_still_be_deleted_here(stage):
    upstream, gateway = await stage()
    client = gateway.client()
    response_id = (await all_of(await client.responses.create(**job())))[0]["response"]["id"]
    upstream.simulator.forget(response_id)
    assert (await client.responses.retrieve(response_id)).status == "completed"
    with pytest.raises(openai.NotFoundError):
        await client.responses.delete(response_id)
    for again in ({}, {"stream": True}):
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response_id, **again)


async def test_input_items_come_from_upstream(stage):
    _, gateway = await stage()
    client = gateway.client()
    created = await client.responses.create(**ask(), background=True)
    items = await client.responses.input_items.list(created.id)
    assert [item.content[0].text for item in items.data] == ["What did the tide bring?"]


async def test_include_asks_upstream_until_upstream_has_forgotten(stage):
    upstream, gateway = await stage()
    client = gateway.client()
    created = await client.responses.create(**ask(), background=True)
    await gateway.facts.wait_for(Ended)
    include = ["message.output_text.logprobs"]
    await client.responses.retrieve(created.id, include=include)
    assert "include" in upstream.simulator.requests[-1].path
    upstream.simulator.forget(created.id)
    kept = await client.responses.retrieve(created.id, include=include)
    assert kept.status == "completed"
    assert "include" in upstream.simulator.requests[-1].path


async def test_a_token_says_where_to_go_on_until_there_is_nothing_to_continue(stage):
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    raw = client.responses.with_raw_response
    created = await raw.create(**ask(), background=True)
    response_id = created.parse().id
    assert created.headers["x-gateway-continuation-token"] == response_id
    assert (await raw.retrieve(response_id)).headers["x-gateway-continuation-token"] == response_id
    upstream.simulator.skip(60)
    await gateway.facts.wait_for(Ended)
    assert "x-gateway-continuation-token" not in (await raw.retrieve(response_id)).headers
    assert len(gateway.facts.of(TokenIssued)) == 2
    assert [fact.how for fact in gateway.facts.of(TokenRedeemed)] == ["poll"]


async def test_the_poll_that_brings_the_end_has_no_token_any_more(stage):
    upstream, gateway = await stage(simulated=STILL, poll_schedule_s=(300.0,), poll_max_age_s=0.001)
    client = gateway.client()
    created = await client.responses.create(**ask(), background=True)
    upstream.simulator.skip(60)
    answer = await client.responses.with_raw_response.retrieve(created.id)
    assert (answer.parse().status, answer.headers["x-gateway-served"]) == ("completed", "upstream")
    assert "x-gateway-continuation-token" not in answer.headers


async def test_what_the_gateway_reads_itself_is_asked_for_uncompressed(stage):
    upstream, gateway = await stage(simulated={"gzip": True})
    created = await gateway.client().responses.create(**ask(), background=True)
    assert (await gateway.facts.wait_for(Ended)).response.response_id == created.id
    assert {seen.header("accept-encoding") for seen in upstream.simulator.requests} == {"identity"}
