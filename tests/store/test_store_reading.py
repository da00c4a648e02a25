"""What every store promises, second half: reading, waiting, and following a log."""

import asyncio
import random

import pytest
from given import (
    PATIENCE_S,
    Clock,
    a_record,
    an_event,
    completed,
    ended,
    events,
    frame_of,
    given_up,
    logged,
    numbered,
    there,
)

from gateway.domain.errors import StoreUnavailable
from gateway.domain.events import Event
from gateway.store.follow import follow, preamble
from gateway.store.port import Closed, End, Page, Store
from gateway.store.tail import Tail


@pytest.mark.parametrize("limit", [1, 100, 101, 1000, 10**6])
async def test_pages_of_any_size_make_the_same_log(store: Store, limit: int) -> None:
    await ended(store, last=120)
    assert await there(store, limit=limit) == (numbered(0, 120), End())
    assert await there(store, after=77, limit=limit) == (numbered(78, 120), End())


async def test_a_page_holds_its_limit_at_most_or_one_frame(store: Store) -> None:
    await ended(store, last=120)
    after = -1
    while after < 120:
        page = await store.read("key", after=after, limit=250)
        size = len(page.joined)
        rest = numbered(after + 1, 120)
        assert size <= 250 or len(page.frames) == 1
        assert page.joined == b"".join(frame for _, frame in rest[: len(page.frames)])
        following = rest[len(page.frames) :]
        assert not following or size + len(following[0][1]) > 250
        after = page.frames[-1][0]
    big = an_event(0, b"x" * 300_000)
    await store.create(a_record("big"))
    await store.append("big", [big, *events(1)], tail=-1, epoch=1)
    page = await store.read("big", after=-1)
    assert page.frames == ((0, big.frame),)


async def test_at_or_past_its_end_an_ended_log_is_empty_and_ended(store: Store) -> None:
    await ended(store, last=5)
    for after in (5, 6, 1000):
        assert await store.read("key", after=after, wait=3600) == Page((), End())


async def test_the_page_that_reaches_the_end_says_so(store: Store) -> None:
    await ended(store, last=5)
    page = await store.read("key", after=3, limit=1)
    assert (list(page.frames), page.end) == (numbered(4, 4), None)
    page = await store.read("key", after=4, limit=1)
    assert (list(page.frames), page.end) == (numbered(5, 5), End())


async def test_a_reader_waits_for_what_comes_after_its_cursor(store: Store) -> None:
    await logged(store, last=5)
    waiting = asyncio.ensure_future(store.read("key", after=7, wait=3600))
    for number in (6, 7, 8):
        await asyncio.sleep(0)
        assert not waiting.done()
        await store.append("key", events(number), tail=number - 1, epoch=1)
    async with asyncio.timeout(PATIENCE_S):
        assert await waiting == Page(((8, frame_of(8)),))


async def test_a_reader_whose_wait_is_over_gets_an_empty_page(store: Store) -> None:
    await logged(store, last=5)
    assert await store.read("key", after=5) == Page()
    assert await store.read("key", after=5, wait=0.01) == Page()


async def test_all_who_wait_are_woken_by_the_end(store: Store) -> None:
    response = await logged(store, last=5)
    waiting = [asyncio.ensure_future(store.read("key", after=5, wait=3600)) for _ in range(100)]
    await asyncio.sleep(0)
    await store.finish("key", given_up(response), tail=5, epoch=1)
    async with asyncio.timeout(PATIENCE_S):
        pages = await asyncio.gather(*waiting)
    assert pages == [Page((), End("response_lost", "It was lost."))] * 100


async def test_a_reader_that_comes_at_any_moment_misses_nothing_and_gets_nothing_twice(store: Store) -> None:
    response = await store.create(a_record())
    last = 40
    chance = random.Random(1)

    async def write() -> None:
        for number in range(last):
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            await store.append("key", events(number), tail=number - 1, epoch=1)
        await store.finish("key", completed(response), events(last), tail=last - 1, epoch=1)

    async def read(after: int, moment: int, limit: int) -> None:
        for _ in range(moment):
            await asyncio.sleep(0)
        frames: list[tuple[int, bytes]] = []
        cursor = after
        while True:
            page = await store.read("key", after=cursor, wait=3600, limit=limit)
            assert page.frames or page.end is not None
            frames += page.frames
            if page.end is not None:
                break
            cursor = page.frames[-1][0]
        assert frames == numbered(after + 1, last)

    readers = [read(after, chance.randrange(200), chance.choice((1, 150, 65536))) for after in range(-1, last + 1)]
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(write(), *readers)


async def test_many_followers_of_one_stream_all_get_all_of_it(store: Store) -> None:
    response = await store.create(a_record())
    chance = random.Random(2)

    async def client(after: int) -> list[tuple[int, bytes]]:
        got: list[tuple[int, bytes]] = []
        async for page in follow(store, "key", after, heartbeat_s=3600):
            got += page.frames
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
        return got

    clients = [asyncio.ensure_future(client(after % 20 - 1)) for after in range(200)]
    for number in range(30):
        await store.append("key", events(number), tail=number - 1, epoch=1)
    await store.finish("key", completed(response), events(30), tail=29, epoch=1)
    async with asyncio.timeout(PATIENCE_S):
        results = await asyncio.gather(*clients)
    assert results == [numbered(after % 20, 30) for after in range(200)]


async def test_a_follower_hears_that_nothing_came(store: Store) -> None:
    await logged(store, last=0)
    pages = follow(store, "key", 0, heartbeat_s=0.01)
    assert await anext(pages) == Page()
    await store.append("key", events(1), tail=0, epoch=1)
    while not (page := await anext(pages)).frames:
        pass
    assert page == Page(((1, frame_of(1)),))


async def test_a_client_that_starts_in_the_middle_is_given_the_structure_before_it(store: Store) -> None:
    kinds = ("response.created", "response.output_item.added", "response.output_text.delta", "response.in_progress")
    frames = [b"event: %b\ndata: {}\n\n" % kind.encode() for kind in kinds]
    batch = [Event(number, kind, frame, b"{}") for number, (kind, frame) in enumerate(zip(kinds, frames, strict=True))]
    await store.create(a_record())
    await store.append("key", batch, tail=-1, epoch=1)
    shown = [pair async for page in preamble(store, "key", 2) for pair in page.frames]
    assert shown == [(0, frames[0]), (1, frames[1])]


@pytest.mark.parametrize("how", ["delete", "purge"])
async def test_a_reader_of_a_log_that_goes_is_told(store: Store, clock: Clock, how: str) -> None:
    response = await logged(store, last=5)
    waiting = asyncio.ensure_future(store.read("key", after=5, wait=3600))
    await asyncio.sleep(0)
    if how == "purge":
        await store.finish("key", completed(response, stored=False), tail=5, epoch=1)
        await waiting
        clock.now += 1000
        await store.purge(clock.now, retention_s=10**6, resume_window_s=600, tombstone_s=10**6)
        waiting = asyncio.ensure_future(store.read("key", after=-1))
    else:
        await store.delete("key")
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(Closed):
            await waiting
    with pytest.raises(Closed):
        await store.read("key", after=-1)


async def test_readers_of_the_same_page_share_its_bytes(store: Store) -> None:
    await ended(store, last=50)
    pages = await asyncio.gather(*[store.read("key", after=10, limit=500) for _ in range(100)])
    assert pages[0].frames
    assert len({id(frame) for page in pages for _, frame in page.frames}) == len(pages[0].frames)


class TestTail:
    """The recent end of one log, on its own."""

    async def test_who_reads_at_the_same_position_is_given_the_same_page(self) -> None:
        tail = Tail()
        tail.publish(numbered(0, 9))
        one, two = [await tail.read(4, wait_s=0, limit=1000) for _ in range(2)]
        assert one is two
        tail.publish(numbered(10, 10))
        assert (await tail.read(4, wait_s=0, limit=1000)).frames == tuple(numbered(5, 10))

    async def test_a_reader_that_is_cancelled_leaves_nothing_behind(self) -> None:
        tail = Tail()
        readers = [asyncio.ensure_future(tail.read(-1, wait_s=3600, limit=1000)) for _ in range(100)]
        await asyncio.sleep(0)
        assert tail.waiting == 100
        for reader in readers[:99]:
            reader.cancel()
        await asyncio.wait(readers[:99])
        assert tail.waiting == 1
        tail.publish(numbered(0, 0))
        assert (await readers[99]).frames == tuple(numbered(0, 0))
        assert tail.waiting == 0

    async def test_a_reader_whose_wait_is_over_leaves_nothing_behind(self) -> None:
        tail = Tail()
        await tail.read(-1, wait_s=0.001, limit=1000)
        assert tail.waiting == 0

    async def test_memory_is_bounded_and_older_positions_are_asked_for(self) -> None:
        asked: list[tuple[int, int]] = []

        async def older(after: int, limit: int) -> tuple[tuple[int, bytes], ...]:
            asked.append((after, limit))
            return tuple(numbered(after + 1, after + 1))

        tail = Tail(limit_bytes=2000, older=older)
        for number in range(500):
            tail.publish(numbered(number, number))
            assert tail.bytes <= 2000
        assert (await tail.read(3, wait_s=0, limit=700)).frames == tuple(numbered(4, 4))
        assert asked == [(3, 700)]
        assert (await tail.read(497, wait_s=0, limit=700)).frames == tuple(numbered(498, 499))
        assert len(asked) == 1

    async def test_a_log_from_before_begins_with_its_end(self) -> None:
        tail = Tail(last=7, end=End("code"))
        assert await tail.read(7, wait_s=3600, limit=1000) == Page((), End("code"))
        with pytest.raises(StoreUnavailable, match="lost"):
            await tail.read(6, wait_s=0, limit=1000)
