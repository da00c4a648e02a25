"""What every store promises, first half: writing and ending. The port's docstring says it in words."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from given import BEGAN, STORES, Clock, a_record, an_event, completed, ended, events, given_up, logged, numbered, there
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.domain.errors import StoreUnavailable
from gateway.domain.events import Event
from gateway.domain.response import Body, Change, Counts, Ending, Status, Stuck, Usage
from gateway.store.port import Closed, End, Gap, Refused, Store


@pytest.mark.parametrize(
    "frame",
    [
        b"event: a\r\ndata: {}\r\n\r\n",
        b'data: {"delta":"\xf0\x9f\xa6\x94\xe2\x80\xa8"}\n\n',
        b"data: \x00\xff\xfe no UTF-8\n\n",
        b"",
        b"data: " + bytes(range(256)) * 20_000 + b"\n\n",
    ],
    ids=["line ends", "emoji", "any byte", "nothing", "five megabytes"],
)
async def test_a_frame_comes_back_byte_for_byte(store: Store, frame: bytes) -> None:
    await store.create(a_record())
    batch = [an_event(0, b"before\n\n"), an_event(1, frame), an_event(2, b"after\n\n")]
    assert await store.append("key", batch, tail=-1, epoch=1) == 3
    assert await there(store) == ([(0, b"before\n\n"), (1, frame), (2, b"after\n\n")], None)


async def test_a_record_comes_back_as_it_was_given(store: Store) -> None:
    response = a_record(
        path="/responses\udcff",
        status=Status.IN_PROGRESS,
        usage=Usage(1, 2, 3, 4),
        stuck=Stuck.NO_PROGRESS,
        error_message="\N{HEDGEHOG}\x00",
        fingerprint=2**64,
    )
    assert await store.create(response) == response.but(epoch=1)
    assert await store.get("key") == response.but(epoch=1)
    assert await store.get("another") is None


async def test_a_record_that_is_there_already_comes_back_however_many_create_it(store: Store) -> None:
    attempts = [a_record(model_asked=f"model-{number}") for number in range(50)]
    created = await asyncio.gather(*[store.create(attempt) for attempt in attempts])
    assert len({response.model_asked for response in created}) == 1
    assert [response async for response in store.live()] == created[:1]


@pytest.mark.parametrize("over", [False, True], ids=["live", "ended"])
async def test_of_all_who_make_a_change_once_one_does(store: Store, over: bool) -> None:
    await store.create(a_record())
    if over:
        await ended(store)
    once = Change(counts={"pickups": 1}, once="pickups")
    made = await asyncio.gather(*[store.change("key", once, epoch=1) for _ in range(20)])
    found = await store.get("key")
    assert sum(made) == 1
    assert found is not None
    assert found.counts.pickups == 1


async def test_a_batch_that_begins_beyond_the_tail_is_refused_as_a_gap(store: Store) -> None:
    await logged(store, last=4)
    with pytest.raises(Gap) as refused:
        await store.append("key", events(7), tail=6, epoch=1)
    assert refused.value.tail == 4
    assert await there(store) == (numbered(0, 4), None)


async def test_what_the_log_has_is_skipped_by_number(store: Store) -> None:
    await logged(store, last=4)
    changed = [an_event(number, b"another delivery\n\n") for number in (3, 4)]
    assert await store.append("key", changed, tail=2, epoch=1) == 0
    assert await store.append("key", [*changed, *events(5, 6)], tail=2, epoch=1) == 2
    assert await store.append("key", events(6, 6, 5, 7), tail=5, epoch=1) == 1
    assert await there(store) == (numbered(0, 7), None)


async def test_a_hole_that_upstream_left_is_kept(store: Store) -> None:
    await store.create(a_record())
    assert await store.append("key", events(0, 4), tail=-1, epoch=1) == 2
    assert await store.append("key", events(9), tail=4, epoch=1) == 1
    for after, rest in ((-1, (0, 4, 9)), (0, (4, 9)), (2, (4, 9)), (4, (9,)), (7, (9,)), (9, ()), (20, ())):
        frames, _ = await there(store, after=after)
        assert tuple(number for number, _ in frames) == rest


async def test_a_position_that_no_store_can_keep_is_refused_to_its_writer_alone(store: Store) -> None:
    await logged(store, "other", last=0)
    await store.create(a_record())
    results = await asyncio.gather(
        store.append("key", [an_event(2**63, b"x\n\n")], tail=-1, epoch=1),
        store.append("other", events(1), tail=0, epoch=1),
        return_exceptions=True,
    )
    assert isinstance(results[0], Refused)
    assert results[1] == 1


async def test_two_writers_of_one_stream_log_each_event_once(store: Store) -> None:
    await store.create(a_record())

    async def pump() -> int:
        new = 0
        for number in range(60):
            new += await store.append("key", events(number), tail=number - 1, epoch=1)
        return new

    assert sum(await asyncio.gather(pump(), pump(), pump())) == 60
    assert await there(store) == (numbered(0, 59), None)


async def test_records_show_the_tail_of_their_log(store: Store) -> None:
    await logged(store, last=7)
    for shown in (
        await store.get("key"),
        await store.find("resp_key", route="route", owner="owner"),
        *[response async for response in store.live()],
    ):
        assert shown is not None
        assert (shown.tail, shown.logged) == (7, True)


async def test_what_is_not_there_cannot_be_written(store: Store) -> None:
    assert not await store.change("key", Change({"model": "m"}), epoch=1)
    assert not await store.finish("key", completed(a_record()), tail=-1, epoch=1)
    assert await store.claim("key") is None
    await store.release("key", epoch=1)
    assert await store.body("key") is None
    with pytest.raises(Closed):
        await store.append("key", events(0), tail=-1, epoch=1)
    with pytest.raises(Closed):
        await store.read("key", after=-1)
    await store.delete("key")


async def test_a_change_replaces_fields_and_brings_the_newest_body(store: Store) -> None:
    await store.create(a_record())
    first = Body(b'{"status":"queued"}', (("X-A", "1"), ("x-a", "\udcff")), BEGAN)
    assert await store.change("key", Change({"status": Status.QUEUED}), epoch=1, body=first)
    assert await store.body("key") == first
    assert await store.change("key", Change({"model": "m"}), epoch=1)
    assert await store.body("key") == first
    second = replace(first, bytes=b'{"status":"in_progress"}')
    assert await store.change("key", Change(), epoch=1, body=second)
    assert await store.body("key") == second
    assert not await store.change("key", Change(), epoch=1)
    assert await store.get("key") == a_record(epoch=1, status=Status.QUEUED, model="m")


async def test_counts_are_added_up_whoever_adds(store: Store) -> None:
    response = await store.create(a_record())
    once = Change(counts={"client_polls": 1, "resumes": 2})
    assert all(await asyncio.gather(*[store.change("key", once, epoch=1) for _ in range(50)]))
    # The value that ends it was made before, and knows of no counts.
    await store.finish("key", completed(response), tail=-1, epoch=1)
    await store.change("key", once, epoch=1)
    shown = await store.get("key")
    assert shown is not None
    assert shown.counts == Counts(client_polls=51, resumes=102)


async def test_an_ending_is_events_end_mark_record_and_body_at_once(store: Store) -> None:
    response = await logged(store, last=1)
    waiting = asyncio.ensure_future(store.read("key", after=1, wait=60))
    body = Body(b'{"status":"completed"}', (), BEGAN)
    assert await store.finish("key", completed(response), events(2, 3), tail=1, epoch=1, body=body)
    page = await waiting
    assert (list(page.frames), page.end) == (numbered(2, 3), End())
    shown = await store.get("key")
    assert shown == completed(response).response.but(tail=3)
    assert await store.body("key") == body
    assert [response async for response in store.live()] == []


async def test_fifty_that_end_one_response_at_once_make_one_ending(store: Store) -> None:
    response = await logged(store, last=1)

    def last_words(number: int) -> list[Event]:
        return [an_event(2, b"the end of %d\n\n" % number)]

    tries = [
        store.finish("key", completed(response, model=str(number)), last_words(number), tail=1, epoch=1)
        for number in range(50)
    ]
    answers = await asyncio.gather(*tries)
    assert answers.count(True) == 1
    winner = answers.index(True)
    shown = await store.get("key")
    assert shown is not None
    assert shown.model == str(winner)
    assert (await there(store, after=1)) == ([(2, b"the end of %d\n\n" % winner)], End())


async def test_after_the_end_nothing_is_appended(store: Store) -> None:
    await ended(store, last=2)
    with pytest.raises(Closed):
        await store.append("key", events(3), tail=2, epoch=1)
    with pytest.raises(Closed):
        await store.append("key", events(2), tail=1, epoch=1)
    assert await there(store) == (numbered(0, 2), End())


async def test_after_the_end_a_slower_writer_changes_nothing_but_counts_and_owners(store: Store) -> None:
    response = await ended(store)
    late = Change({"status": Status.IN_PROGRESS, "model": "m"})
    assert not await store.change("key", late, epoch=1, body=Body(b"stale"))
    assert await store.get("key") == response
    assert await store.body("key") is None
    assert await store.change("key", replace(late, counts={"resumes": 1}, co_owner="proven"), epoch=1)
    shown = await store.find("resp_key", route="route", owner="proven")
    assert shown == response.but(counts=Counts(resumes=1))


async def test_an_ending_is_made_by_finish_alone(store: Store) -> None:
    await store.create(a_record())
    with pytest.raises(ValueError, match="only finish"):
        await store.change("key", Change({"ending": Ending.TERMINAL}), epoch=1)
    assert [response.key async for response in store.live()] == ["key"]


async def test_an_ending_that_skips_what_the_log_lacks_is_a_gap(store: Store) -> None:
    response = await logged(store, last=2)
    with pytest.raises(Gap) as refused:
        await store.finish("key", completed(response), events(6), tail=5, epoch=1)
    assert refused.value.tail == 2
    assert [response.key async for response in store.live()] == ["key"]


async def test_a_log_never_closes_without_the_event_that_closes_it(store: Store) -> None:
    response = await logged(store, last=2)
    await store.append("key", events(3), tail=2, epoch=1)
    # The end was made for position 3, which somebody else has filled meanwhile.
    with pytest.raises(Gap) as refused:
        await store.finish("key", completed(response), [an_event(3, b"the end\n\n")], tail=2, epoch=1)
    assert refused.value.tail == 3
    assert await store.finish("key", completed(response), [an_event(4, b"the end\n\n")], tail=3, epoch=1)
    assert await there(store, after=2) == ([*numbered(3, 3), (4, b"the end\n\n")], End())


async def test_an_end_without_an_event_of_its_own_tells_readers_why(store: Store) -> None:
    response = await logged(store, last=2)
    assert await store.finish("key", given_up(response), tail=2, epoch=1)
    assert await there(store, after=2) == ([], End("response_lost", "It was lost."))


@pytest.mark.parametrize("ending", [Ending.LOST, Ending.ABANDONED, Ending.UPSTREAM_LOST])
async def test_a_terminal_status_that_comes_late_is_taken_once_and_leaves_the_log(store: Store, ending: Ending) -> None:
    response = await logged(store, last=2)
    assert await store.finish("key", given_up(response, ending), tail=2, epoch=1)
    assert not await store.finish("key", given_up(response, Ending.ABANDONED), tail=2, epoch=1)
    body = Body(b'{"status":"completed"}')
    late = [
        store.finish("key", completed(response), events(3), tail=2, epoch=1, body=body),
        store.finish("key", completed(response), events(9), tail=8, epoch=1, body=body),
    ]
    assert await asyncio.gather(*late) == [True, False]
    shown = await store.get("key")
    assert shown is not None
    assert (shown.status, shown.ending, shown.tail) == (Status.COMPLETED, Ending.TERMINAL, 2)
    assert await store.body("key") == body
    assert await there(store) == (numbered(0, 2), End("response_lost", "It was lost."))


@pytest.mark.parametrize("ending", [Ending.TERMINAL, Ending.DELETED])
async def test_no_ending_follows_one_that_is_final(store: Store, ending: Ending) -> None:
    response = await logged(store, last=2)
    first = completed(response) if ending is Ending.TERMINAL else given_up(response, ending)
    assert await store.finish("key", first, tail=2, epoch=1)
    assert not await store.finish("key", completed(response, model="second"), tail=2, epoch=1)
    shown = await store.get("key")
    assert shown is not None
    assert (shown.ending, shown.model) == (ending, None)


async def test_a_closed_store_says_that_it_is_closed(store: Store) -> None:
    await logged(store, last=2)
    writing = asyncio.ensure_future(store.append("key", events(3), tail=2, epoch=1))
    await asyncio.sleep(0)
    await store.close()
    assert await writing == 1
    for call in (store.get("key"), store.append("key", events(4), tail=3, epoch=1), store.create(a_record("new"))):
        with pytest.raises(StoreUnavailable):
            await call
    with pytest.raises(StoreUnavailable):
        await store.read("key", after=-1, wait=60)


async def test_a_reader_that_waits_when_the_store_closes_is_released(store: Store) -> None:
    await logged(store, last=2)
    waiting = asyncio.ensure_future(store.read("key", after=2, wait=3600))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StoreUnavailable):
        await waiting


batches = st.tuples(
    st.integers(0, 2), st.integers(-1, 14), st.lists(st.integers(0, 14), max_size=5, unique=True).map(sorted)
)


@pytest.mark.parametrize("kind", STORES)
@settings(deadline=None, max_examples=40)
@given(script=st.lists(batches, max_size=25), limit=st.integers(1, 400))
def test_whatever_writers_do_a_log_is_the_list_that_the_rules_make(
    kind: str, script: list[tuple[int, int, list[int]]], limit: int
) -> None:
    async def play(store: Store) -> None:
        await store.open()
        lists: list[list[int]] = [[], [], []]
        for which in range(3):
            await store.create(a_record(str(which)))
        writes = []
        for which, tail, numbers in script:
            known = lists[which]
            last = known[-1] if known else -1
            writes.append(store.append(str(which), events(*numbers), tail=tail, epoch=1))
            if tail <= last:
                known += [number for number in numbers if number > last]
        answers = await asyncio.gather(*writes, return_exceptions=True)
        assert all(isinstance(answer, int | Gap) for answer in answers)
        for which, known in enumerate(lists):
            for after in (-1, *known):
                frames, _ = await there(store, str(which), after=after, limit=limit)
                assert frames == [(e.number, e.frame) for e in events(*known) if e.number > after]
        await store.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(STORES[kind](Path(folder), Clock())))
