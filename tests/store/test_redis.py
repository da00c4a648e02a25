"""What only Redis has: other processes beside this one. Two stores on one server are two processes to each other."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from given import (
    BEGAN,
    PATIENCE_S,
    Clock,
    a_record,
    an_event,
    completed,
    ended,
    events,
    given_up,
    logged,
    numbered,
    there,
)
from lossy import LossyLine
from msgspec.structs import replace
from redis_server import RedisServer, url_for

from gateway.domain.attempt import GIVEN_S, Attempt, Fate
from gateway.domain.response import Change, Response
from gateway.domain.sealed import Seal
from gateway.store.follow import follow
from gateway.store.port import Closed, End, Fenced, Gap, Lease, Query, Unusable
from gateway.store.redis import RedisStore

FOREVER_S = 10.0**9
Process = Callable[..., Awaitable[RedisStore]]


@pytest.fixture
async def parts() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def process(parts: AsyncExitStack, tmp_path: Path, clock: Clock) -> Process:
    """One more process on the test's Redis, or on that of a `url`."""

    async def start(url: str | None = None, **options: float) -> RedisStore:
        store = RedisStore(url or url_for(tmp_path), clock=clock, **options)  # type: ignore[arg-type]
        await store.open()
        parts.push_async_callback(store.close)
        return store

    return start


@pytest.fixture
def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """A server that a test may do to what it likes."""
    one = RedisServer(tmp_path / "redis").start()
    yield one  # type: ignore[misc]
    one.process.send_signal(signal.SIGCONT)
    one.kill()


async def followed(store: RedisStore, key: str = "key", after: int = -1) -> tuple[list[tuple[int, bytes]], End | None]:
    """All that a reader gets until the end."""
    frames: list[tuple[int, bytes]] = []
    async for page in follow(store, key, after, heartbeat_s=1):
        frames += page.frames
        if page.end is not None:
            return frames, page.end
    raise AssertionError("a log that is followed ends")


async def written(store: RedisStore, response: Response, last: int, *, pause_s: float = 0) -> None:
    """A whole log, event by event."""
    for number in range(last):
        await store.append(response.key, events(number), tail=number - 1, epoch=response.epoch)
        await asyncio.sleep(pause_s)
    assert await store.finish(response.key, completed(response), events(last), tail=last - 1, epoch=response.epoch)


async def test_readers_elsewhere_get_each_event_once_and_in_order_whenever_they_come(process: Process) -> None:
    one, two = await process(), await process()
    response = await one.create(a_record())
    writing = asyncio.ensure_future(written(one, response, 200, pause_s=0.001))
    readers = []
    for after in range(-1, 100):
        readers.append(asyncio.ensure_future(followed(two, after=after)))
        await asyncio.sleep(0.002)
    async with asyncio.timeout(PATIENCE_S):
        await writing
        for after, reader in enumerate(readers, -1):
            assert await reader == (numbered(after + 1, 200), End())


async def test_a_reader_elsewhere_is_told_at_once_what_was_acknowledged(process: Process) -> None:
    one, two = await process(), await process()
    await one.create(a_record())
    for number in range(50):
        await one.append("key", events(number), tail=number - 1, epoch=1)
        assert await there(two, after=number - 1) == (numbered(number, number), None)


async def test_a_reader_elsewhere_is_told_that_a_log_has_gone(process: Process) -> None:
    one, two = await process(), await process()
    await logged(one, last=2)
    waiting = asyncio.ensure_future(two.read("key", after=2, wait=3600))
    while not two._logs._watched.get("key") or two._logs._watched["key"].tail is None:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await one.delete("key")
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(Closed):
            await waiting


async def test_messages_that_are_lost_are_made_up_for(
    process: Process, parts: AsyncExitStack, server: RedisServer
) -> None:
    line = await parts.enter_async_context(LossyLine(server.port).open())
    one, two = await process(server.url), await process(f"redis://127.0.0.1:{line.port}")
    response = await one.create(a_record())
    reader = asyncio.ensure_future(followed(two))

    async def cut() -> None:
        while not reader.done():
            await asyncio.sleep(0.1)
            line.cut()

    async with asyncio.timeout(PATIENCE_S):
        cutting = asyncio.ensure_future(cut())
        await written(one, response, 100, pause_s=0.01)
        assert await reader == (numbered(0, 100), End())
        await cutting


async def test_of_what_two_processes_create_under_one_key_one_is_recorded(process: Process) -> None:
    one, two = await process(), await process()
    tries = [(one, "a"), (two, "b")] * 10
    created = await asyncio.gather(*[store.create(a_record(model_asked=model)) for store, model in tries])
    assert len({response.model_asked for response in created}) == 1
    assert [response.key async for response in one.live()] == ["key"]


async def test_of_attempts_that_are_one_one_is_recorded_whichever_process_they_come_to(process: Process) -> None:
    stores = [await process() for _ in range(3)]
    keyed = Attempt("name", "words", BEGAN, keyed=True)
    tries = [stores[number % 3].create(a_record(str(number)), keyed, join=True) for number in range(30)]
    given = {response.key for response in await asyncio.gather(*tries)}
    assert len(given) == 1
    assert [response.key async for response in stores[0].live()] == list(given)


async def test_each_lost_create_is_joined_by_one_retry_whichever_process_that_comes_to(process: Process) -> None:
    one, two = await process(), await process()
    first = Attempt("name", "words", BEGAN, fate=Fate.LEFT)
    for number in range(10):
        await one.create(a_record(f"first-{number}"), first)
    again = replace(first, retry=1, fate=Fate.WAITING)
    tries = [(one, two)[number % 2].create(a_record(f"again-{number}"), again, join=True) for number in range(10)]
    given = {response.key for response in await asyncio.gather(*tries)}
    assert given == {f"first-{number}" for number in range(10)}


@pytest.mark.parametrize(("before_s", "given"), [(GIVEN_S, "again"), (GIVEN_S / 2, "first")])
async def test_an_answer_whose_process_died_before_its_client_had_surely_got_it_is_joined_elsewhere(
    process: Process, before_s: float, given: str
) -> None:
    one, two = await process(), await process()
    first = Attempt("name", "words", BEGAN)
    await one.create(a_record("first"), first)
    await one.create(a_record("long ago"), replace(first, name="another"))
    await one.mark("long ago", replace(first, name="another").now(Fate.ANSWERED, BEGAN - 10 * GIVEN_S))
    await one.mark("first", first.now(Fate.ANSWERED, BEGAN - before_s))
    assert (await one.create(a_record("here"), replace(first, retry=1), join=True)).key == "here"
    await one.delete("here")
    async with asyncio.timeout(PATIENCE_S):
        while await fate_in(two, "long ago") is not Fate.ANSWERED:  # noqa: ASYNC110 - the process takes its time
            await asyncio.sleep(0.02)
    await one.close()
    assert (await two.create(a_record("again"), replace(first, retry=1), join=True)).key == given


async def fate_in(store: RedisStore, key: str) -> Fate | None:
    (row,) = await store._writer.read([key])
    return row.state.attempt.fate if row.state.attempt else None


async def test_a_process_that_died_before_its_first_heartbeat_leaves_orphans(process: Process) -> None:
    one, two = await process(), await process()
    await one.create(a_record())
    await one.close()
    assert [response.key async for response in two.orphans()] == ["key"]


async def test_what_a_living_process_holds_is_nobody_elses_and_what_a_dead_one_held_is_taken_by_one(
    process: Process,
) -> None:
    one, two, three = await process(), await process(), await process()
    assert (await one.renew(FOREVER_S)).processes == 1
    assert (await two.renew(FOREVER_S)).processes == 2
    await one.create(a_record())
    assert await two.claim("key") is None
    await three.renew(FOREVER_S)
    assert [response.key async for response in two.orphans()] == []
    await one.renew(0)
    assert [response.key async for response in two.orphans()] == ["key"]
    leases = await asyncio.gather(*[store.claim("key") for store in (two, three) for _ in range(10)])
    assert set(leases) == {Lease("key", 2), None}
    assert {lease for lease in leases[:10]} | {lease for lease in leases[10:]} == {Lease("key", 2), None}


async def test_a_process_lives_as_long_as_its_heartbeat_said_by_redis_clock(process: Process) -> None:
    one, two = await process(), await process()
    await one.renew(0.2)
    await one.create(a_record())
    async with asyncio.timeout(PATIENCE_S):
        while not [response async for response in two.orphans()]:  # noqa: ASYNC110 - Redis' clock decides
            await asyncio.sleep(0.02)
    assert await two.claim("key") == Lease("key", 2)


async def test_whoever_wakes_up_after_its_lease_was_taken_writes_nothing_more(process: Process) -> None:
    one, two = await process(), await process()
    response = await logged(one, last=2)
    assert await two.claim("key") == Lease("key", 2)
    await two.append("key", events(3), tail=2, epoch=2)
    with pytest.raises(Fenced):
        await one.append("key", [an_event(3, b"late\n\n")], tail=2, epoch=1)
    with pytest.raises(Fenced):
        await one.change("key", Change({"model": "late"}), epoch=1)
    with pytest.raises(Fenced):
        await one.finish("key", completed(response), [an_event(3, b"late\n\n")], tail=2, epoch=1)
    assert await there(two) == (numbered(0, 3), None)


async def test_a_holder_learns_what_others_did_to_what_it_holds(process: Process) -> None:
    one, two = await process(), await process()
    await one.renew(FOREVER_S)
    for key in ("ended", "taken", "sealed", "untouched"):
        await one.create(a_record(key))
    await one.change("taken", Change({"waiting": True}), epoch=1)
    assert await two.finish("ended", completed(a_record("ended")), tail=-1, epoch=None)
    assert await two.claim("taken") == Lease("taken", 2)
    assert await two.change("sealed", Change({"seal": Seal("newer", 2.0)}), epoch=None)
    assert not await two.change("untouched", Change({"model": "m"}), epoch=None)
    news: list[str] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(news) < 3:
            news += (await one.renew(FOREVER_S)).news
    assert sorted(news) == ["ended", "sealed", "taken"]
    assert (await one.renew(FOREVER_S)).news == ()


async def test_one_process_has_the_turn(process: Process) -> None:
    stores = [await process() for _ in range(3)]
    assert sum(await asyncio.gather(*[store.turn("key", 3600) for store in stores for _ in range(5)])) == 1
    assert await stores[0].turn("other", 0.01)
    async with asyncio.timeout(PATIENCE_S):
        while not await stores[1].turn("other", 3600):  # noqa: ASYNC110 - Redis' clock decides
            await asyncio.sleep(0.01)


async def test_counts_of_all_processes_are_added_up_and_one_ends_it(process: Process) -> None:
    one, two = await process(), await process()
    response = await one.create(a_record())
    once = Change(counts={"client_polls": 1})
    await asyncio.gather(*[store.change("key", once, epoch=None) for store in (one, two) for _ in range(20)])
    ends = [store.finish("key", completed(response), tail=-1, epoch=None) for store in (one, two) for _ in range(5)]
    assert sum(await asyncio.gather(*ends)) == 1
    shown = await two.get("key")
    assert shown is not None
    assert shown.counts.client_polls == 40


async def test_what_a_living_process_has_to_tell_no_other_tells_until_it_is_dead(process: Process) -> None:
    one, two = await process(), await process()
    await one.renew(FOREVER_S)
    response = await one.create(a_record())
    await one.finish("key", replace(completed(response), due=True), tail=-1, epoch=1)
    assert [due.response.key for due in await one.due(limit=9)] == ["key"]
    assert (await two.due(limit=9), await two.owed()) == ([], 0)
    await one.renew(0)
    assert await two.owed() == 1
    (due,) = await two.due(limit=9)
    await two.settle([due.number])
    assert (await one.due(limit=9), await one.owed()) == ([], 0)


async def test_all_processes_hash_owners_alike(process: Process) -> None:
    assert (await process()).owner_key == (await process()).owner_key


async def test_an_ended_response_that_nobody_purges_goes_by_itself(process: Process, server: RedisServer) -> None:
    store = await process(server.url, retention_s=1000, resume_window_s=100)
    await ended(store, "stored")
    await ended(store, "unstored", stored=False)
    await logged(store, "live", last=2)
    day = 86400

    def left_s(key: str, part: str) -> float:
        return int(server.ask("PTTL", f"responses:{{{key}}}:{part}").removeprefix(":")) / 1000

    assert left_s("stored", "record") == pytest.approx(1000 + day, abs=PATIENCE_S)
    assert left_s("stored", "log") == pytest.approx(1000 + day, abs=PATIENCE_S)
    assert left_s("unstored", "record") == pytest.approx(1000 + day, abs=PATIENCE_S)
    assert left_s("unstored", "log") == pytest.approx(100 + day, abs=PATIENCE_S)
    server.ask("DEL", "responses:{stored}:record")
    limits = {"resume_window_s": FOREVER_S, "tombstone_s": FOREVER_S}
    await store.purge(BEGAN + 5000, retention_s=1000, **limits)
    assert [response.key for response in await store.list(Query())] == ["live"]


async def test_a_server_that_may_lose_responses_is_warned_of(process: Process, tmp_path: Path) -> None:
    careless = RedisServer(tmp_path / "careless", "--maxmemory-policy", "allkeys-lru", "--appendonly", "no").start()
    careful = RedisServer(
        tmp_path / "careful", "--maxmemory", "100mb", "--appendfsync", "always", "--maxmemory-policy", "noeviction"
    ).start()
    try:
        store = await process(careless.url)
        assert [warning.split(",")[0] for warning in store.warnings] == [
            "with maxmemory-policy allkeys-lru a full Redis deletes responses that still run; set noeviction",
            "without maxmemory a Redis that fills its machine is killed; set it below the machine's memory",
            "with appendonly no",
        ]
        assert store.durability == "process"
        store = await process(careful.url)
        assert (store.warnings, store.durability) == ((), "fsync")
        space = await store.space()
        assert space.capacity_bytes == 100 * 2**20
        assert space.free_bytes == 100 * 2**20 - space.bytes
    finally:
        careless.kill()
        careful.kill()


async def test_a_server_that_is_not_there_is_said_in_one_line(process: Process, server: RedisServer) -> None:
    server.kill()
    with pytest.raises(Unusable, match=r"^redis://\*\*\*@127.0.0.1:\d+: Redis cannot be reached: [^\n]*$"):
        await process(server.url.replace("//", "//me:secret@"))
    server.start()


async def test_a_server_that_wants_a_password_is_said_in_one_line(process: Process, server: RedisServer) -> None:
    server.ask("CONFIG", "SET", "requirepass", "secret")
    with pytest.raises(Unusable, match="Authentication required"):
        await process(server.url)
    with pytest.raises(Unusable, match="invalid username-password"):
        await process(server.url.replace("//", "//:wrong@"))
    await process(server.url.replace("//", "//:secret@"))


async def test_a_lost_log_is_told_to_its_writer_as_a_gap_and_repaired(process: Process, server: RedisServer) -> None:
    """What a failover to a replica that is behind does: record and log are both of an earlier moment."""
    one, two = await process(server.url), await process(server.url)
    response = await logged(one, last=9)
    reader = asyncio.ensure_future(followed(two))
    server.ask("XTRIM", "responses:{key}:log", "MAXLEN", "=", "0")
    server.ask("DEL", "responses:{key}:log")
    for number in range(5):
        server.ask("XADD", "responses:{key}:log", f"{number + 1}-0", "f", numbered(number, number)[0][1].decode())
    server.ask("HSET", "responses:{key}:record", "tail", "4")
    with pytest.raises(Gap) as gap:
        await one.append("key", events(10), tail=9, epoch=1)
    assert gap.value.tail == 4
    assert await one.append("key", events(*range(5, 11)), tail=4, epoch=1) == 6
    assert await one.finish("key", completed(response), events(11), tail=10, epoch=1)
    async with asyncio.timeout(PATIENCE_S):
        assert await reader == (numbered(0, 11), End())
    assert await there(two) == (numbered(0, 11), End())


async def test_an_end_that_another_made_meanwhile_is_not_ours(process: Process) -> None:
    one, two = await process(), await process()
    response = await logged(one, last=2)
    assert await two.finish("key", given_up(response), tail=2, epoch=None)
    assert not await one.finish("key", given_up(response), tail=2, epoch=1)
