"""Redis fails over to a replica that is behind: what it has forgotten comes back from those who know it.

In most of them the replica is Redis itself, killed and back as it was a moment before.
"""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cutting import cutting
from lives import a_response
from processes import serve
from redis_server import RedisServer
from running import Running, Upstream
from stories import STILL, all_of, ask, fetch, following, job, live, numbers, types, until, until_error

from gateway.domain.facts import Contradicted, Ended, StoreFailed, TakenUp
from gateway.domain.response import Ending, Response, Status
from gateway.store.redis import RedisStore

Simulate = Callable[..., Awaitable[Upstream]]
Replicas = Callable[..., Awaitable[list[Running]]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis").start()
    yield server
    server.kill()


@pytest.fixture
def replica(tmp_path: Path, server: RedisServer) -> Iterator[RedisServer]:
    """Of that server."""
    replica = RedisServer(tmp_path / "replica", "--replicaof", "127.0.0.1", str(server.port)).start()
    yield replica
    replica.kill()


@pytest.fixture
def replicas(gateway_for: Callable[..., Awaitable[Running]], server: RedisServer) -> Replicas:
    """Gateways on that Redis, in this process."""

    async def start(upstream: Upstream, count: int = 2, **settings: Any) -> list[Running]:
        usual = {"store": server.url, "lease_s": 1.0, "store_timeout_s": 1.0, "upstream_api_key": "sk-gateway"}
        return [await gateway_for(upstream.url, **{**usual, **settings}) for _ in range(count)]

    return start


async def as_it_is(server: RedisServer, place: Path) -> Path:
    """What is written down of it at this moment."""
    await asyncio.to_thread(shutil.copytree, server.folder, place)
    return place


async def back_to(server: RedisServer, before: Path) -> None:
    """Killed, and back as it was: what a failover to a replica does that is behind."""
    server.kill()
    shutil.rmtree(server.folder)
    await asyncio.to_thread(shutil.copytree, before, server.folder)
    await asyncio.to_thread(server.start)


async def truth(upstream: Upstream, response_id: str) -> list[int]:
    return await upstream.numbers_of(response_id, key="sk-gateway")


@dataclass
class Reading:
    """A stream in the middle, read at the gateway that made it and at another one."""

    upstream: Upstream
    elsewhere: Running
    response_id: str
    streams: list[tuple[list[Any], AsyncIterator[Any]]]

    async def is_whole(self) -> None:
        """It goes on to its end, for both and for who comes later."""
        self.upstream.simulator.skip(60)
        expected = await truth(self.upstream, self.response_id)
        for read, rest in self.streams:
            assert numbers(read + await all_of(rest)) == expected
        again = await all_of(await self.elsewhere.client().responses.retrieve(self.response_id, stream=True))
        assert numbers(again) == expected


async def read_at_both(upstream: Upstream, a: Running, b: Running) -> Reading:
    stream = await a.client().responses.create(**job(delta_count=200))
    upstream.simulator.skip(2)
    first = await following(stream, 15)
    response_id = first[0]["response"]["id"]
    there = await b.client().responses.retrieve(response_id, stream=True)
    return Reading(upstream, b, response_id, [(first, stream), (await following(there, 10), there)])


async def live_in_store(gateway: Running) -> list[Response]:
    return [response async for response in gateway.gateway.store.live()]


async def written_anew(gateway: Running) -> None:
    """What Redis had forgotten is in it again."""
    await gateway.facts.wait_for(StoreFailed, lambda fact: fact.operation == "keep")


async def terminals(*gateways: Running) -> float:
    """How many ends all together have counted."""
    scrapes = [await one.scrape() for one in gateways]
    return sum(value for scrape in scrapes for (name, _), value in scrape.items() if name == "responses_terminal_total")


async def test_a_stream_whose_create_was_forgotten_goes_on_for_its_readers_and_is_whole_again(
    simulate: Simulate, replicas: Replicas, server: RedisServer, tmp_path: Path
) -> None:
    upstream = await simulate(**STILL)
    a, b = await replicas(upstream)
    before = await as_it_is(server, tmp_path / "before")
    reading = await read_at_both(upstream, a, b)
    await back_to(server, before)
    await reading.is_whole()
    (ended,) = a.facts.of(Ended)
    assert ended.response.status is Status.COMPLETED
    assert a.facts.of(Contradicted) == []


async def test_so_it_does_where_a_replica_is_promoted_that_did_not_get_the_create(
    simulate: Simulate, replicas: Replicas, server: RedisServer, replica: RedisServer, parts: AsyncExitStack
) -> None:
    upstream = await simulate(**STILL)
    line = await cutting(parts, server.url)
    a, b = await replicas(upstream, store=line.url.replace("http", "redis"))
    replica.until(lambda: replica.ask("EXISTS", "responses:owner_key") == ":1")
    assert replica.ask("REPLICAOF", "NO", "ONE") == "+OK"
    reading = await read_at_both(upstream, a, b)
    server.kill()
    line.target = replica.url
    line.cut()
    await reading.is_whole()


async def test_where_upstream_does_not_tell_it_again_the_end_is_beyond_what_readers_have(
    simulate: Simulate, replicas: Replicas, server: RedisServer, tmp_path: Path
) -> None:
    upstream = await simulate(**STILL)
    a, _ = await replicas(upstream)
    before = await as_it_is(server, tmp_path / "before")
    stream = await a.client().responses.create(**job("refuses_resume", after=10_000, delta_count=200))
    upstream.simulator.skip(2)
    first = await following(stream, 15)
    await back_to(server, before)
    upstream.simulator.skip(60)
    whole = first + await all_of(stream)
    assert numbers(whole) == list(range(len(whole)))
    assert types(whole)[-1] == "response.completed"
    (ended,) = a.facts.of(Ended)
    assert ended.response.synthesised


async def test_one_that_is_silent_is_written_anew_though_nothing_comes_of_it(
    simulate: Simulate, replicas: Replicas, server: RedisServer, tmp_path: Path
) -> None:
    upstream = await simulate(**STILL)
    a, b = await replicas(upstream, lease_s=20.0)  # by itself it looks back every two minutes
    before = await as_it_is(server, tmp_path / "before")
    stream = await a.client().responses.create(**job())
    (created,) = await following(stream, 1)
    response_id = created["response"]["id"]
    await back_to(server, before)
    await written_anew(a)
    (found,) = await live_in_store(b)
    assert (found.response_id, found.status) == (response_id, Status.QUEUED)
    there = await b.client().responses.retrieve(response_id, stream=True)
    upstream.simulator.skip(60)
    expected = await truth(upstream, response_id)
    assert numbers([created, *await all_of(stream)]) == expected
    assert numbers(await all_of(there)) == expected


async def test_a_polled_response_whose_create_was_forgotten_is_found_at_every_replica_again(
    simulate: Simulate, replicas: Replicas, server: RedisServer, tmp_path: Path
) -> None:
    upstream = await simulate(**STILL)
    a, b = await replicas(upstream)
    before = await as_it_is(server, tmp_path / "before")
    created = await a.client().responses.create(**ask(), background=True)
    await back_to(server, before)
    await written_anew(a)
    again = await b.client().responses.retrieve(created.id)
    assert again.status == "queued"
    upstream.simulator.skip(60)
    async with asyncio.timeout(60):
        while (await b.client().responses.retrieve(created.id)).status != "completed":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await until(lambda: not a.gateway.context.tracker.live)
    assert await terminals(a, b) == 1
    assert await live_in_store(b) == []


async def test_a_foreground_stream_is_written_again_from_memory(
    simulate: Simulate, replicas: Replicas, server: RedisServer, tmp_path: Path
) -> None:
    upstream = await simulate(**STILL)
    a, b = await replicas(upstream)
    before = await as_it_is(server, tmp_path / "before")
    stream = await a.client().responses.create(**ask(delta_count=200), stream=True)
    upstream.simulator.skip(2)
    first = await following(stream, 15)
    response_id = first[0]["response"]["id"]
    there = await b.client().responses.retrieve(response_id, stream=True)
    beginning = await following(there, 10)
    await back_to(server, before)
    upstream.simulator.skip(60)
    whole = first + await all_of(stream)
    assert types(whole)[-1] == "response.completed"
    assert numbers(whole) == list(range(len(whole)))
    assert numbers(beginning + await all_of(there)) == numbers(whole)
    again = await all_of(await b.client().responses.retrieve(response_id, stream=True))
    assert numbers(again) == numbers(whole)


async def test_what_of_a_foreground_stream_is_not_in_memory_any_more_is_lost_and_said_so(
    simulate: Simulate, replicas: Replicas, server: RedisServer, tmp_path: Path
) -> None:
    upstream = await simulate(**STILL)
    a, _ = await replicas(upstream)
    before = await as_it_is(server, tmp_path / "before")
    stream = await a.client().responses.create(**ask(delta_count=2000), stream=True)
    upstream.simulator.skip(2)
    first = await following(stream, 1000)
    await back_to(server, before)
    upstream.simulator.skip(60)
    rest, error = await until_error(stream)
    assert error.code == "upstream_lost"
    assert numbers(first + rest) == list(range(len(first + rest)))
    (ended,) = a.facts.of(Ended)
    assert ended.response.ending is Ending.UPSTREAM_LOST


async def test_a_foreground_create_that_was_forgotten_is_answered_and_counted(
    simulate: Simulate, replicas: Replicas, server: RedisServer, tmp_path: Path
) -> None:
    upstream = await simulate(**STILL)
    a, b = await replicas(upstream)
    before = await as_it_is(server, tmp_path / "before")
    answer = asyncio.ensure_future(a.client().responses.create(**ask()))
    await until(lambda: upstream.simulator.asked("/responses", "POST"))
    await back_to(server, before)
    upstream.simulator.skip(60)
    response = await answer
    assert response.status == "completed"
    assert (await b.client().responses.retrieve(response.id)).status == "completed"
    assert await terminals(a, b) == 1


async def test_whose_heartbeat_was_forgotten_keeps_what_it_holds(
    simulate: Simulate, replicas: Replicas, server: RedisServer, tmp_path: Path, parts: AsyncExitStack
) -> None:
    upstream = await simulate(**STILL)
    other = RedisStore(server.url)
    await other.open()
    parts.push_async_callback(other.close)
    await other.create(a_response(route="default"))
    await other.renew(0)
    before = await as_it_is(server, tmp_path / "before")
    await other.renew(60)
    (b,) = await replicas(upstream, 1, lease_s=20.0)
    leases = b.gateway.context.tracker.leases
    await back_to(server, before)
    await until(lambda: leases.processes == 1)
    await other.renew(60)
    await until(lambda: leases.processes == 2)
    assert b.facts.of(TakenUp) == []


async def test_what_was_deleted_at_another_replica_stays_so_when_redis_has_forgotten_whom_it_told(
    simulate: Simulate, replicas: Replicas, server: RedisServer
) -> None:
    upstream = await simulate(**STILL)
    a, b = await replicas(upstream, lease_s=20.0)  # news take a while
    stream = await a.client().responses.create(**job(delta_count=200))
    upstream.simulator.skip(2)
    first = await following(stream, 15)
    response_id = first[0]["response"]["id"]
    held = live(a, response_id)
    assert (await fetch(f"{b.url}/v1/responses/{response_id}", "DELETE")).status == 200
    for key in re.findall(r"^responses:(?:news:|tombstones)\S*", server.ask("KEYS", "*"), re.MULTILINE):
        server.ask("DEL", key)
    server.kill()
    await asyncio.to_thread(server.start)
    _, error = await until_error(stream)
    assert error.code == "response_deleted"
    await until(lambda: not a.gateway.context.tracker.live)
    assert held.response.ending is Ending.DELETED
    assert await live_in_store(b) == []


async def test_what_a_failover_has_forgotten_of_a_stream_is_asked_of_upstream_again(
    simulate: Simulate, replicas: Replicas, server: RedisServer, tmp_path: Path
) -> None:
    upstream = await simulate(**STILL)
    a, b = await replicas(upstream)
    stream = await a.client().responses.create(**job(delta_count=200))
    upstream.simulator.skip(1)
    first = await following(stream, 5)
    response_id = first[0]["response"]["id"]
    there = await b.client().responses.retrieve(response_id, stream=True)
    before = await as_it_is(server, tmp_path / "before")
    upstream.simulator.skip(1.5)
    first += await following(stream, 20)
    reading = Reading(upstream, b, response_id, [(first, stream), (await following(there, 20), there)])
    await back_to(server, before)
    await reading.is_whole()


async def test_a_create_that_was_forgotten_is_joined_by_one_with_the_same_key(
    simulate: Simulate, replicas: Replicas, server: RedisServer, tmp_path: Path
) -> None:
    upstream = await simulate(**STILL)
    a, b = await replicas(upstream)
    before = await as_it_is(server, tmp_path / "before")
    body, named = {**ask(), "background": True}, {"Idempotency-Key": "once"}
    created = await fetch(f"{a.url}/v1/responses", "POST", body=body, headers=named)
    await back_to(server, before)
    await written_anew(a)
    again = await fetch(f"{b.url}/v1/responses", "POST", body=body, headers=named)
    assert again.json["id"] == created.json["id"]
    assert len(upstream.simulator.asked("/responses", "POST")) == 1


async def test_readers_of_what_nobody_can_write_anew_are_told_so_in_the_end(
    simulate: Simulate,
    replicas: Replicas,
    server: RedisServer,
    tmp_path: Path,
    parts: AsyncExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.edge.stream._STORE_PATIENCE_S", 1.0)
    upstream = await simulate(**STILL)
    (b,) = await replicas(upstream, 1)
    before = await as_it_is(server, tmp_path / "before")
    holder = await serve(upstream.url, server.url, upstream_api_key="sk-gateway", lease_s=1)
    parts.push_async_callback(holder.close)
    stream = await holder.client().responses.create(**job(delta_count=200))
    upstream.simulator.skip(2)
    (created,) = await following(stream, 1)
    there = await b.client().responses.retrieve(created["response"]["id"], stream=True)
    await following(there, 10)
    await holder.kill()
    await stream.close()
    await back_to(server, before)
    _, error = await until_error(there)
    assert error.code == "response_lost"


async def test_an_end_that_a_failover_has_forgotten_is_found_again(
    simulate: Simulate, replicas: Replicas, server: RedisServer, tmp_path: Path
) -> None:
    upstream = await simulate(**STILL)
    a, b = await replicas(upstream)
    stream = await a.client().responses.create(**job())
    upstream.simulator.skip(1)
    (created,) = await following(stream, 1)
    before = await as_it_is(server, tmp_path / "before")
    upstream.simulator.skip(60)
    assert types(await all_of(stream))[-1] == "response.completed"
    await until(lambda: server.ask("KEYS", "*held*") == "*0")  # what follows the end is done, too
    await back_to(server, before)
    response_id = created["response"]["id"]
    async with asyncio.timeout(60):
        while (await b.client().responses.retrieve(response_id)).status != "completed":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await until(lambda: not a.gateway.context.tracker.live)
    assert await live_in_store(b) == []
    assert [fact.again for one in (a, b) for fact in one.facts.of(Ended)] == [False, True]
    assert await terminals(a, b) == 1
