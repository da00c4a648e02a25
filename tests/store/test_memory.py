"""What is special about the store in memory: it is bounded, by letting go what has ended or refusing what comes."""

import pytest
from given import Clock, a_record, an_event, completed, ended, events, logged, there

from gateway.domain.errors import StoreUnavailable
from gateway.domain.response import Body
from gateway.store.memory import MemoryStore

ROOM = 100_000
BIG = 30_000


async def test_however_many_responses_end_memory_keeps_the_newest_and_stays_within_its_limit(clock: Clock) -> None:
    store = MemoryStore(clock, limit_bytes=ROOM)
    for number in range(200):
        await ended(store, f"k{number}")
        assert (await store.space()).bytes <= ROOM
    kept = [number for number in range(200) if await store.get(f"k{number}") is not None]
    assert kept == list(range(kept[0], 200))
    assert len(kept) > 10
    assert await store.find("resp_k0", route="route", owner="owner") is None
    assert await store.buried("resp_k0", route="route"), "whose it was is still known"


async def test_what_lives_is_not_let_go_and_a_write_that_finds_no_room_changes_nothing(clock: Clock) -> None:
    store = MemoryStore(clock, limit_bytes=ROOM)
    response = await logged(store, last=1)
    await store.append("key", [an_event(number, b"x" * BIG) for number in (2, 3)], tail=1, epoch=1)
    await ended(store, "gone")
    with pytest.raises(StoreUnavailable, match="memory_limit_bytes"):
        await store.append("key", [an_event(4, b"x" * 2 * BIG)], tail=3, epoch=1)
    with pytest.raises(StoreUnavailable, match="memory_limit_bytes"):
        await store.finish("key", completed(response), events(4), tail=3, epoch=1, body=Body(b"x" * 2 * BIG))
    assert (await there(store))[0][-1] == (3, b"x" * BIG)
    assert await store.get("gone") is None, "for as long as there is one, what has ended makes room"
    await store.delete("key")
    assert (await store.space()).bytes == 0
    await store.create(a_record("new"))


async def test_room_is_given_back_by_whatever_takes_content_away(clock: Clock) -> None:
    store = MemoryStore(clock, limit_bytes=ROOM)
    await ended(store, stored=False)
    with_log = (await store.space()).bytes
    clock.now += 100
    await store.purge(clock.now, retention_s=3600, resume_window_s=50, tombstone_s=3600)
    assert 0 < (await store.space()).bytes < with_log
    await store.purge(clock.now, retention_s=50, resume_window_s=50, tombstone_s=3600)
    assert (await store.space()).bytes == 0
