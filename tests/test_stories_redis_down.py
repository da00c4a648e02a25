"""Redis fails under gateways at work: killed, full, frozen; nobody loses an event by it."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from cutting import cutting
from lives import a_response
from processes import serve
from redis_server import RedisServer
from running import Running, Upstream
from stories import STILL, all_of, ask, fetch, following, job, numbers, until

from gateway.domain.facts import Appended, Ended, StoreFailed, TakenUp
from gateway.domain.response import Response

Simulate = Callable[..., Awaitable[Upstream]]
Replicas = Callable[..., Awaitable[list[Running]]]
LEASE_S = 1.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis").start()
    yield server
    server.process.send_signal(signal.SIGCONT)
    server.kill()


@pytest.fixture
def replicas(gateway_for: Callable[..., Awaitable[Running]], server: RedisServer) -> Replicas:
    """Gateways on that Redis, in this process."""

    async def start(upstream: Upstream, count: int = 2, **settings: Any) -> list[Running]:
        usual = {"store": server.url, "lease_s": LEASE_S, "store_timeout_s": 1.0, "upstream_api_key": "sk-gateway"}
        return [await gateway_for(upstream.url, **{**usual, **settings}) for _ in range(count)]

    return start


async def restarted(server: RedisServer) -> None:
    await asyncio.to_thread(server.start)


async def failed(gateway: Running, operation: str) -> None:
    """Once more from now on."""
    known = failures(gateway, operation)
    await until(lambda: failures(gateway, operation) > known)


def failures(gateway: Running, operation: str) -> int:
    return sum(fact.operation == operation for fact in gateway.facts.of(StoreFailed))


async def live_in_store(gateway: Running) -> list[Response]:
    return [response async for response in gateway.gateway.store.live()]


async def truth(upstream: Upstream, response_id: str) -> list[int]:
    return await upstream.numbers_of(response_id, key="sk-gateway")


@pytest.mark.parametrize("cut", [False, True], ids=["", "and upstream's line breaks meanwhile"])
async def test_readers_of_a_stream_pause_while_redis_is_killed_and_get_every_event(
    simulate: Simulate, replicas: Replicas, server: RedisServer, cut: bool
) -> None:
    upstream = await simulate(**STILL)
    a, b = await replicas(upstream, pump_buffer_bytes=4096)
    stream = await a.client().responses.create(**job(delta_count=200))
    upstream.simulator.skip(2)
    first = await following(stream, 5)
    response_id = first[0]["response"]["id"]
    there = await b.client().responses.retrieve(response_id, stream=True)
    beginning = await following(there, 5)
    server.kill()
    appended = len(a.facts.of(Appended))
    upstream.simulator.skip(1)
    await failed(a, "append")
    if cut:
        upstream.simulator.cut(response_id)
    upstream.simulator.skip(60)
    await failed(a, "append")
    assert len(a.facts.of(Appended)) == appended
    await restarted(server)
    expected = await truth(upstream, response_id)
    assert numbers(first + await all_of(stream)) == expected
    assert numbers(beginning + await all_of(there)) == expected


@pytest.mark.parametrize("policy", ["passthrough", "refuse"])
async def test_while_redis_is_away_creates_go_as_the_setting_says_and_every_replica_stays_ready(
    simulate: Simulate, replicas: Replicas, server: RedisServer, policy: str
) -> None:
    upstream = await simulate()
    gateways = await replicas(upstream, on_store_failure=policy)
    server.kill()
    for one in gateways:
        answer = await fetch(f"{one.url}/v1/responses", "POST", body={**ask(), "background": True})
        if policy == "refuse":
            assert (answer.status, answer.error["code"]) == (503, "store_unavailable")
            assert answer.headers["Retry-After"]
        else:
            assert (answer.status, answer.headers["x-gateway-tracking"]) == (200, "off")
        assert (await fetch(f"{one.ops_url}/readyz")).status == 200
        told = (await fetch(f"{one.ops_url}/statusz")).json["store"]
        assert told["reachable"] is False
        assert "Redis cannot be reached" in told["problem"]
        assert await one.shown("store_failures_total", operation="create") == 1.0
    await restarted(server)
    for one in gateways:
        again = await fetch(f"{one.url}/v1/responses", "POST", body={**ask(), "background": True})
        assert "x-gateway-tracking" not in again.headers
        assert (await fetch(f"{one.ops_url}/statusz")).json["store"]["reachable"] is True


async def test_a_poll_that_waits_at_another_replica_waits_on_while_redis_is_away(
    simulate: Simulate, replicas: Replicas, server: RedisServer
) -> None:
    upstream = await simulate(**STILL)
    a, b = await replicas(upstream)
    created = await a.client().responses.create(**ask(), background=True)
    waiting = asyncio.ensure_future(b.client().responses.retrieve(created.id, extra_headers={"Prefer": "wait=50"}))
    await until(lambda: any(guest.holds for guest in b.gateway.context.tracker.guests.values()))
    server.kill()
    await failed(b, "renew")
    await failed(b, "renew")
    await restarted(server)
    upstream.simulator.skip(60)
    assert (await waiting).status == "completed"


async def test_nobody_takes_from_the_others_when_redis_was_away_from_all_for_longer_than_a_lease(
    simulate: Simulate, replicas: Replicas, server: RedisServer, parts: AsyncExitStack
) -> None:
    upstream = await simulate(**STILL)
    line = await cutting(parts, server.url)
    (a,) = await replicas(upstream, 1, lease_s=3.0)
    (late,) = await replicas(upstream, 1, lease_s=3.0, store=line.url.replace("http", "redis"))
    created = [await one.client().responses.create(**ask("slow"), background=True) for one in (a, late)]
    server.kill()
    line.target = "http://127.0.0.1:9"
    back_at = time.monotonic() + 4.0
    while time.monotonic() < back_at:
        await asyncio.gather(failed(a, "renew"), failed(late, "renew"))
    await restarted(server)
    await until(lambda: len(a.gateway.context.tracker.live) == 2 or not away(a))
    line.target = server.url
    await until(lambda: not a.gateway.context.tracker.leases.unsure)
    assert [one.facts.of(TakenUp) for one in (a, late)] == [[], []]
    upstream.simulator.skip(120)
    for one, response in zip((a, late), created, strict=True):
        ended = await one.facts.wait_for(Ended)
        assert ended.response.response_id == response.id


def away(gateway: Running) -> bool:
    """It has not heard of Redis since that failed."""
    return gateway.gateway.context.tracker.leases.away


async def test_a_full_redis_is_a_pause_too(simulate: Simulate, replicas: Replicas, server: RedisServer) -> None:
    upstream = await simulate(**STILL)
    a, b = await replicas(upstream)
    stream = await a.client().responses.create(**job(delta_count=200))
    upstream.simulator.skip(2)
    first = await following(stream, 5)
    response_id = first[0]["response"]["id"]
    server.ask("CONFIG", "SET", "maxmemory", "1")
    upstream.simulator.skip(60)
    await failed(a, "append")
    untracked = await fetch(f"{b.url}/v1/responses", "POST", body={**ask(), "background": True})
    assert untracked.headers["x-gateway-tracking"] == "off"
    told = (await fetch(f"{b.ops_url}/statusz")).json["store"]
    assert (told["reachable"], told["writable"]) == (True, False)
    assert "no memory left" in told["problem"]
    assert "no memory left" in next(fact.reason for fact in a.facts.of(StoreFailed) if fact.operation == "append")
    server.ask("CONFIG", "SET", "maxmemory", "0")
    told = (await fetch(f"{b.ops_url}/statusz")).json["store"]
    assert (told["writable"], told["problem"]) == (True, None)
    assert numbers(first + await all_of(stream)) == await truth(upstream, response_id)


async def test_a_create_that_was_recorded_and_never_sent_is_not_left_behind_as_live(
    simulate: Simulate, replicas: Replicas
) -> None:
    """It went untracked, as no answer came in time; the command was on its way all the same."""
    upstream = await simulate()
    a, b = await replicas(upstream)
    await a.gateway.store.create(a_response(route="default", response_id=None))
    ended = await a.facts.wait_for(Ended)
    assert ended.response.error_code == "outcome_unknown"
    assert await live_in_store(b) == []


async def test_a_gateway_that_is_told_to_stop_while_redis_does_not_answer_stops(
    simulate: Simulate, parts: AsyncExitStack, server: RedisServer
) -> None:
    upstream = await simulate(**STILL)
    settings = {"upstream_api_key": "sk-gateway", "drain_delay_s": 0, "lease_s": 1, "store_timeout_s": 1}
    process = await serve(upstream.url, server.url, **settings)
    parts.push_async_callback(process.close)
    creates = [process.client().responses.create(**ask("slow"), background=True) for _ in range(60)]
    await asyncio.gather(*creates)
    server.process.send_signal(signal.SIGSTOP)
    process.tell_to_stop()
    assert await process.stopped() == 0
