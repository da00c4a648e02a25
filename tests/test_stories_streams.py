"""Streams that are lost and found again: whoever comes back with the last number that it has misses nothing."""

import asyncio

import aiohttp
import openai
import pytest
from stories import KEY, STILL, all_of, ask, fetch, job, numbers, some, types, until, until_error

from gateway.domain.facts import Attached, Detached, Ended
from gateway.domain.response import Ending


async def uncut(upstream, response_id):
    """Every event of a response as upstream itself replays them."""
    url = f"{upstream.url}/responses/{response_id}?stream=true"
    return (await fetch(url)).events


async def test_a_foreground_stream_comes_whole(stage):
    _, gateway = await stage()
    events = await all_of(await gateway.client().responses.create(**ask(), stream=True))
    assert types(events)[0] == "response.created"
    assert types(events)[-1] == "response.completed"
    assert numbers(events) == list(range(len(events)))
    await gateway.facts.wait_for(Ended)
    assert len(gateway.facts.of(Ended)) == 1


async def test_a_stream_has_upstreams_own_bytes_live_and_replayed(stage):
    upstream, gateway = await stage(simulated=STILL)
    url = f"{gateway.url}/v1/responses"
    live = asyncio.create_task(fetch(url, "POST", body=job()))
    created = await gateway.facts.wait_for(Attached)
    upstream.simulator.skip(60)
    first = await live
    response_id = first.events[0]["response"]["id"]
    replayed = await fetch(f"{url}/{response_id}?stream=true")
    assert created.kind == "first"
    assert replayed.body == first.body
    assert first.events == await uncut(upstream, response_id)


async def test_a_client_that_loses_its_line_in_the_middle_and_resumes_misses_nothing(stage):
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    stream = await client.responses.create(**job())
    upstream.simulator.skip(2)
    before = await some(stream, 20)
    left = await gateway.facts.wait_for(Detached)
    upstream.simulator.skip(60)
    response_id = before[0]["response"]["id"]
    after = await all_of(await client.responses.retrieve(response_id, stream=True, starting_after=19))
    assert left.how == "client"
    assert before + after == await uncut(upstream, response_id)
    assert upstream.asked("POST", "/responses") == 1


async def test_a_client_may_lose_its_line_five_times(stage):
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    stream = await client.responses.create(**job())
    upstream.simulator.skip(1)
    events = await some(stream, 5)
    response_id = events[0]["response"]["id"]
    for _ in range(4):
        upstream.simulator.skip(0.5)
        stream = await client.responses.retrieve(response_id, stream=True, starting_after=numbers(events)[-1])
        events += await some(stream, 7)
    upstream.simulator.skip(60)
    stream = await client.responses.retrieve(response_id, stream=True, starting_after=numbers(events)[-1])
    events += await all_of(stream)
    assert events == await uncut(upstream, response_id)
    assert [fact.kind for fact in gateway.facts.of(Attached)] == ["first"] + ["resume"] * 5


async def test_two_clients_resume_one_stream_at_the_same_time(stage):
    upstream, gateway = await stage(simulated=STILL)
    stream = await gateway.client().responses.create(**job())
    upstream.simulator.skip(2)
    before = await some(stream, 10)
    response_id = before[0]["response"]["id"]

    async def resume(after):
        stream = await gateway.client().responses.retrieve(response_id, stream=True, starting_after=after)
        return await all_of(stream)

    readers = [asyncio.create_task(resume(9)), asyncio.create_task(resume(3))]
    await gateway.facts.wait_for(Attached, lambda fact: fact.after == 9)
    await gateway.facts.wait_for(Attached, lambda fact: fact.after == 3)
    upstream.simulator.skip(60)
    after_nine, after_three = await asyncio.gather(*readers)
    whole = await uncut(upstream, response_id)
    assert before + after_nine == whole
    assert before[:4] + after_three == whole


async def test_a_stream_is_replayed_after_its_end_and_after_upstream_forgot_it(stage):
    upstream, gateway = await stage()
    client = gateway.client()
    first = await all_of(await client.responses.create(**job()))
    response_id = first[0]["response"]["id"]
    asked = len(upstream.simulator.requests)
    again = await all_of(await client.responses.retrieve(response_id, stream=True))
    upstream.simulator.forget(response_id)
    forgotten = await all_of(await client.responses.retrieve(response_id, stream=True, starting_after=0))
    assert again == first
    assert forgotten == first[1:]
    assert len(upstream.simulator.requests) == asked


async def test_a_stream_is_resumed_after_upstreams_own_window_has_closed(stage):
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    stream = await client.responses.create(**job("long"))
    upstream.simulator.skip(200)
    before = await some(stream, 30)
    response_id = before[0]["response"]["id"]
    upstream.simulator.skip(400)
    with pytest.raises(openai.BadRequestError, match="more than 5 minutes old"):
        await client.with_options(base_url=upstream.url).responses.retrieve(response_id, stream=True, starting_after=29)
    stream = await client.responses.retrieve(response_id, stream=True, starting_after=29)
    upstream.simulator.skip(3000)
    after = await all_of(stream)
    assert numbers(before + after) == list(range(len(before + after)))
    assert types(after)[-1] == "response.completed"


async def test_the_sdks_own_helper_resumes(stage):
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    before = await some(await client.responses.create(**job()), 2)
    upstream.simulator.skip(60)
    response_id = before[0]["response"]["id"]
    async with client.responses.stream(response_id=response_id, starting_after=25) as helper:
        seen = [event.sequence_number async for event in helper]
        final = await helper.get_final_response()
    whole = numbers(await uncut(upstream, response_id))
    assert sorted(set(seen)) == whole[26:]
    assert final.status == "completed"
    assert final.output_text == (await client.responses.retrieve(response_id)).output_text


async def test_a_foreground_stream_is_resumed_while_it_lingers(stage):
    upstream, gateway = await stage(simulated=STILL, linger_s=600)
    client = gateway.client()
    stream = await client.responses.create(**ask(), stream=True)
    upstream.simulator.skip(2)
    before = await some(stream, 20)
    response_id = before[0]["response"]["id"]
    await gateway.facts.wait_for(Detached)
    stream = await client.responses.retrieve(response_id, stream=True, starting_after=19)
    upstream.simulator.skip(60)
    after = await all_of(stream)
    assert numbers(before + after) == list(range(len(before + after)))
    assert types(after)[-1] == "response.completed"
    assert upstream.asked("GET", "/responses") == 0


async def test_a_foreground_stream_that_nobody_reads_is_stopped_after_its_linger(stage):
    upstream, gateway = await stage(simulated=STILL, linger_s=0.2)
    client = gateway.client()
    stream = await client.responses.create(**ask(), stream=True)
    upstream.simulator.skip(2)
    before = await some(stream, 20)
    response_id = before[0]["response"]["id"]
    ended = await gateway.facts.wait_for(Ended)
    await until(lambda: not upstream.simulator.connections(response_id))
    assert ended.response.ending is Ending.ABANDONED
    assert upstream.simulator.status(response_id) is None
    after, error = await until_error(await client.responses.retrieve(response_id, stream=True, starting_after=19))
    assert error.code == "response_abandoned"
    assert numbers(before + after) == list(range(len(before + after)))
    assert len(gateway.facts.of(Ended)) == 1


async def test_a_foreground_stream_with_a_reader_does_not_run_out_of_linger(stage):
    _, gateway = await stage(simulated=STILL, linger_s=0.2, heartbeat_s=0.05)
    client = gateway.client()
    before = await some(await client.responses.create(**ask(), stream=True), 2)
    stream = await client.responses.retrieve(before[0]["response"]["id"], stream=True, starting_after=1)
    # Longer than the linger by far: what is waited for is told by the gateway's own heartbeats.
    beats = 0
    async for line in stream.response.aiter_lines():
        beats += line.startswith(": keepalive")
        if beats == 20:
            break
    assert gateway.facts.of(Ended) == []
    await stream.close()


async def test_in_silence_heartbeats_come_between_events_and_never_within_one(stage):
    _, gateway = await stage(simulated={"speed": 400.0}, heartbeat_s=0.02)
    answer = await fetch(f"{gateway.url}/v1/responses", "POST", body=job("silent"))
    blocks = answer.body.split(b"\n\n")
    assert blocks.pop() == b""
    beats = [block for block in blocks if block.startswith(b":")]
    assert len(beats) > 3
    assert set(beats) == {b": keepalive"}
    assert all(block.startswith(b"event: ") for block in blocks if block not in beats)
    assert b"\nid:" not in answer.body
    assert b"retry:" not in answer.body


async def test_a_stream_that_is_silent_for_six_minutes_goes_on(stage):
    _, gateway = await stage(simulated={"speed": 400.0}, patience_s=0.1)
    events = await all_of(await gateway.client().responses.create(**job("silent")))
    assert numbers(events) == list(range(len(events)))
    assert types(events)[-1] == "response.completed"
    ended = await gateway.facts.wait_for(Ended)
    assert ended.response.counts.reattaches == 0


async def test_a_stream_headers_tell_intermediaries_to_hand_it_on_at_once(stage):
    _, gateway = await stage()
    answer = await fetch(f"{gateway.url}/v1/responses", "POST", body=job())
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert answer.headers["Cache-Control"] == "no-cache, no-transform"
    assert answer.headers["x-request-id"].startswith("req_")
    assert "Set-Cookie" not in answer.headers


async def test_an_event_of_ten_megabytes_passes_and_replays(stage):
    _, gateway = await stage()
    url = f"{gateway.url}/v1/responses"
    first = await fetch(url, "POST", body=job("big", bytes=10_000_000))
    again = await fetch(f"{url}/{first.events[0]['response']['id']}?stream=true")
    assert len(first.body) > 10_000_000
    assert first.events[-1]["type"] == "response.completed"
    assert again.body == first.body


async def test_a_reader_that_takes_nothing_is_dropped_and_harms_nobody(simulate, gateway_for):
    gateway = await gateway_for((await simulate()).url, write_timeout_s=0.2)
    url = f"{gateway.url}/v1/responses"
    big = job("big", bytes=20_000_000)
    async with aiohttp.ClientSession(read_bufsize=1024, headers=KEY) as http, http.post(url, json=big) as stuck:
        left = await gateway.facts.wait_for(Detached)
        with pytest.raises(aiohttp.ClientError):
            await stuck.read()
    again = await fetch(f"{url}/{left.response.response_id}?stream=true")
    assert left.how == "slow"
    assert again.events[-1]["type"] == "response.completed"


async def test_a_slow_reader_of_a_big_event_is_not_taken_for_one_that_takes_nothing(simulate, gateway_for):
    gateway = await gateway_for((await simulate()).url, write_timeout_s=2)
    url = f"{gateway.url}/v1/responses"
    first = await fetch(url, "POST", body=job("big", bytes=16_000_000))
    replay = f"{url}/{first.events[0]['response']['id']}?stream=true"
    read = 0
    async with aiohttp.ClientSession(read_bufsize=1024, headers=KEY) as http, http.get(replay) as answer:
        while piece := await answer.content.read(1 << 18):
            read += len(piece)
            await asyncio.sleep(0.07)  # the pace of a slow line: one event takes it longer than the limit
    assert read == len(first.body)
    assert (await gateway.facts.wait_for(Detached, lambda fact: fact.kind == "replay")).how == "end"
