"""What every store promises, fourth part: the ends that telemetry has still to tell. Then what only the file has."""

import asyncio
from pathlib import Path

import pytest
from given import BEGAN, Clock, Opener, a_record, completed, ended, given_up, logged, rows
from msgspec.structs import replace

from gateway.domain.content import Content
from gateway.domain.errors import StoreUnavailable
from gateway.domain.lifecycle import Outcome
from gateway.domain.response import Change, Counts, Response, Status
from gateway.store.port import Store

FOREVER_S = 10.0**9


async def owing(store: Store, key: str = "key", **changes: object) -> Response:
    """A record that ended, of which telemetry has still to tell."""
    response = await store.create(a_record(key, response_id=f"resp_{key}"))
    outcome = completed(response, **changes)
    assert await store.finish(key, replace(outcome, due=True), tail=-1, epoch=1)
    return await store.get(key) or response


async def due_in(store: Store) -> list[Response]:
    return [due.response for due in await store.due(limit=100)]


async def test_an_end_that_is_due_is_there_with_the_end_until_it_is_settled(store: Store) -> None:
    await ended(store, "told already")
    one = await owing(store, "one")
    two = await owing(store, "two")
    assert await due_in(store) == [one, two]
    assert await store.owed() == 2
    (first, second) = await store.due(limit=100)
    assert (first.late, second.late) == (False, False)
    assert [due.response for due in await store.due(limit=1)] == [one]
    assert [due.response for due in await store.due(after=first.number, limit=100)] == [two]
    await store.settle([first.number])
    assert await due_in(store) == [two]
    await store.settle([first.number, second.number])
    await store.settle([])
    assert (await store.due(limit=100), await store.owed()) == ([], 0)


async def test_only_the_one_ending_is_due(store: Store) -> None:
    response = await store.create(a_record())
    tries = [replace(completed(response, model=str(number)), due=True) for number in range(20)]
    answers = await asyncio.gather(*[store.finish("key", outcome, tail=-1, epoch=1) for outcome in tries])
    assert await due_in(store) == [await store.get("key")]
    assert (await due_in(store))[0].model == str(answers.index(True))


async def test_what_is_due_has_every_count_and_stays_as_it_was_at_the_end(store: Store) -> None:
    response = await store.create(a_record())
    await store.change("key", Change(counts={"client_polls": 2}), epoch=1)
    outcome = replace(completed(response), counts={"client_polls": 1, "resumes": 1}, due=True)
    assert await store.finish("key", outcome, tail=-1, epoch=1)
    at_its_end = await store.get("key")
    assert at_its_end is not None
    assert at_its_end.counts == Counts(client_polls=3, resumes=1)
    await store.change("key", Change(counts={"client_polls": 1}), epoch=1)
    assert await due_in(store) == [at_its_end]


async def test_what_is_due_may_be_amended_as_long_as_it_is(store: Store) -> None:
    await owing(store, "one")
    await owing(store, "two")
    first, second = await store.due(limit=9)
    other = first.response.but(attended=True, error_message="\udcff")
    await store.amend(replace(first, response=other))
    assert await due_in(store) == [other, second.response]
    assert await store.get("one") == first.response, "the record is another matter"
    await store.settle([first.number])
    await store.amend(first)
    assert await due_in(store) == [second.response]


async def test_a_terminal_status_that_comes_late_is_due_beside_the_end_before(store: Store) -> None:
    response = await logged(store, last=2)
    lost: Outcome = replace(given_up(response), due=True)
    # In one go, so that a store that commits in groups has both in one commit.
    await asyncio.gather(
        store.finish("key", lost, tail=2, epoch=1),
        store.finish("key", replace(completed(response), due=True), tail=2, epoch=1),
    )
    assert [(due.response.status, due.late) for due in await store.due(limit=9)] == [
        (None, False),
        (Status.COMPLETED, True),
    ]


async def test_what_is_due_outlives_the_record_but_not_the_retention(store: Store) -> None:
    response = await store.create(a_record(response_id="resp_1"))
    outcome = replace(completed(response), due=True)
    await asyncio.gather(store.finish("key", outcome, tail=-1, epoch=1), store.delete("key"))
    other = await owing(store, "other")
    assert await store.get("key") is None
    assert [due.key for due in await due_in(store)] == ["key", "other"]

    async def purged(now: float) -> None:
        while await store.purge(now, retention_s=100, resume_window_s=10, tombstone_s=FOREVER_S):
            pass

    assert other.ended_at == BEGAN + 10
    await purged(BEGAN + 109)
    assert await store.owed() == 2
    await purged(BEGAN + 110)
    assert await store.owed() == 0


async def test_what_is_due_is_in_the_file(opened: Opener, path: Path) -> None:
    store = await opened()
    odd = await owing(store, model="\udcff", error_message="\N{HEDGEHOG}\x00", fingerprint=2**64)
    await store.delete("key")
    store = await opened()
    assert await due_in(store) == [odd]
    # A new record takes nobody's number.
    new = await owing(store, "new")
    assert await due_in(store) == [odd, new]


async def test_a_file_from_before_ends_were_kept_is_taken_over(opened: Opener, path: Path, clock: Clock) -> None:
    store = await opened()
    before = await ended(store)
    await store.close()
    rows(path, "DROP TABLE due")
    store = await opened()
    assert await store.get("key") == before
    assert await store.owed() == 0
    new = await owing(store, "new")
    assert await due_in(store) == [new]


async def test_a_damaged_end_is_named_once_and_holds_up_no_other(opened: Opener, path: Path) -> None:
    store = await opened()
    await owing(store, "damaged")
    whole = await owing(store, "whole")
    await store.close()
    rows(path, "UPDATE due SET crc = crc + 1 WHERE number = (SELECT min(number) FROM due)")
    store = await opened()
    with pytest.raises(StoreUnavailable, match="The stored end of record 1 is damaged"):
        await store.due(limit=100)
    assert await due_in(store) == [whole]


async def test_what_was_said_is_kept_in_one_place_and_goes_with_the_log(store: Store) -> None:
    said = Content(1000, input="[]")
    response = await store.create(a_record(stored=False, content=said))
    assert await store.finish("key", replace(completed(response), due=True), tail=-1, epoch=1)
    assert [due.content for due in await due_in(store)] == [said.place]

    async def content() -> Content | None:
        record = await store.get("key")
        return record.content if record else None

    assert await content() == said
    while await store.purge(BEGAN + 21, retention_s=100, resume_window_s=10, tombstone_s=FOREVER_S):
        pass
    assert await content() is None
    assert await store.owed() == 1
