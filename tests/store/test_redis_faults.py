"""What happens to Redis and to the way there: killed, full, paused, cut off, scripts forgotten, answers lost."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from given import BEGAN, PATIENCE_S, Clock, a_record, an_event, completed, ended, events, logged, numbered, there
from lossy import LossyLine
from redis_server import RedisServer

from gateway.domain.errors import StoreUnavailable
from gateway.domain.response import Body, Change, Counts
from gateway.relay.ledger import Ledger
from gateway.relay.live import Live
from gateway.store.follow import follow
from gateway.store.port import End, Lease, Page
from gateway.store.redis import RedisStore
from gateway.telemetry.observers import Telemetry

FOREVER_S = 10.0**9
SHORT_S = 0.5
Process = Callable[..., Awaitable[RedisStore]]


@pytest.fixture
async def process(clock: Clock) -> AsyncIterator[Process]:
    """One more process on a server."""
    async with AsyncExitStack() as stack:

        async def start(port: int, **options: float) -> RedisStore:
            store = RedisStore(f"redis://127.0.0.1:{port}", clock=clock, **options)  # type: ignore[arg-type]
            await store.open()
            stack.push_async_callback(store.close)
            return store

        yield start


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that a test may do to what it likes."""
    one = RedisServer(tmp_path / "redis").start()
    yield one
    one.process.send_signal(signal.SIGCONT)
    one.kill()


@pytest.fixture
async def line(server: RedisServer) -> AsyncIterator[LossyLine]:
    """A line to it."""
    async with LossyLine(server.port).open() as one:
        yield one


async def surely(write: Callable[[], Awaitable[object]]) -> None:
    """As a pump does: again and again, until the store can."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await write()
            except StoreUnavailable:
                await asyncio.sleep(0.02)
            else:
                return


async def test_redis_may_be_killed_at_any_moment_and_what_was_acknowledged_is_there_when_it_is_back(
    process: Process, server: RedisServer
) -> None:
    one, two = await process(server.port), await process(server.port)
    response = await one.create(a_record())
    acknowledged = -1

    async def read() -> list[tuple[int, bytes]]:
        got: list[tuple[int, bytes]] = []
        while True:
            try:
                async for page in follow(two, "key", got[-1][0] if got else -1, heartbeat_s=0.2):
                    got += page.frames
                    if page.end is not None:
                        return got
            except StoreUnavailable:
                await asyncio.sleep(0.02)

    async def write() -> None:
        nonlocal acknowledged
        for number in range(400):
            await surely(lambda number=number: one.append("key", events(number), tail=number - 1, epoch=1))  # type: ignore[misc]
            acknowledged = number
        await surely(lambda: one.finish("key", completed(response), events(400), tail=399, epoch=1))

    reading, writing = asyncio.ensure_future(read()), asyncio.ensure_future(write())
    for kill in range(1, 4):
        while acknowledged < kill * 80:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        before = acknowledged
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        frames, _ = await there(two)
        assert frames[: before + 1] == numbered(0, before)
        assert frames == numbered(0, len(frames) - 1)
    async with asyncio.timeout(PATIENCE_S):
        await writing
        assert await reading == numbered(0, 400)
    assert await there(one) == (numbered(0, 400), End())


async def test_while_redis_is_gone_it_is_said_so_and_when_it_is_back_it_goes_on(
    process: Process, server: RedisServer
) -> None:
    store = await process(server.port)
    response = await logged(store, last=2)
    waiting = asyncio.ensure_future(store.read("key", after=2, wait=3600))
    server.kill()
    for call in (
        lambda: store.append("key", events(3), tail=2, epoch=1),
        lambda: store.change("key", Change({"model": "m"}), epoch=1),
        lambda: store.finish("key", completed(response), tail=2, epoch=1),
        lambda: store.create(a_record("new")),
        lambda: store.get("key"),
        lambda: store.read("key", after=-1),
        lambda: store.renew(10),
        lambda: store.space(),
        lambda: store.probe(),
    ):
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(StoreUnavailable, match="Redis cannot be reached"):
                await call()
    server.start()
    assert await store.append("key", events(3), tail=2, epoch=1) == 1
    async with asyncio.timeout(PATIENCE_S):
        try:
            page = await waiting
        except StoreUnavailable:
            page = await store.read("key", after=2, wait=3600)
    assert list(page.frames) == numbered(3, 3)


async def test_a_full_redis_changes_nothing_and_when_there_is_room_it_goes_on(
    process: Process, server: RedisServer
) -> None:
    store = await process(server.port)
    response = await logged(store, last=1)
    for number in range(40):
        await ended(store, f"old-{number}")
        await store.change(f"old-{number}", Change(counts={"resumes": 1}), epoch=1)
    before = await store.get("key")
    server.ask("CONFIG", "SET", "maxmemory", "1")
    for write in (
        lambda: store.append("key", events(2), tail=1, epoch=1),
        lambda: store.change("key", Change({"model": "m"}, co_owner="proven"), epoch=1, body=Body(b"b")),
        lambda: store.finish("key", completed(response), events(2), tail=1, epoch=1),
        lambda: store.create(a_record("new", response_id="resp_new")),
        lambda: store.delete("key"),
        lambda: store.probe(),
    ):
        with pytest.raises(StoreUnavailable, match="no memory left"):
            await write()
    assert await store.get("key") == before
    assert await store.body("key") is None
    assert await there(store) == (numbered(0, 1), None)
    assert await store.get("new") is None
    assert await store.find("resp_new", route="route", owner="owner") is None
    assert [one.key async for one in store.live()] == ["key"]
    server.ask("CONFIG", "SET", "maxmemory", "0")
    assert await store.append("key", events(2), tail=1, epoch=1) == 1
    assert await store.finish("key", completed(response), events(3), tail=2, epoch=1)
    assert await there(store) == (numbered(0, 3), End())


async def test_what_is_past_its_time_makes_room_in_a_full_redis(process: Process, server: RedisServer) -> None:
    store = await process(server.port)
    for number in range(20):
        response = await store.create(a_record(str(number), response_id=f"resp_{number}"))
        await store.append(str(number), [an_event(0, b"x" * 100_000)], tail=-1, epoch=1)
        await store.finish(str(number), completed(response), events(1), tail=0, epoch=1)
    used = (await store.space()).bytes
    server.ask("CONFIG", "SET", "maxmemory", str(used - 1000))
    with pytest.raises(StoreUnavailable, match="no memory left"):
        await store.create(a_record("new"))
    limits = {"retention_s": 100.0, "resume_window_s": 100.0, "tombstone_s": FOREVER_S}
    await surely(lambda: store.purge(BEGAN + 1000, **limits))
    while await store.purge(BEGAN + 1000, **limits):
        pass
    await store.create(a_record("new"))
    assert [await store.buried(f"resp_{number}", route="route") for number in range(20)] == [True] * 20


async def test_a_redis_that_does_not_answer_is_given_up_after_a_while_and_taken_up_again(
    process: Process, server: RedisServer
) -> None:
    store = await process(server.port, timeout_s=SHORT_S)
    response = await logged(store, last=2)
    server.process.send_signal(signal.SIGSTOP)
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await store.get("key")
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await store.finish("key", completed(response), events(3), tail=2, epoch=1)
    assert loop.time() - began < PATIENCE_S
    server.process.send_signal(signal.SIGCONT)
    await surely(lambda: store.get("key"))
    # It may have done what it was asked and could not answer; then it was this process's end.
    assert await store.finish("key", completed(response), events(3), tail=2, epoch=1)
    assert not await store.finish("key", completed(response), events(3), tail=2, epoch=1)
    assert await there(store) == (numbered(0, 3), End())


async def test_scripts_that_redis_has_forgotten_are_told_again(process: Process, server: RedisServer) -> None:
    store = await process(server.port)
    await logged(store, last=2)
    server.ask("SCRIPT", "FLUSH")
    assert await store.append("key", events(3), tail=2, epoch=1) == 1
    server.ask("SCRIPT", "FLUSH")
    writes = [store.change("key", Change(counts={"resumes": 1}), epoch=1) for _ in range(5)]
    assert all(await asyncio.gather(*writes, store.append("key", events(4), tail=3, epoch=1)))
    server.ask("SCRIPT", "FLUSH")
    assert await there(store) == (numbered(0, 4), None)


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_a_write_whose_answer_is_lost_is_done_once(
    process: Process, server: RedisServer, line: LossyLine, lost: int
) -> None:
    store = await process(line.port)
    response = await logged(store, last=2)
    line.lose = lost
    await store.change("key", Change(counts={"resumes": 1}), epoch=1)
    line.lose = lost
    await store.append("key", events(3), tail=2, epoch=1)
    line.lose = lost
    assert await store.finish("key", completed(response), events(4), tail=3, epoch=1)
    assert line.lost == 3 * lost
    shown = await store.get("key")
    assert shown is not None
    assert shown.counts == Counts(resumes=1)
    assert await there(store) == (numbered(0, 4), End())


async def test_an_end_that_was_made_though_no_answer_came_is_this_processs_end(
    process: Process, server: RedisServer, line: LossyLine
) -> None:
    store, other = await process(line.port), await process(server.port)
    response = await logged(store, last=2)
    line.lose = 100
    with pytest.raises(StoreUnavailable):
        await store.finish("key", completed(response), events(3), tail=2, epoch=1)
    line.lose = 0
    assert not await other.finish("key", completed(response), events(3), tail=2, epoch=None)
    assert await store.finish("key", completed(response), events(3), tail=2, epoch=1)
    assert not await store.finish("key", completed(response), events(3), tail=2, epoch=1)


async def test_a_change_that_was_made_though_no_answer_came_is_made_once_however_often_it_is_tried(
    process: Process, server: RedisServer, line: LossyLine
) -> None:
    store, other = await process(line.port), await process(server.port)
    await logged(store, last=2)
    change = Change({"model": "m"}, counts={"client_polls": 1}, name="0123456789abcdef")
    line.lose = 100
    with pytest.raises(StoreUnavailable):
        await store.change("key", change, epoch=1)
    line.lose = 0
    await other.change("key", Change(counts={"client_polls": 1}), epoch=None)
    assert await store.change("key", change, epoch=1)
    assert await store.change("key", change, epoch=1)
    shown = await other.get("key")
    assert shown is not None
    assert (shown.model, shown.counts) == ("m", Counts(client_polls=2))


async def test_what_a_ledger_counts_is_added_once_though_no_answer_came(
    process: Process, server: RedisServer, line: LossyLine
) -> None:
    store = await process(line.port)
    ledger = Ledger(store, Telemetry([]), lambda: BEGAN, lambda live: None, lambda live: None)
    record = await store.create(a_record())
    live = Live(record, record.epoch)
    live.count(client_polls=1)
    line.lose = 100
    await ledger.note_if_it_can(live)
    line.lose = 0
    live.count(client_polls=1)
    live.response = live.response.but(model="m")
    await ledger.note(live)
    shown = await store.get("key")
    assert shown is not None
    assert (shown.model, shown.counts) == ("m", Counts(client_polls=2))
    assert live.saved == live.response == shown


async def test_a_lease_whose_answer_is_lost_is_had(process: Process, server: RedisServer, line: LossyLine) -> None:
    store = await process(line.port)
    response = await logged(store, last=2)
    await store.release("key", epoch=response.epoch)
    line.lose = 1
    assert await store.claim("key") == Lease("key", 2)


async def test_a_process_that_was_cut_off_for_a_while_goes_on(
    process: Process, server: RedisServer, line: LossyLine
) -> None:
    store, other = await process(line.port), await process(server.port)
    await logged(store, last=2)
    reader = asyncio.ensure_future(surely(lambda: store.read("key", after=2, wait=PATIENCE_S)))
    line.down = True
    line.cut()
    with pytest.raises(StoreUnavailable):
        await store.append("key", events(3), tail=2, epoch=1)
    await other.append("key", events(3), tail=2, epoch=1)
    line.down = False
    await surely(lambda: store.append("key", events(4), tail=3, epoch=1))
    async with asyncio.timeout(PATIENCE_S):
        await reader
    assert await store.read("key", after=2, wait=PATIENCE_S) == Page(tuple(numbered(3, 4)))
