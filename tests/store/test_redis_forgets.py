"""What a failover makes of Redis: keys that are not there any more, and others that do not fit what is."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from given import BEGAN, PATIENCE_S, Clock, a_record, completed, ended, events, given_up, logged, numbered, there
from redis_server import RedisServer

from gateway.domain.attempt import Attempt
from gateway.domain.response import Body, Change, Counts
from gateway.domain.snapshot import read_snapshot
from gateway.relay.ledger import Ledger
from gateway.relay.live import Live
from gateway.store.port import Closed, End, Forgotten, Lease
from gateway.store.redis import RedisStore
from gateway.telemetry.observers import Telemetry

FOREVER_S = 10.0**9
Process = Callable[..., Awaitable[RedisStore]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own."""
    one = RedisServer(tmp_path / "redis").start()
    yield one
    one.kill()


@pytest.fixture
async def process(server: RedisServer, clock: Clock) -> AsyncIterator[Process]:
    """One more process on it, which lives."""
    async with AsyncExitStack() as stack:

        async def start(**options: float) -> RedisStore:
            store = RedisStore(server.url, clock=clock, **options)  # type: ignore[arg-type]
            await store.open()
            stack.push_async_callback(store.close)
            await store.renew(PATIENCE_S)
            return store

        yield start


def keys(server: RedisServer, pattern: str) -> list[str]:
    return re.findall(r"^responses\S*", server.ask("KEYS", pattern), re.MULTILINE)


def forget(server: RedisServer, pattern: str) -> None:
    """As if they had never been written."""
    assert server.ask("DEL", *keys(server, pattern)) != ":0"


async def orphans(store: RedisStore, *in_hand: str) -> list[str]:
    return [response.key async for response in store.orphans(set(in_hand) if in_hand else None)]


async def purge(store: RedisStore, now: float = BEGAN) -> None:
    limits = {"retention_s": FOREVER_S, "resume_window_s": FOREVER_S, "tombstone_s": FOREVER_S}
    while await store.purge(now, **limits):
        pass


async def test_what_was_forgotten_is_written_anew_by_whoever_held_it(process: Process, server: RedisServer) -> None:
    one, two = await process(), await process()
    held = await logged(one, last=5)
    forget(server, "*{key}*")
    with pytest.raises(Forgotten):
        await two.read("key", after=-1)
    again = await one.create(held)
    assert again == held.but(tail=-1)
    assert await one.claim("key") == Lease("key", 1)
    assert await two.claim("key") is None
    with pytest.raises(Closed):
        await process_of_before(one)
    await one.append("key", events(*range(7)), tail=-1, epoch=1)
    assert await there(two) == (numbered(0, 6), None)
    assert await two.find("resp_key", route="route", owner="owner") == again.but(tail=6)


async def process_of_before(store: RedisStore) -> None:
    """Whoever held what is deleted knows it at its epoch."""
    await logged(store, "deleted", last=1)
    held = await store.get("deleted")
    assert held is not None
    await store.delete("deleted")
    await store.create(held)


async def test_a_reader_waits_for_what_was_forgotten_and_gets_each_event_once(
    process: Process, server: RedisServer
) -> None:
    one, two = await process(), await process()
    held = await logged(one, last=5)
    assert (await two.read("key", after=5, wait=0.01)).frames == ()
    forget(server, "*{key}*")
    with pytest.raises(Forgotten):
        await two.read("key", after=5, wait=PATIENCE_S)
    await one.create(held)
    await one.append("key", events(*range(4)), tail=-1, epoch=1)
    assert (await two.read("key", after=5, wait=0.01)).frames == ()
    await one.append("key", events(*range(4, 8)), tail=3, epoch=1)
    assert list((await two.read("key", after=5, wait=PATIENCE_S)).frames) == numbered(6, 7)


@pytest.mark.parametrize("told", [True, False], ids=["it hears of", "it finds"])
async def test_a_reader_that_is_beyond_the_end_of_what_was_written_anew_gets_no_clean_end(
    process: Process, server: RedisServer, told: bool
) -> None:
    one, two = await process(), await process()
    held = await logged(one, last=5)
    assert (await two.read("key", after=5, wait=0.01)).frames == ()
    forget(server, "*{key}*")
    record = await one.create(held)
    waiting = asyncio.ensure_future(two.read("key", after=5, wait=PATIENCE_S)) if told else None
    await one.append("key", events(0, 1, 2), tail=-1, epoch=1)
    await one.finish("key", completed(record), events(3), tail=2, epoch=1)
    if not told:
        await two._logs._ask(two._logs._watched["key"])
    page = await (waiting or two.read("key", after=5, wait=PATIENCE_S))
    assert page.end is not None
    assert page.end.code == "response_lost"
    assert await there(two) == (numbered(0, 3), End())


async def by_noting(ledger: Ledger, live: Live) -> None:
    live.response = live.response.but(model="m")
    await ledger.note(live)


async def by_a_poll_that_tells_nothing_new(ledger: Ledger, live: Live) -> None:
    snapshot = read_snapshot(b'{"id":"resp_key","status":"queued"}')
    assert snapshot is not None
    live.response = live.response.but(status=snapshot.status, fingerprint=snapshot.fingerprint)
    assert not await ledger.observe(live, snapshot, [], source="poll")


async def by_an_end(ledger: Ledger, live: Live) -> None:
    assert await ledger.end(live, given_up(live.response), source="expiry")


@pytest.mark.parametrize("how", [by_noting, by_a_poll_that_tells_nothing_new, by_an_end])
async def test_its_holder_finds_out_with_whatever_it_writes_and_no_count_is_lost_or_doubled(
    process: Process, server: RedisServer, how: Callable[[Ledger, Live], Awaitable[None]]
) -> None:
    store = await process()
    ledger = Ledger(store, Telemetry([]), lambda: BEGAN, lambda live: None, lambda live: None)
    record = await logged(store, last=5)
    live = Live(record, record.epoch, body=Body(b"{}"))
    live.count(client_polls=1)
    await ledger.note(live)
    live.count(client_polls=1)
    forget(server, "*{key}*")
    await how(ledger, live)
    await ledger.note(live)
    shown = await store.get("key")
    assert shown is not None
    assert (shown.epoch, shown.counts, shown.ending) == (1, Counts(client_polls=2), live.response.ending)
    assert await store.body("key") is not None


async def test_one_that_was_deleted_stays_so_whatever_the_list_of_tombstones_has_forgotten(
    process: Process, server: RedisServer
) -> None:
    one, two = await process(), await process()
    held = await logged(one, last=5)
    await two.delete("key")
    forget(server, "*tombstones")
    with pytest.raises(Closed) as refused:
        await one.create(held)
    assert not isinstance(refused.value, Forgotten)
    with pytest.raises(Closed) as gone:
        await one.read("key", after=5)
    assert not isinstance(gone.value, Forgotten)


async def test_what_is_deleted_while_it_is_forgotten_is_not_written_anew(process: Process, server: RedisServer) -> None:
    one, two = await process(), await process()
    held = await logged(one, last=5)
    forget(server, "*{key}*")
    await two.delete("key")
    with pytest.raises(Closed):
        await one.create(held)


async def test_no_key_of_a_response_is_there_for_ever(process: Process, server: RedisServer) -> None:
    store = await process(retention_s=1000, resume_window_s=100, give_up_after_s=5000)
    attempt = Attempt("name", "words", BEGAN)
    await store.create(a_record("asked", response_id="resp_asked"), attempt)
    await store.append("asked", events(0), tail=-1, epoch=1)
    await store.change("asked", Change(), epoch=1, body=Body(b"{}"))
    await logged(store, "live", last=5)
    await ended(store, "ended", response_id="resp_ended")
    response = await store.create(a_record("due", response_id="resp_due"))
    await store.finish("due", completed(response).but(due=True), events(0), tail=-1, epoch=1, body=Body(b"{}"))
    await ended(store, "gone")
    await store.delete("gone")
    found = [*keys(server, "*{*"), *keys(server, "*:name:*"), *keys(server, "*:attempt:*")]
    assert {key.rpartition(":")[2] for key in keys(server, "*{*")} == {"record", "log", "body", "due"}
    left_s = {key: int(server.ask("PTTL", key).removeprefix(":")) / 1000 for key in found}
    assert [key for key, seconds in left_s.items() if seconds <= 0] == []
    assert left_s["responses:{live}:log"] == pytest.approx(5000 + 1000 + 86400, abs=PATIENCE_S)


async def test_what_a_process_holds_is_found_by_others_though_a_failover_forgot_that_it_does(
    process: Process, server: RedisServer
) -> None:
    one, two = await process(), await process()
    for key in ("key", "other"):
        await logged(one, key, last=2)
    forget(server, "*:held:*")
    assert await orphans(one, "key", "other") == []
    await one.renew(0)
    assert sorted(await orphans(two)) == ["key", "other"]


async def test_what_lives_comes_back_to_the_lists_that_forgot_it_though_nobody_lives_who_held_it(
    process: Process, server: RedisServer
) -> None:
    one, two = await process(), await process()
    await logged(one, last=2)
    for pattern in ("*:live", "*:held:*", "*:processes"):
        forget(server, pattern)
    await two.renew(PATIENCE_S)
    await purge(two, BEGAN + 1)
    assert await orphans(two) == []
    await purge(two, BEGAN + 100)
    assert await orphans(two) == ["key"]
    assert [response.key async for response in two.live()] == ["key"]


async def test_lists_forget_in_time_what_is_not_there(process: Process, server: RedisServer) -> None:
    store = await process()
    for number in range(450):
        await store.create(a_record(f"gone-{number}"))
    await logged(store, "here", last=0)
    forget(server, "*{gone*")
    for _ in range(3):
        await purge(store, BEGAN + 100)
    for name in ("all", "live"):
        assert server.ask("ZCARD", f"responses:{name}") == ":1"


async def test_a_process_learns_that_redis_was_away(process: Process, server: RedisServer) -> None:
    store = await process()
    assert not (await store.renew(PATIENCE_S)).unsure
    server.kill()
    server.start()
    assert (await store.renew(PATIENCE_S)).unsure
    assert not (await store.renew(PATIENCE_S)).unsure
