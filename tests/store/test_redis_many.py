"""Redis on several servers: a primary that fails over, or comes back as it was before, a cluster that moves."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from given import PATIENCE_S, Clock, a_record, completed, events, logged, numbered, there
from redis_server import PROGRAM, RedisServer, cluster, move_slot

from gateway.domain.errors import StoreUnavailable
from gateway.domain.response import Response
from gateway.store.follow import follow
from gateway.store.port import End, Gap, Unusable
from gateway.store.redis import RedisStore

Process = Callable[..., Awaitable[RedisStore]]
Frames = list[tuple[int, bytes]]


@pytest.fixture
async def process(clock: Clock) -> AsyncIterator[Process]:
    """One more process on what a URL names."""
    async with AsyncExitStack() as stack:

        async def start(url: str) -> RedisStore:
            store = RedisStore(url, clock=clock)
            await store.open()
            stack.push_async_callback(store.close)
            return store

        yield start


async def followed(store: RedisStore, key: str = "key") -> Frames:
    """All that a reader gets until the end, who resumes where its store fails."""
    got: Frames = []
    while True:
        try:
            async for page in follow(store, key, got[-1][0] if got else -1, heartbeat_s=0.2):
                got += page.frames
                if page.end is not None:
                    return got
        except StoreUnavailable:
            await asyncio.sleep(0.02)


async def pumped(
    store: RedisStore, response: Response, last: int, *, ready: asyncio.Event, over: asyncio.Event
) -> None:
    """A log and its end by a pump that has all events at hand.

    After a third of them it is `ready` for what happens; the last third it writes when that is `over`, for what is lost
    after a log has ended nobody repairs.
    """
    tail, done = -1, False
    while not done:
        if tail >= last // 3:
            ready.set()
        if tail >= last * 2 // 3:
            await over.wait()
        try:
            if tail < last - 1:
                await store.append(response.key, events(*range(tail + 1, tail + 2)), tail=tail, epoch=1)
                tail += 1
            else:
                done = await store.finish(response.key, completed(response), events(last), tail=tail, epoch=1)
        except Gap as gap:
            tail = gap.tail
        except StoreUnavailable:
            await asyncio.sleep(0.02)


async def told(store: RedisStore, reader: RedisStore, what: Callable[[], Awaitable[None]]) -> None:
    """A story of 300 events, in the middle of which something happens: every reader gets each event once."""
    response = await store.create(a_record())
    ready, over = asyncio.Event(), asyncio.Event()
    pump = asyncio.ensure_future(pumped(store, response, 300, ready=ready, over=over))
    readers = [asyncio.ensure_future(followed(one)) for one in (store, reader)]
    async with asyncio.timeout(2 * PATIENCE_S):
        await ready.wait()
        await what()
        over.set()
        await pump
        for one in readers:
            assert await one == numbered(0, 300)
    assert await there(reader) == (numbered(0, 300), End())


async def test_a_redis_that_comes_back_as_it_was_a_moment_ago_is_found_out_and_repaired(
    process: Process, tmp_path: Path
) -> None:
    """What a failover to a replica that is behind does: acknowledged events are gone, and the log has no hole."""
    server = RedisServer(tmp_path / "redis").start()
    try:
        one, two = await process(server.url), await process(server.url)
        response = await logged(one, last=9)
        await asyncio.to_thread(server.kill)
        shutil.copytree(server.folder, tmp_path / "before")
        await asyncio.to_thread(server.start)
        reader = asyncio.ensure_future(followed(two))
        await pumped_to(one, 10, 19)
        assert list((await two.read("key", after=18, wait=PATIENCE_S)).frames) == numbered(19, 19)
        await asyncio.to_thread(server.kill)
        shutil.rmtree(server.folder)
        shutil.copytree(tmp_path / "before", server.folder)
        await asyncio.to_thread(server.start)
        with pytest.raises(Gap) as gap:
            await one.append("key", events(20), tail=19, epoch=1)
        assert gap.value.tail == 9
        with pytest.raises(Gap):
            await one.finish("key", completed(response), events(20), tail=19, epoch=1)
        assert await one.append("key", events(*range(10, 21)), tail=9, epoch=1) == 11
        assert await one.finish("key", completed(response), events(21), tail=20, epoch=1)
        async with asyncio.timeout(PATIENCE_S):
            assert await reader == numbered(0, 21)
        assert await there(two) == (numbered(0, 21), End())
    finally:
        server.kill()


async def pumped_to(store: RedisStore, first: int, last: int) -> None:
    for number in range(first, last + 1):
        await store.append("key", events(number), tail=number - 1, epoch=1)


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[tuple[str, list[RedisServer]]]:
    """The URL of a primary with a replica, and of a Sentinel that watches them."""
    primary = RedisServer(tmp_path / "primary").start()
    replica = RedisServer(tmp_path / "replica", "--replicaof", "127.0.0.1", str(primary.port)).start()
    replica.until(lambda: "master_link_status:up" in replica.ask("INFO", "replication"))
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"sentinel monitor mymaster 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 3000\n"
    )
    watch = RedisServer(tmp_path / "sentinel")
    watch.command = (PROGRAM, str(config), "--sentinel", "--port", str(watch.port), "--bind", "127.0.0.1")
    watch.start()
    # It promotes none of which it has not yet heard that it follows.
    watch.until(lambda: "master-link-status\r\n$2\r\nok" in watch.ask("SENTINEL", "REPLICAS", "mymaster"))
    yield f"redis+sentinel://127.0.0.1:{watch.port}/mymaster/0", [primary, replica]
    for server in (watch, replica, primary):
        server.kill()


async def test_when_the_primary_dies_and_sentinels_name_another_readers_and_writers_go_on(
    process: Process, sentinel: tuple[str, list[RedisServer]]
) -> None:
    url, (primary, replica) = sentinel
    one, two = await process(url), await process(url)

    async def fail_over() -> None:
        await asyncio.to_thread(primary.kill)
        await asyncio.to_thread(replica.until, lambda: "role:master" in replica.ask("INFO", "replication"))

    await told(one, two, fail_over)


async def test_a_primary_that_became_a_replica_is_left(
    process: Process, sentinel: tuple[str, list[RedisServer]]
) -> None:
    url, (primary, _) = sentinel
    one, two = await process(url), await process(url)

    async def hand_over() -> None:
        port = url.rpartition(":")[2].partition("/")[0]
        watch = RedisServer(primary.folder, port=int(port))
        assert await asyncio.to_thread(watch.ask, "SENTINEL", "FAILOVER", "mymaster") == "+OK"
        await asyncio.to_thread(primary.until, lambda: "role:slave" in primary.ask("INFO", "replication"))

    await told(one, two, hand_over)


async def test_a_master_that_sentinels_do_not_know_is_said_in_one_line(
    process: Process, sentinel: tuple[str, list[RedisServer]]
) -> None:
    url, _ = sentinel
    with pytest.raises(Unusable, match="another"):
        await process(url.replace("mymaster", "another"))


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[RedisServer]]:
    """A cluster that a test may do to what it likes."""
    servers = cluster(tmp_path / "cluster", "--cluster-require-full-coverage", "no")
    yield servers
    for server in servers:
        server.kill()


async def test_when_a_cluster_moves_a_slot_readers_and_writers_go_on(
    process: Process, nodes: list[RedisServer]
) -> None:
    url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    one, two = await process(url), await process(url)
    slot = int(nodes[0].ask("CLUSTER", "KEYSLOT", "key").removeprefix(":"))
    source = nodes[slot * 3 // 16384]
    others = [node for node in nodes if node is not source]

    async def move() -> None:
        await asyncio.to_thread(move_slot, slot, source, others[0], nodes)
        await asyncio.to_thread(move_slot, slot, others[0], others[1], nodes)

    await told(one, two, move)


async def test_when_a_node_of_a_cluster_is_killed_and_comes_back_readers_and_writers_go_on(
    process: Process, nodes: list[RedisServer]
) -> None:
    url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    one, two = await process(url), await process(url)

    async def restart() -> None:
        for node in nodes:
            await asyncio.to_thread(node.kill)
            await asyncio.to_thread(node.start)

    await told(one, two, restart)
