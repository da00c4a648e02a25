"""What every store promises of creates that are sent again: which records they join, and which they do not."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from given import BEGAN, PATIENCE_S, Clock, Opener, a_record, completed, ended, given_up, rows
from msgspec.structs import replace

from gateway.domain.attempt import GIVEN_S, JOIN_S, Attempt, Fate
from gateway.domain.errors import IdempotencyKeyReused
from gateway.domain.mode import Mode
from gateway.domain.response import Ending, Response
from gateway.store.port import ATTEMPT_S, Store

FOREVER_S = 10.0**9


def tried(retry: int = 0, **changes: Any) -> Attempt:
    """An attempt in the usual words."""
    return replace(Attempt("words", "words", BEGAN, retry=retry), **changes)


def keyed(**changes: Any) -> Attempt:
    """An attempt with a key."""
    return replace(Attempt("key", "words", BEGAN, keyed=True), **changes)


async def sent(store: Store, key: str, attempt: Attempt, *, join: bool = True, **changes: Any) -> str:
    """Which record a create is given."""
    changes = {"mode": Mode.BACKGROUND, "response_id": f"resp_{key}", **changes}
    return (await store.create(a_record(key, **changes), attempt, join=join)).key


async def keys(store: Store) -> list[str]:
    return [response.key async for response in store.live()]


async def test_two_equal_attempts_are_two(store: Store) -> None:
    assert await sent(store, "first", tried(), join=False) == "first"
    assert await sent(store, "second", tried(), join=False) == "second"


async def test_a_retry_is_given_the_record_of_what_it_repeats(store: Store) -> None:
    await sent(store, "first", tried(), response_id=None)
    assert await store.create(a_record("again"), tried(1), join=True) == await store.get("first")
    assert await keys(store) == ["first"]


async def test_a_retry_in_other_words_is_another(store: Store) -> None:
    await sent(store, "first", tried())
    assert await sent(store, "second", tried(1, name="others", fingerprint="others")) == "second"


async def test_a_retry_that_is_not_to_join_does_not(store: Store) -> None:
    await sent(store, "first", tried())
    assert await sent(store, "second", tried(1), join=False) == "second"


async def test_of_two_retries_at_once_one_joins(store: Store) -> None:
    await sent(store, "first", tried())
    given = await asyncio.gather(*[sent(store, f"again-{number}", tried(1)) for number in range(20)])
    assert given.count("first") == 1
    assert len(set(given)) == 20


async def test_each_of_many_that_were_lost_is_joined_once(store: Store) -> None:
    await asyncio.gather(*[sent(store, f"first-{number}", tried(), join=False) for number in range(20)])
    given = await asyncio.gather(*[sent(store, f"again-{number}", tried(1)) for number in range(20)])
    assert set(given) == {f"first-{number}" for number in range(20)}


async def test_the_next_retry_of_a_chain_joins_too(store: Store) -> None:
    await sent(store, "first", tried())
    assert await sent(store, "second", tried(1)) == "first"
    assert await sent(store, "third", tried(3)) == "first"
    assert await sent(store, "fourth", tried(3)) == "fourth"


async def test_a_retry_joins_the_one_whose_client_has_gone_before_any_other(store: Store) -> None:
    for key in ("waits", "left", "waits-too"):
        await sent(store, key, tried(), join=False)
    await store.mark("left", tried().now(Fate.LEFT, BEGAN + 5))
    assert await sent(store, "again", tried(1)) == "left"
    assert await sent(store, "another", tried(1)) in ("waits", "waits-too")


async def test_an_answered_attempt_is_joined_by_no_retry(store: Store) -> None:
    await sent(store, "first", tried())
    await store.mark("first", tried().now(Fate.ANSWERED, BEGAN))
    assert await sent(store, "second", tried(1)) == "second"


async def test_an_answered_attempt_is_joined_by_no_retry_however_many_came_after_it(store: Store) -> None:
    await sent(store, "first", tried(), mode=Mode.FOREGROUND, response_id=None)
    await store.finish("first", completed(a_record("first", response_id="resp_first")), tail=-1, epoch=1)
    await store.mark("first", tried().now(Fate.ANSWERED, BEGAN))
    for number in range(100):
        await ended(store, f"another-{number}")
    assert await sent(store, "second", tried(1)) == "second"


async def test_an_answer_whose_connection_broke_is_joined_after_all(store: Store) -> None:
    await sent(store, "first", tried())
    await store.mark("first", tried().now(Fate.ANSWERED, BEGAN))
    await store.mark("first", tried().now(Fate.LEFT, BEGAN + 1))
    assert await sent(store, "second", tried(1)) == "first"


async def test_what_becomes_of_an_earlier_try_does_not_matter_any_more(store: Store) -> None:
    await sent(store, "first", tried())
    await sent(store, "again", tried(1))
    await store.mark("first", tried().now(Fate.ANSWERED, BEGAN))
    assert await sent(store, "once more", tried(2)) == "first"
    await store.mark("first", tried(2).now(Fate.ANSWERED, BEGAN))
    await store.mark("first", tried(1).now(Fate.LEFT, BEGAN))
    assert await sent(store, "new", tried(3)) == "new"


async def test_a_mark_on_what_is_not_there_is_nothing(store: Store) -> None:
    await store.mark("nobody", tried())
    assert await sent(store, "second", tried(1)) == "second"


@pytest.mark.parametrize(("late_s", "given"), [(JOIN_S, "first"), (JOIN_S + 1, "again")])
async def test_a_lost_answer_is_joined_within_ten_minutes(
    store: Store, clock: Clock, late_s: float, given: str
) -> None:
    await sent(store, "first", tried())
    await store.mark("first", tried().now(Fate.LEFT, BEGAN + 100))
    clock.now = BEGAN + 100 + late_s
    assert await sent(store, "again", tried(1)) == given


async def test_while_upstream_has_not_answered_there_is_no_limit(store: Store, clock: Clock) -> None:
    await sent(store, "first", tried(), response_id=None)
    clock.now = BEGAN + 3 * JOIN_S
    assert await sent(store, "again", tried(1)) == "first"


async def test_an_answer_in_the_foreground_is_joined_for_ten_minutes_from_when_it_was_there(
    store: Store, clock: Clock
) -> None:
    response = a_record("first", mode=Mode.FOREGROUND)
    await store.create(response, tried())
    await store.finish("first", completed(response.but(response_id="resp_1")), tail=-1, epoch=1)
    clock.now = BEGAN + 10 + JOIN_S
    assert await sent(store, "again", tried(1)) == "first"


@pytest.mark.parametrize("ending", [Ending.ABANDONED, Ending.DELETED])
async def test_what_was_stopped_is_joined_by_nobody(store: Store, ending: Ending) -> None:
    response = a_record("first")
    await store.create(response, tried())
    await store.finish("first", given_up(response, ending), tail=-1, epoch=1)
    assert await sent(store, "again", tried(1)) == "again"


async def test_what_was_lost_is_joined_as_it_is(store: Store) -> None:
    response = a_record("first")
    await store.create(response, tried())
    await store.finish("first", given_up(response, Ending.UPSTREAM_LOST), tail=-1, epoch=1)
    joined: Response = await store.create(a_record("again"), tried(1), join=True)
    assert (joined.key, joined.ending) == ("first", Ending.UPSTREAM_LOST)


async def test_what_is_deleted_is_joined_by_nobody(store: Store) -> None:
    await sent(store, "first", tried())
    await store.delete("first")
    assert await sent(store, "again", tried(1)) == "again"
    assert await sent(store, "once more", tried(2)) == "again"


async def test_of_any_number_with_one_key_at_once_one_is_recorded(store: Store) -> None:
    given = await asyncio.gather(*[sent(store, f"number-{number}", keyed()) for number in range(20)])
    assert len(set(given)) == 1
    assert await keys(store) == given[:1]


async def test_a_key_is_joined_also_after_its_answer_was_given(store: Store) -> None:
    await sent(store, "first", keyed())
    for _ in range(2):
        await store.mark("first", keyed().now(Fate.ANSWERED, BEGAN))
        assert await sent(store, "again", keyed()) == "first"


@pytest.mark.parametrize(("late_s", "given"), [(JOIN_S, "first"), (JOIN_S + 1, "again")])
async def test_a_key_holds_for_ten_minutes_however_often_it_is_used(
    store: Store, clock: Clock, late_s: float, given: str
) -> None:
    await sent(store, "first", keyed())
    clock.now = BEGAN + JOIN_S / 2
    assert await sent(store, "again", keyed(at=clock.now)) == "first"
    await store.mark("first", keyed(at=clock.now).now(Fate.ANSWERED, clock.now))
    clock.now = BEGAN + late_s
    assert await sent(store, "again", keyed(at=clock.now)) == given


async def test_a_key_with_other_words_is_refused_and_changes_nothing(store: Store) -> None:
    await sent(store, "first", keyed())
    with pytest.raises(IdempotencyKeyReused):
        await sent(store, "second", keyed(fingerprint="others"))
    assert await keys(store) == ["first"]
    assert await sent(store, "third", keyed()) == "first"


async def test_of_an_old_key_with_other_words_nothing_is_known(store: Store, clock: Clock) -> None:
    await sent(store, "first", keyed())
    clock.now = BEGAN + JOIN_S + 1
    assert await sent(store, "second", keyed(fingerprint="others", at=clock.now)) == "second"
    assert await sent(store, "third", keyed(fingerprint="others", at=clock.now)) == "second"


async def test_attempts_are_purged_when_nobody_can_join_them_any_more(store: Store, clock: Clock) -> None:
    await sent(store, "first", tried(), response_id=None)
    await sent(store, "second", keyed(at=BEGAN + 10), response_id=None)
    clock.now = BEGAN + ATTEMPT_S
    limits = {"retention_s": FOREVER_S, "resume_window_s": FOREVER_S, "tombstone_s": FOREVER_S}
    assert await store.purge(clock.now, **limits) == 1
    assert await store.purge(clock.now, **limits) == 0
    assert await sent(store, "third", keyed(at=clock.now)) == "second"
    assert await keys(store) == ["first", "second"]


async def test_a_purged_record_takes_its_attempt_along(store: Store) -> None:
    await ended(store, "done")
    await sent(store, "again", tried(1))
    limits = {"retention_s": 1.0, "resume_window_s": 1.0, "tombstone_s": FOREVER_S}
    await store.purge(BEGAN + 100, **limits)
    assert await sent(store, "once more", tried(2)) == "again"


async def test_attempts_outlive_the_process(opened: Opener) -> None:
    store = await opened()
    await sent(store, "lost", tried())
    await sent(store, "keyed", keyed())
    store = await opened()
    assert await sent(store, "again", tried(1)) == "lost"
    assert await sent(store, "another", tried(1)) == "another"
    assert await sent(store, "keyed again", keyed()) == "keyed"
    store = await opened()
    assert await sent(store, "once more", tried(2)) in ("lost", "another")


async def test_what_was_answered_is_closed_for_the_next_process_when_its_client_has_surely_got_it(
    opened: Opener, clock: Clock
) -> None:
    store = await opened()
    for key, before_s in (("given", GIVEN_S), ("just given", GIVEN_S / 2)):
        await sent(store, key, tried(name=key))
        await store.mark(key, tried(name=key).now(Fate.ANSWERED, BEGAN - before_s))
    async with asyncio.timeout(PATIENCE_S):
        while await store._thread.ask(lambda db: db.execute("SELECT count(*) FROM attempt").fetchone()) != (1,):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    for again in ("this process", "the next one"):
        if again == "the next one":
            store = await opened()
        assert await sent(store, f"given, {again}", tried(1, name="given")) == f"given, {again}"
        joined = await sent(store, f"just given, {again}", tried(1, name="just given"))
        assert (joined == "just given") is (again == "the next one")


async def test_a_retry_that_comes_while_the_first_is_still_being_recorded_waits_for_it(opened: Opener) -> None:
    store = await opened()
    hold = threading.Event()
    held = store._thread.ask(lambda db: hold.wait())
    first = asyncio.ensure_future(sent(store, "first", tried(), join=False))
    await asyncio.sleep(0)
    again = asyncio.ensure_future(sent(store, "again", tried(1)))
    try:
        for _ in range(20):
            await asyncio.sleep(0)
        assert not again.done()
    finally:
        hold.set()
        await held
    assert (await first, await again) == ("first", "first")


async def test_a_file_from_before_attempts_were_kept_is_opened(opened: Opener, path: Path) -> None:
    store = await opened()
    await sent(store, "first", tried())
    await store.close()
    rows(path, "DROP TABLE attempt")
    store = await opened()
    assert await sent(store, "again", tried(1)) == "again"
    assert await sent(store, "once more", tried(2)) == "again"
