"""Stories of several gateways on one Redis: whoever a client talks to, and whoever dies, nobody notices which."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
import redis_server
from openai import AsyncOpenAI
from processes import Process, eventually, serve
from running import PATIENCE_S, Running, Upstream
from stories import STILL, Ahead, all_of, ask, fetch, following, job, live, numbers, some, types, until, until_error

from gateway.domain.facts import Ended, Joined, LetGo, TakenUp, UpstreamPolled
from gateway.domain.response import Status

Simulate = Callable[..., Awaitable[Upstream]]
Replicas = Callable[..., Awaitable[list[Running]]]
Serve = Callable[..., Awaitable[Process]]

ROUTE_KEY = "sk-gateway"
LONG_S = 3600.0
"""A lease that nobody waits for."""


@pytest.fixture
def shared(tmp_path: Path) -> str:
    """A place of its own on a real Redis."""
    return redis_server.url_for(tmp_path)


@pytest.fixture
def replicas(gateway_for: Callable[..., Awaitable[Running]], shared: str) -> Replicas:
    """Gateways on one Redis, in this process."""

    async def start(upstream: Upstream, count: int = 2, **settings: Any) -> list[Running]:
        return [await gateway_for(upstream.url, **{"store": shared, "lease_s": 10.0, **settings}) for _ in range(count)]

    return start


@pytest.fixture
def run(parts: AsyncExitStack, shared: str) -> Serve:
    """A gateway on that Redis, as a process of its own."""

    async def start(upstream: Upstream, **settings: Any) -> Process:
        quick = {"drain_delay_s": 0, "poll_schedule_s": "0.1", "lease_s": 1, "poll_max_age_s": 0.2}
        process = await serve(upstream.url, shared, **{**quick, **settings})
        parts.push_async_callback(process.close)
        return process

    return start


def ends(*gateways: Running) -> list[Ended]:
    return [fact for gateway in gateways for fact in gateway.facts.of(Ended)]


def posts(upstream: Upstream) -> int:
    return upstream.asked("POST", "/v1/responses")


async def polled(client: AsyncOpenAI, response_id: str) -> Any:
    """As a client polls, to the end."""
    return await eventually(
        lambda: client.responses.retrieve(response_id), lambda now: now.status not in ("queued", "in_progress")
    )


# Whoever is asked


async def test_a_response_is_created_here_and_polled_there_and_ends_once(
    simulate: Simulate, replicas: Replicas
) -> None:
    upstream = await simulate()
    a, b, c = await replicas(upstream, 3)
    created = await a.client().responses.create(**ask(), background=True)
    done = await asyncio.gather(*(polled(one.client(), created.id) for one in (a, b, c)))
    assert {one.status for one in done} == {"completed"}
    await until(lambda: ends(a, b, c))
    assert [fact.response.status for fact in ends(a, b, c)] == [Status.COMPLETED]


async def test_a_stream_is_read_here_and_there_and_resumed_elsewhere(simulate: Simulate, replicas: Replicas) -> None:
    upstream = await simulate(**STILL)
    a, b, c = await replicas(upstream, 3)
    stream = await a.client().responses.create(**job(delta_count=200))
    upstream.simulator.skip(2)
    first = await some(stream, 5)
    response_id = first[0]["response"]["id"]
    there = await b.client().responses.retrieve(response_id, stream=True)
    beginning = await following(there, 20)
    upstream.simulator.skip(60)
    elsewhere = await c.client().responses.retrieve(response_id, stream=True, starting_after=4)
    truth = await upstream.numbers_of(response_id)
    assert numbers([*beginning, *await all_of(there)]) == truth
    assert numbers([*first, *await all_of(elsewhere)]) == truth
    assert upstream.asked("GET", response_id) == 1  # the test's own look at the truth


async def test_a_cancel_that_another_replica_hands_on_ends_the_stream_for_its_readers_everywhere(
    simulate: Simulate, replicas: Replicas
) -> None:
    upstream = await simulate(**STILL)
    a, b = await replicas(upstream)
    stream = await a.client().responses.create(**job(delta_count=200))
    upstream.simulator.skip(2)
    response_id = (await following(stream, 3))[0]["response"]["id"]
    assert (await b.client().responses.cancel(response_id)).status == "cancelled"
    _, error = await until_error(stream)
    assert error.code == "response_cancelled"
    await until(lambda: not a.gateway.context.tracker.live)
    assert [fact.response.status for fact in ends(a, b)] == [Status.CANCELLED]


async def test_what_is_deleted_there_is_gone_here(simulate: Simulate, replicas: Replicas) -> None:
    upstream = await simulate(**STILL)
    a, b = await replicas(upstream)
    created = await a.client().responses.create(**ask(), background=True)
    await b.client().responses.delete(created.id)
    await until(lambda: not a.gateway.context.tracker.live)
    with pytest.raises(openai.NotFoundError):
        await a.client().responses.retrieve(created.id)


async def test_many_who_poll_at_every_replica_cost_upstream_one_poll_in_its_time(
    simulate: Simulate, replicas: Replicas
) -> None:
    upstream = await simulate(**STILL)
    later = Ahead()
    gateways = await replicas(upstream, 3, poll_max_age_s=LONG_S, poll_schedule_s=(LONG_S,), clock=later)
    created = await gateways[0].client().responses.create(**ask(), background=True)
    later.by_s = 2 * LONG_S
    polls = [one.client().responses.retrieve(created.id) for one in gateways for _ in range(20)]
    assert {one.status for one in await asyncio.gather(*polls)} == {"queued"}
    assert sum(len(one.facts.of(UpstreamPolled)) for one in gateways) == 1
    assert upstream.asked("GET", created.id) == 1


async def test_a_poll_that_waits_learns_of_a_change_that_another_replica_sees(
    simulate: Simulate, replicas: Replicas
) -> None:
    upstream = await simulate(**STILL)
    a, b = await replicas(upstream)
    created = await a.client().responses.create(**ask(), background=True)
    waiting = asyncio.ensure_future(
        b.client().responses.retrieve(created.id, extra_headers={"Prefer": "wait=50"}, timeout=PATIENCE_S)
    )
    await until(lambda: b.gateway.context.tracker.guests)
    upstream.simulator.skip(60)
    assert (await waiting).status == "completed"


async def test_a_token_that_was_shown_here_is_redeemed_there(simulate: Simulate, replicas: Replicas) -> None:
    upstream = await simulate(**STILL)
    a, b = await replicas(upstream)
    stream = await a.client().responses.create(**job(delta_count=200))
    upstream.simulator.skip(2)
    response_id = (await some(stream, 5))[0]["response"]["id"]
    shown = await fetch(f"{a.url}/v1/responses/{response_id}")
    token = shown.headers["x-gateway-continuation-token"]
    upstream.simulator.skip(60)
    answer = await fetch(f"{b.url}/v1/responses/{token}?stream=true")
    after = int(token.rpartition("~")[2])
    truth = await upstream.numbers_of(response_id)
    assert [number for number in numbers(answer.events) if number > after] == [n for n in truth if n > after]
    assert types(answer.events)[-1] == "response.completed"


async def test_a_foreground_stream_goes_on_for_a_reader_at_another_replica(
    simulate: Simulate, replicas: Replicas
) -> None:
    upstream = await simulate(**STILL)
    a, b = await replicas(upstream, linger_s=1.0)
    stream = await a.client().responses.create(**ask(delta_count=200), stream=True)
    upstream.simulator.skip(2)
    first = await following(stream, 5)
    response_id = first[0]["response"]["id"]
    there = await b.client().responses.retrieve(response_id, stream=True, starting_after=4)
    rest = await following(there, 5)
    await stream.close()
    held = live(a, response_id)
    await until(lambda: held.alone_for(asyncio.get_running_loop().time()) > 2.0)
    upstream.simulator.skip(60)
    rest += await all_of(there)
    assert numbers([*first, *rest]) == list(range(len(first) + len(rest)))
    assert types(rest)[-1] == "response.completed"


# A retry that comes to another replica


@pytest.mark.parametrize(
    "body",
    [{"background": True}, {"background": True, "stream": True}, {"stream": True}, {}],
    ids=["background", "background-stream", "stream", "foreground"],
)
async def test_a_create_sent_again_to_another_replica_joins_the_first(
    simulate: Simulate, replicas: Replicas, body: dict[str, Any]
) -> None:
    upstream = await simulate(**STILL)
    a, b = await replicas(upstream)
    asked = {**ask("late"), **body}
    first = asyncio.ensure_future(fetch(f"{a.url}/v1/responses", "POST", body=asked))
    await until(lambda: posts(upstream))
    first.cancel()
    retry = {"x-stainless-retry-count": "1"}
    again = asyncio.ensure_future(fetch(f"{b.url}/v1/responses", "POST", body=asked, headers=retry))
    await b.facts.wait_for(Joined)
    async with asyncio.timeout(PATIENCE_S):
        while not again.done():
            upstream.simulator.skip(5)
            await asyncio.sleep(0.05)
    answer = await again
    assert answer.status == 200
    if body.get("stream"):
        assert types(answer.events)[-1] == "response.completed"
    assert posts(upstream) == 1


async def test_a_retry_of_what_upstream_refused_at_another_replica_is_sent(
    simulate: Simulate, replicas: Replicas
) -> None:
    upstream = await simulate()
    a, b = await replicas(upstream)
    refused = await fetch(f"{a.url}/v1/responses", "POST", body=ask("rate_limited"))
    retry = {"x-stainless-retry-count": "1"}
    again = await fetch(f"{b.url}/v1/responses", "POST", body=ask("rate_limited"), headers=retry)
    assert refused.status == 429
    assert again.status in (200, 429)
    assert posts(upstream) == 2


# Who dies


@pytest.mark.parametrize("at", [3, 40])
async def test_what_a_killed_replica_pumped_another_goes_on_with(simulate: Simulate, run: Serve, at: int) -> None:
    upstream = await simulate(**STILL)
    first = await run(upstream, upstream_api_key=ROUTE_KEY)
    second = await run(upstream, upstream_api_key=ROUTE_KEY)
    stream = await first.client().responses.create(**job(delta_count=200))
    upstream.simulator.skip(2)
    before = await some(stream, at)
    response_id, last = before[0]["response"]["id"], before[-1]["sequence_number"]
    there = await second.client().responses.retrieve(response_id, stream=True, starting_after=last)
    after = await following(there, 1)
    await first.kill()
    upstream.simulator.skip(60)
    after += await all_of(there)
    assert numbers(before + after) == await upstream.numbers_of(response_id, key=ROUTE_KEY)
    assert types(after)[-1] == "response.completed"


async def test_what_a_killed_replica_polled_another_brings_to_its_end(simulate: Simulate, run: Serve) -> None:
    upstream = await simulate(speed=5.0)
    first = await run(upstream, upstream_api_key=ROUTE_KEY)
    second = await run(upstream, upstream_api_key=ROUTE_KEY)
    created = await first.client().responses.create(**ask(), background=True)
    await first.kill()

    async def story() -> Any:
        return (await fetch(f"{second.ops_url}/responses/{created.id}")).json

    assert (await eventually(story, lambda told: told["ending"] is not None))["status"] == "completed"


async def test_a_foreground_stream_of_a_killed_replica_ends_with_the_nested_error(
    simulate: Simulate, run: Serve
) -> None:
    upstream = await simulate(**STILL)
    first, second = await run(upstream), await run(upstream)
    stream = await first.client().responses.create(**ask(delta_count=200), stream=True)
    upstream.simulator.skip(1)
    before = await some(stream, 10)
    last = before[-1]["sequence_number"]
    there = await second.client().responses.retrieve(before[0]["response"]["id"], stream=True, starting_after=last)
    await first.kill()
    after, error = await until_error(there)
    assert error.code == "upstream_lost"
    assert numbers(before + after) == list(range(len(before + after)))


async def test_what_waits_for_its_owner_goes_to_the_replica_that_hears_from_the_owner(
    simulate: Simulate, run: Serve, replicas: Replicas
) -> None:
    upstream = await simulate(**STILL)
    first = await run(upstream)
    stream = await first.client().responses.create(**job(delta_count=200))
    upstream.simulator.skip(2)
    before = await some(stream, 5)
    await first.kill()
    b, c = await replicas(upstream)
    response_id, last = before[0]["response"]["id"], before[-1]["sequence_number"]
    await until(lambda: any(fact.how == "waits_for_owner" for one in (b, c) for fact in one.facts.of(TakenUp)))
    holder, other = (b, c) if b.gateway.context.tracker.live else (c, b)
    there = await other.client().responses.retrieve(response_id, stream=True, starting_after=last)
    taken = await holder.facts.wait_for(LetGo)
    assert taken.how == "taken"
    upstream.simulator.skip(60)
    after = await all_of(there)
    assert numbers(before + after) == await upstream.numbers_of(response_id)
    assert len(ends(b, c)) == 1


async def test_a_replica_that_was_away_for_longer_than_its_lease_writes_nothing_of_what_another_took(
    simulate: Simulate, run: Serve, replicas: Replicas
) -> None:
    upstream = await simulate(**STILL)
    zombie = await run(upstream, upstream_api_key=ROUTE_KEY)
    stream = await zombie.client().responses.create(**job(delta_count=200))
    upstream.simulator.skip(2)
    before = await some(stream, 5)
    response_id, last = before[0]["response"]["id"], before[-1]["sequence_number"]
    zombie.send(signal.SIGSTOP)
    (b,) = await replicas(upstream, 1, upstream_api_key=ROUTE_KEY)
    await b.facts.wait_for(TakenUp)
    zombie.send(signal.SIGCONT)
    upstream.simulator.skip(60)
    after = await all_of(await b.client().responses.retrieve(response_id, stream=True, starting_after=last))
    again = await all_of(await zombie.client().responses.retrieve(response_id, stream=True))
    truth = await upstream.numbers_of(response_id, key=ROUTE_KEY)
    assert numbers(before + after) == numbers(again) == truth
    assert len(ends(b)) == 1

    async def let_go() -> bool:
        text = (await fetch(f"{zombie.ops_url}/metrics")).body.decode()
        return 'responses_gateway_responses_let_go_total{how="taken"} 1.0' in text

    await eventually(let_go, lambda told: told)


# Who stops


async def test_a_replica_that_is_told_to_stop_hands_over_at_once(
    simulate: Simulate, run: Serve, replicas: Replicas
) -> None:
    upstream = await simulate(**STILL)
    first = await run(upstream, upstream_api_key=ROUTE_KEY, lease_s=LONG_S, drain_s=60)
    foreground = await first.client().responses.create(**ask(), stream=True)
    stream = await first.client().responses.create(**job(delta_count=200))
    upstream.simulator.skip(2)
    before = await some(stream, 5)
    (b,) = await replicas(upstream, 1, upstream_api_key=ROUTE_KEY)
    first.tell_to_stop()
    await b.facts.wait_for(TakenUp)  # while the first still serves what cannot change hands
    upstream.simulator.skip(60)
    assert types(await all_of(foreground))[-1] == "response.completed"
    assert await first.stopped() == 0
    response_id, last = before[0]["response"]["id"], before[-1]["sequence_number"]
    after = await all_of(await b.client().responses.retrieve(response_id, stream=True, starting_after=last))
    assert numbers(before + after) == await upstream.numbers_of(response_id, key=ROUTE_KEY)


async def test_the_processes_of_one_store_share_the_budget_of_polls(simulate: Simulate, replicas: Replicas) -> None:
    upstream = await simulate(**STILL)
    gateways = await replicas(upstream, 3)
    await until(lambda: all(one.gateway.context.tracker.leases.processes == 3 for one in gateways))
    assert {await one.shown("processes") for one in gateways} == {3.0}
    await gateways[2].gateway.stop()
    await until(lambda: [one.gateway.context.tracker.leases.processes for one in gateways[:2]] == [2, 2])


async def test_all_processes_together_poll_within_the_budget(simulate: Simulate, replicas: Replicas) -> None:
    budget = 100.0
    upstream = await simulate(**STILL)
    gateways = await replicas(upstream, 3, poll_budget_per_s=budget, poll_schedule_s=(0.01,))
    await until(lambda: all(one.gateway.context.tracker.leases.processes == 3 for one in gateways))
    clients = [one.client() for one in gateways]
    await asyncio.gather(*(one.responses.create(**ask(), background=True) for one in clients for _ in range(20)))

    def asked() -> list[float]:
        return sorted(fact.at for one in gateways for fact in one.facts.of(UpstreamPolled))

    await until(lambda: len(asked()) >= 400)
    times = asked()
    assert all(now - then >= (number - 20) / budget for number in (50, 100, 200) for then, now in apart(times, number))


def apart(times: list[float], number: int) -> list[tuple[float, float]]:
    """Each with the one that is so many further on."""
    return list(zip(times, times[number:], strict=False))
