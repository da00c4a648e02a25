"""Many at once, and all kinds of trouble at once: every reader still gets every event exactly once."""

import asyncio
import random

import openai
import pytest
from stories import all_of, ask, job, numbers

from gateway.domain.facts import Ended

TERMINAL = ("response.completed", "response.failed", "response.incomplete")


async def test_three_hundred_streams_and_a_thousand_followers_at_once(stage):
    upstream, gateway = await stage(simulated={"speed": 5.0})
    client = gateway.client()

    async def streamed():
        return await all_of(await client.responses.create(**job(delta_count=10)))

    async def followed(response_id):
        return numbers(await all_of(await client.responses.retrieve(response_id, stream=True)))

    shared = await client.responses.create(**job("slow", delta_count=30))
    response_id = (await anext(aiter(shared))).response.id
    *streams, followers = await asyncio.gather(
        *(streamed() for _ in range(300)), asyncio.gather(*(followed(response_id) for _ in range(1000)))
    )
    await shared.close()

    assert all(numbers(events) == list(range(len(events))) for events in streams)
    assert {events[-1]["type"] for events in streams} == {"response.completed"}
    assert followers == [await upstream.numbers_of(response_id)] * 1000
    assert len(gateway.facts.of(Ended)) == 301
    assert gateway.gateway.context.tracker.live == {}
    assert gateway.gateway.context.tracker.followers == 0


async def come_and_go(client, response_id, chance):
    """A reader that leaves wherever it likes and goes on from its last number: what it got in all."""
    got = []
    while not got or got[-1]["type"] not in TERMINAL:
        cursor = {"starting_after": got[-1]["sequence_number"]} if got else {}
        stream = await client.responses.retrieve(response_id, stream=True, **cursor)
        leaves_after = chance.choice([1, 3, 10, 1000])
        async for event in stream:
            got.append(event.to_dict())
            if chance.random() < 0.1:
                await asyncio.sleep(0)
            if not (leaves_after := leaves_after - 1):
                break
        await stream.close()
    return got


@pytest.mark.parametrize("seed", range(3))
async def test_in_a_chaos_of_cuts_and_readers_that_come_and_go_nobody_misses_or_repeats_an_event(stage, seed):
    chance = random.Random(seed)
    _, gateway = await stage(simulated={"speed": 10.0, "seed": seed})
    client = gateway.client()

    async def one():
        scenario = chance.choice(
            ["normal", "drops", "drops_every", "drops_within", "closes", "keepalive", "refuses_resume"]
        )
        created = await client.responses.create(**job(scenario, delta_count=chance.randint(5, 60)))
        first = (await anext(aiter(created))).response.id
        await created.close()
        readers = await asyncio.gather(*(come_and_go(client, first, random.Random(f"{seed}{n}")) for n in range(4)))
        return readers, await all_of(await client.responses.retrieve(first, stream=True))

    for readers, replayed in await asyncio.gather(*(one() for _ in range(12))):
        assert all(reader == replayed for reader in readers)
        assert numbers(replayed) == sorted(set(numbers(replayed)))
    ended = gateway.facts.of(Ended)
    assert len(ended) == len({fact.response.key for fact in ended}) == 12


async def test_beyond_its_limit_of_live_responses_a_create_is_refused_with_a_word_when_to_come_back(stage):
    upstream, gateway = await stage(max_live=2)
    client = gateway.client()
    for _ in range(2):
        await client.responses.create(**ask("stuck"), background=True)
    with pytest.raises(openai.InternalServerError) as refused:
        await client.responses.create(**ask(), background=True)
    assert (refused.value.status_code, refused.value.code) == (503, "gateway_overloaded")
    assert refused.value.response.headers["Retry-After"]
    assert upstream.asked("POST", "responses") == 2


async def test_beyond_its_limit_of_followers_a_reader_is_refused_and_the_response_goes_on(stage):
    _, gateway = await stage(max_followers=1)
    client = gateway.client()
    stream = await client.responses.create(**job("stuck"))
    response_id = (await anext(aiter(stream))).response.id
    with pytest.raises(openai.InternalServerError) as refused:
        await client.responses.retrieve(response_id, stream=True)
    assert refused.value.code == "gateway_overloaded"
    assert (await client.responses.retrieve(response_id)).status == "queued"
    await stream.close()
