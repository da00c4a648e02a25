"""What only SQLite has: a file that outlives the process, fills up, breaks, and belongs to one."""

import asyncio
import os
import sqlite3
import stat
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from given import BEGAN, Opener, a_record, an_event, completed, ended, events, given_up, logged, numbered, rows, there

from gateway.domain.errors import StoreUnavailable
from gateway.domain.response import Body, Change
from gateway.store.job_thread import Told
from gateway.store.port import Closed, End, Lease, Page, Query, Unusable
from gateway.store.sqlite import SqliteStore
from gateway.store.sqlite_checkpoints import Checkpoints
from gateway.store.sqlite_file import open_file

FOREVER_S = 10.0**9


@pytest.fixture
async def store(opened: Opener) -> SqliteStore:
    """A new store on a file."""
    return await opened()


def with_room(store: SqliteStore, pages: int) -> "asyncio.Future[object]":
    """Let the file have this many pages more (of 4 KiB): the error is the one of a full disk."""

    def limit(db: sqlite3.Connection) -> None:
        (used,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count={used + pages}")

    return store._thread.ask(limit)


async def test_all_of_it_is_there_again(opened: Opener) -> None:
    store = await opened()
    live = await logged(store, "live", last=7)
    body = Body(b"1", (("a", "b"),), 3)
    await store.change("live", Change({"model": "m"}, {"resumes": 2}, "proven"), epoch=1, body=body)
    done = await ended(store, "done", last=7)
    lost = await logged(store, "lost", last=3)
    await store.finish("lost", given_up(lost), tail=3, epoch=1)
    await ended(store, "gone")
    await store.delete("gone")
    before = [await store.get(key) for key in ("live", "done", "lost")]
    secret = store.owner_key
    store = await opened(durability="fsync")
    assert store.owner_key == secret
    assert [response async for response in store.live()] == [before[0]]
    assert [await store.get(key) for key in ("live", "done", "lost")] == before
    assert list(await store.list(Query())) == before[::-1]
    assert await store.body("live") == body
    assert await store.find("resp_live", route="route", owner="proven") == before[0]
    assert await store.find("resp_done", route="route", owner="owner") == before[1]
    assert await store.buried("resp_gone", route="route")
    assert await there(store, "live") == (numbered(0, 7), None)
    assert await there(store, "done") == (numbered(0, 7), End())
    assert await there(store, "lost") == (numbered(0, 3), End("response_lost", "It was lost."))
    # And it goes on where it was.
    assert await store.append("live", events(7, 8), tail=6, epoch=1) == 1
    assert await store.finish("lost", completed(lost), tail=3, epoch=1)
    assert not await store.finish("done", completed(done), tail=7, epoch=1)
    assert (await store.create(a_record("new"))).epoch == 1
    assert live.tail == 7


async def test_opening_the_file_ends_all_leases_and_no_epoch_comes_twice(opened: Opener) -> None:
    store = await opened()
    await store.create(a_record())
    for epoch in (2, 3):
        store = await opened()
        assert [one.key async for one in store.orphans()] == ["key"]
        assert await store.claim("key") == Lease("key", epoch)


async def test_nothing_is_readable_before_it_is_committed(store: SqliteStore) -> None:
    response = await logged(store, last=1)
    hold = threading.Event()
    held = store._thread.ask(lambda db: hold.wait())
    waiting = asyncio.ensure_future(store.read("key", after=1, wait=3600))
    appending = asyncio.ensure_future(store.append("key", events(2), tail=1, epoch=1))
    ending = asyncio.ensure_future(store.finish("key", completed(response), events(3), tail=2, epoch=1))
    creating = asyncio.ensure_future(store.create(a_record("new")))
    try:
        for _ in range(20):
            await asyncio.sleep(0)
        assert await store.read("key", after=1) == Page()
        assert [(await store.get("key")).tail, [r.key async for r in store.live()]] == [1, ["key"]]  # type: ignore[union-attr]
        assert not any(task.done() for task in (waiting, appending, ending, creating))
    finally:
        hold.set()
        await held
    assert (await appending, await ending) == (1, True)
    assert (await waiting).frames == tuple(numbered(2, 3))
    await creating


async def test_the_log_of_writes_begins_anew_while_writes_go_on(opened: Opener, path: Path) -> None:
    store, wal = await opened(), Path(f"{path}-wal")
    await logged(store, last=0)
    begun = checkpoints_of(wal)
    await store._thread.ask(lengthen)
    long, tail = size_of(wal), 0
    async with asyncio.timeout(60):
        while checkpoints_of(wal) == begun:
            tail += await store.append("key", [an_event(tail + 1, b"y")], tail=tail, epoch=1)
            await asyncio.sleep(0.01)
    # SQLite by itself would have begun anew only when the log is several times as long.
    assert size_of(wal) < 2 * long
    assert (await there(await opened(), after=0))[0] == [(number, b"y") for number in range(1, tail + 1)]


async def test_the_writer_copies_what_is_left_of_a_long_log(path: Path) -> None:
    file, wal = open_file(path, "process"), Path(f"{path}-wal")
    asked: asyncio.Queue[tuple[Told, Callable[[sqlite3.Connection], int]]] = asyncio.Queue()
    checkpoints = Checkpoints(path, "process", lambda told, job: asked.put_nowait((told, job)))

    def write(name: str) -> None:
        file.connection.execute("INSERT INTO meta VALUES(?, x'00')", (name,))

    lengthen(file.connection)
    checkpoints.written()
    async with asyncio.timeout(60):
        told, job = await asked.get()
    write("meanwhile")
    begun = checkpoints_of(wal)
    write("behind it")
    assert checkpoints_of(wal) == begun
    told(job(file.connection), None)
    write("anew")
    assert checkpoints_of(wal) == begun + 1
    checkpoints.written()
    await checkpoints.close()
    assert asked.empty()
    file.close()


def lengthen(db: sqlite3.Connection) -> None:
    """Make the log of writes so long that it should begin anew."""
    db.execute("INSERT INTO meta VALUES('long', zeroblob(140000000))")


def size_of(file: Path) -> int:
    """Its bytes."""
    return file.stat().st_size


def checkpoints_of(wal: Path) -> int:
    """How often this log has begun anew. Source: "The Write-Ahead Log" in "Database File Format" of SQLite."""
    (sequence,) = struct.unpack_from(">I", wal.read_bytes()[:32], 12)
    return int(sequence)


async def test_a_probe_tells_whether_the_file_can_be_written(opened: Opener) -> None:
    store = await opened()
    await store.probe()
    await store._thread.ask(lambda db: db.execute("PRAGMA query_only=1"))
    assert (await store.space()).bytes
    with pytest.raises(StoreUnavailable, match="readonly"):
        await store.probe()


async def test_a_full_disk_changes_nothing_and_when_there_is_room_it_goes_on(opened: Opener, path: Path) -> None:
    store = await opened()
    response = await logged(store, last=1)
    waiting = asyncio.ensure_future(store.read("key", after=1, wait=3600))
    await store.release("key", epoch=1)
    await with_room(store, 2)
    big = [an_event(2, b"x" * 100_000)]
    writes = (
        store.append("key", big, tail=1, epoch=1),
        store.change("key", Change({"model": "m"}, co_owner="proven"), epoch=1, body=Body(b"b")),
        store.claim("key"),
        store.append("key", events(3), tail=2, epoch=2),
        store.finish("key", completed(response), events(4), tail=3, epoch=2),
        store.create(a_record("new", response_id="resp_new", error_message="x" * 100_000)),
    )
    for outcome in await asyncio.gather(*writes, return_exceptions=True):
        assert isinstance(outcome, StoreUnavailable)
    for again in (store, None):
        store = again or await opened()
        assert await store.get("key") == response
        assert [one.key async for one in store.live()] == ["key"]
        assert await there(store) == (numbered(0, 1), None)
        assert await store.body("key") is None
        assert await store.find("resp_key", route="route", owner="proven") is None
        assert await store.find("resp_new", route="route", owner="owner") is None
        if again:
            assert not waiting.done()
            await with_room(store, 1000)
            assert await store.append("key", big, tail=1, epoch=1) == 1
            assert (await waiting).frames == ((2, big[0].frame),)
            await store.delete("key")
            response = await logged(store, last=1)


@pytest.mark.parametrize("others", [1, 5, 40])
async def test_a_commit_that_breaks_at_its_end_has_written_nothing(opened: Opener, others: int) -> None:
    """Whether it was one statement or several."""
    store = await opened()
    await with_room(store, 10)
    keys = [f"small-{number}" for number in range(others)]
    creates = (*map(a_record, keys), a_record("large", error_message="x" * 60_000))
    for outcome in await asyncio.gather(*map(store.create, creates), return_exceptions=True):
        assert isinstance(outcome, StoreUnavailable)
    assert not await store._thread.ask(lambda db: db.in_transaction)
    store = await opened()
    assert not [one.key async for one in store.live()]
    await asyncio.gather(*map(store.create, creates))
    store = await opened()
    assert [one.key async for one in store.live()] == [*keys, "large"]


async def test_a_value_that_cannot_be_stored_fails_alone(store: SqliteStore) -> None:
    await logged(store, last=1)
    results = await asyncio.gather(
        store.create(a_record("odd", response_id="resp_\udcff")),
        store.change("key", Change({"response_id": "resp_\udcff"}), epoch=1),
        store.append("key", events(2), tail=1, epoch=1),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [UnicodeEncodeError, UnicodeEncodeError, int]
    assert await store.get("odd") is None
    assert await there(store) == (numbered(0, 2), None)


async def test_a_caller_that_is_cancelled_leaves_the_store_whole(store: SqliteStore) -> None:
    await store.create(a_record())
    tail = -1
    for number in range(60):
        writing = asyncio.ensure_future(store.append("key", events(tail + 1), tail=tail, epoch=1))
        for _ in range(number % 6):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait([writing])
        reading = asyncio.ensure_future(store.body("key"))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        # Whether it was written or not, a change that comes after it has it behind it.
        await store.change("key", Change(counts={"resumes": 1}), epoch=1)
        shown = await store.get("key")
        assert shown is not None
        tail = shown.tail
    assert await there(store) == (numbered(0, tail), None)


async def test_nobody_else_on_the_machine_may_read_its_files(opened: Opener, path: Path) -> None:
    mask = os.umask(0)
    try:
        store = await opened()
        await logged(store, last=5)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(mask)
    assert modes == dict.fromkeys((path.name, f"{path.name}-wal", f"{path.name}.lock"), 0o600)


async def test_what_is_queued_when_it_closes_is_written(opened: Opener) -> None:
    store = await opened()
    await asyncio.gather(*[store.create(a_record(str(number))) for number in range(50)])
    writes = [asyncio.ensure_future(store.append(str(n), events(0, 1), tail=-1, epoch=1)) for n in range(50)]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*writes) == [2] * 50
    store = await opened()
    assert [response.tail async for response in store.live()] == [1] * 50


@pytest.mark.parametrize("how", ["delete", "purge"])
async def test_no_event_of_a_log_that_is_gone_stays_in_the_file(opened: Opener, path: Path, how: str) -> None:
    store = await opened()
    response = await store.create(a_record(stored=False))
    for number in range(600):
        await store.append("key", events(number), tail=number - 1, epoch=1)
    await store.finish("key", completed(response), tail=599, epoch=1, body=Body(b"{}"))
    if how == "delete":
        await store.delete("key")
    else:
        await store.purge(BEGAN + 10**6, retention_s=FOREVER_S, resume_window_s=1, tombstone_s=FOREVER_S)
    await store.close()
    for table in ("batch", "body", "doomed"):
        assert rows(path, f"SELECT count(*) FROM {table}") == [(0,)]
    assert rows(path, "SELECT count(*) FROM record") == [(int(how == "purge"),)]


async def test_what_could_not_be_deleted_at_once_goes_with_the_next_purge(opened: Opener, path: Path) -> None:
    store = await opened()
    await logged(store, last=5)
    store._sweep = store.space  # type: ignore[method-assign,assignment]  # as if the process had died here
    await store.delete("key")
    store = await opened()
    await store.create(a_record("new"))
    await store.append("new", events(0), tail=-1, epoch=1)
    assert await there(store, "new") == (numbered(0, 0), None)
    await store.purge(BEGAN, retention_s=1, resume_window_s=1, tombstone_s=1)
    assert await there(store, "new") == (numbered(0, 0), None)
    await store.close()
    assert rows(path, "SELECT count(*) FROM batch") == [(1,)]


async def test_content_that_went_stays_away(opened: Opener) -> None:
    store = await opened()
    await ended(store, last=5, stored=False)
    await store.purge(BEGAN + 10**6, retention_s=FOREVER_S, resume_window_s=1, tombstone_s=FOREVER_S)
    store = await opened()
    assert [response.tail for response in await store.list(Query())] == [5]
    with pytest.raises(Closed):
        await store.read("key", after=-1)


async def test_a_batch_is_one_row_or_as_many_as_make_no_page_too_large(opened: Opener, path: Path) -> None:
    store = await opened()
    for key, size, count in (("small", 50, 1000), ("large", 40_000, 3), ("middle", 30_000, 5)):
        await store.create(a_record(key))
        batch = [an_event(number, bytes(size)) for number in range(count)]
        await store.append(key, batch, tail=-1, epoch=1)
        assert await there(store, key) == ([(event.number, event.frame) for event in batch], None)
    await store.close()
    assert rows(path, "SELECT count(*) FROM batch GROUP BY rid ORDER BY rid") == [(1,), (3,), (3,)]


class TestDamage:
    """SQLite finds no flipped bit; the store does."""

    async def test_wrong_bytes_are_never_given_out(self, opened: Opener, path: Path) -> None:
        store = await opened()
        for key in ("whole", "broken"):
            response = await logged(store, key, last=40)
            await store.finish(key, completed(response), tail=40, epoch=1, body=Body(b"a body", (), 1.0))
        await store.close()
        damage = "UPDATE batch SET data = CAST(replace(data, 'delta', 'Delta') AS BLOB)"
        rows(path, f"{damage} WHERE rid = 2 AND first >= 30 AND first < 33")
        rows(path, "UPDATE batch SET data = 'a text' WHERE rid = 2 AND first >= 33 AND first < 36")
        rows(path, "UPDATE body SET data = x'00' WHERE rid = 2")
        store = await opened()
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="log of broken is damaged"):
                await there(store, "broken")
        with pytest.raises(StoreUnavailable):
            await store.read("broken", after=32)
        with pytest.raises(StoreUnavailable, match="body of broken is damaged"):
            await store.body("broken")
        assert (await store.read("broken", after=35)).frames == tuple(numbered(36, 40))
        assert await there(store, "whole") == (numbered(0, 40), End())
        assert await store.body("whole") == Body(b"a body", (), 1.0)
        await store.delete("broken")

    async def test_a_log_that_has_lost_events_is_no_end(self, opened: Opener, path: Path) -> None:
        store = await opened()
        await ended(store, last=5)
        await store.close()
        rows(path, "DELETE FROM batch WHERE first >= 3")
        store = await opened()
        assert (await store.read("key", after=-1)).frames == tuple(numbered(0, 2))
        with pytest.raises(StoreUnavailable, match="lost"):
            await store.read("key", after=2, wait=3600)

    async def test_a_damaged_live_record_stops_the_start(self, opened: Opener, path: Path) -> None:
        store = await opened()
        await logged(store, last=1)
        await store.close()
        rows(path, "UPDATE record SET data = x'7b7d'")
        with pytest.raises(Unusable, match="record of key is damaged"):
            await opened()
