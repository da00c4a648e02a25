"""What every store promises, third part: finding, listing, leases, and what goes when its time is over."""

import asyncio

import pytest
from given import BEGAN, Clock, a_record, completed, ended, events, given_up, logged, numbered, taken_over, there
from msgspec.structs import replace

from gateway.domain.response import Body, Change, Response, Status, Stuck
from gateway.domain.sealed import Seal
from gateway.store.port import Closed, End, Fenced, Lease, Query, Store
from gateway.store.rules import CO_OWNERS

FOREVER_S = 10.0**9


async def found(store: Store, owner: str | None, response_id: str = "resp_1", route: str = "route") -> str | None:
    response = await store.find(response_id, route=route, owner=owner)
    return response.key if response is not None else None


async def purge(store: Store, now: float, **limits: float) -> int:
    defaults = {"retention_s": FOREVER_S, "resume_window_s": FOREVER_S, "tombstone_s": FOREVER_S}
    return await store.purge(now, **{**defaults, **limits})


async def keys(store: Store, **query: object) -> list[str]:
    return [response.key for response in await store.list(Query(**query))]  # type: ignore[arg-type]


@pytest.mark.parametrize("is_ended", [False, True], ids=["live", "ended"])
async def test_a_response_is_found_by_its_owners_and_nobody_else(store: Store, is_ended: bool) -> None:
    response = await store.create(a_record())
    assert await found(store, "owner") is None
    await store.change("key", Change({"response_id": "resp_1"}), epoch=1)
    await store.change("key", Change(co_owner="proven"), epoch=1)
    await store.change("key", Change(co_owner="proven"), epoch=1)
    if is_ended:
        await store.finish("key", completed(response, response_id="resp_1"), tail=-1, epoch=1)
    assert await found(store, "owner") == "key"
    assert await found(store, "proven") == "key"
    assert await found(store, None) == "key"
    assert await found(store, "stranger") is None
    assert await found(store, "owner", route="another") is None
    assert await found(store, "owner", response_id="resp_\udcff") is None
    assert not await store.buried("resp_1", route="route")
    assert not await store.buried("resp_\udcff", route="route")


async def test_two_records_of_one_id_are_told_apart_by_their_owners(store: Store) -> None:
    await store.create(a_record("one", owner="a", response_id="resp_1"))
    assert await found(store, None) == "one"
    await store.create(a_record("two", owner="b", response_id="resp_1"))
    assert await found(store, "a") == "one"
    assert await found(store, "b") == "two"
    assert await found(store, None) is None
    await store.delete("one")
    assert await found(store, "a") is None
    assert await found(store, None) == "two"


@pytest.mark.parametrize("is_ended", [False, True], ids=["live", "ended"])
async def test_the_newest_of_an_owners_records_has_the_id(store: Store, is_ended: bool) -> None:
    for key in ("old", "new"):
        response = await store.create(a_record(key, response_id="resp_1"))
        if is_ended:
            await store.finish(key, completed(response), tail=-1, epoch=1)
    assert await found(store, "owner") == "new"
    await store.delete("old")
    assert await found(store, "owner") == "new"


async def test_of_very_many_co_owners_the_newest_are_kept(store: Store) -> None:
    await store.create(a_record(response_id="resp_1"))
    for number in (*range(CO_OWNERS + 1), *[7] * CO_OWNERS):
        await store.change("key", Change(co_owner=str(number)), epoch=1)
    assert await found(store, "0") is None
    assert await found(store, "1") == "key"
    assert await found(store, str(CO_OWNERS)) == "key"
    assert await found(store, "owner") == "key"


async def test_a_list_is_newest_first_in_pages(store: Store) -> None:
    for number in range(7):
        await store.create(a_record(str(number)))
    assert await keys(store) == ["6", "5", "4", "3", "2", "1", "0"]
    assert await keys(store, limit=3) == ["6", "5", "4"]
    assert await keys(store, limit=3, before="4") == ["3", "2", "1"]
    assert await keys(store, before="0") == []
    assert await keys(store, before="nobody") == []


async def test_a_list_can_be_narrowed_down(store: Store) -> None:
    one = await store.create(a_record("completed"))
    await store.finish("completed", completed(one), tail=-1, epoch=1)
    await store.create(a_record("queued", status=Status.QUEUED))
    await store.create(a_record("stuck", status=Status.QUEUED, stuck=Stuck.QUEUED))
    lost = await store.create(a_record("lost", status=Status.QUEUED))
    await store.finish("lost", given_up(lost), tail=-1, epoch=1)
    assert await keys(store, live=True) == ["stuck", "queued"]
    assert await keys(store, live=False) == ["lost", "completed"]
    assert await keys(store, status="queued") == ["lost", "stuck", "queued"]
    assert await keys(store, status="queued", live=True, stuck=False) == ["queued"]
    assert await keys(store, stuck=True) == ["stuck"]
    assert await keys(store, status="queued", before="stuck", limit=1) == ["queued"]


async def test_what_a_process_creates_it_holds_and_what_it_releases_is_an_orphan(store: Store) -> None:
    await store.renew(30)
    await store.create(a_record())
    assert await store.claim("key") == Lease("key", 1)
    assert [one.key async for one in store.orphans()] == []
    await store.release("key", epoch=1)
    await store.release("key", epoch=1)
    assert [one.key async for one in store.orphans()] == ["key"]
    assert await store.claim("key") == Lease("key", 2)
    assert [one.key async for one in store.orphans()] == []
    shown = await store.get("key")
    assert shown is not None
    assert shown.epoch == 2


async def test_an_old_epoch_releases_nothing(store: Store) -> None:
    await taken_over(store, await store.create(a_record()))
    await store.release("key", epoch=1)
    assert [one.key async for one in store.orphans()] == []


async def test_a_seal_never_takes_the_place_of_a_newer_one_whoever_writes_it(store: Store) -> None:
    await store.create(a_record())

    async def is_written(seal: Seal, epoch: int | None) -> bool:
        done = await store.change("key", Change({"seal": seal}), epoch=epoch)
        shown = await store.get("key")
        assert shown is not None
        assert (shown.seal == seal) is done
        return done

    assert await is_written(Seal("first", 1.0), 1)
    assert await is_written(Seal("another's", 2.0), None)
    assert not await is_written(Seal("", 1.0), 1)
    assert not await is_written(Seal("late", 1.5), None)
    assert await is_written(Seal("", 2.0), 1)


async def test_what_has_ended_is_no_orphan(store: Store) -> None:
    response = await logged(store, last=2)
    await store.release("key", epoch=1)
    assert await store.finish("key", completed(response), tail=2, epoch=1)
    assert [one.key async for one in store.orphans()] == []


async def test_a_process_is_one_of_those_that_live(store: Store) -> None:
    pulse = await store.renew(30)
    assert (pulse.processes, list(pulse.news)) == (1, [])
    await store.create(a_record())
    assert await store.turn("key", 30)


async def test_of_many_that_claim_at_once_one_gets_the_new_epoch(store: Store) -> None:
    await store.create(a_record())
    await store.release("key", epoch=1)
    leases = await asyncio.gather(*[store.claim("key") for _ in range(100)])
    assert set(leases) == {Lease("key", 2)}


async def test_whoever_does_not_hold_it_counts_and_ends_but_changes_no_field(store: Store) -> None:
    response = await logged(store, last=2)
    body = Body(b"{}", (), 3)
    change = Change({"model": "m"}, {"client_polls": 2}, "proven")
    assert await store.change("key", change, epoch=None, body=body)
    shown = await store.get("key")
    assert shown is not None
    assert (shown.model, shown.counts.client_polls) == (response.model, 2)
    assert await store.body("key") == body
    assert await store.find("resp_key", route="route", owner="proven") == shown
    assert await store.finish("key", completed(response), events(3), tail=2, epoch=None)
    assert not await store.finish("key", completed(response), events(3), tail=2, epoch=1)
    assert await there(store) == (numbered(0, 3), End())


async def test_whoever_lost_its_lease_writes_nothing_more(store: Store) -> None:
    response = await logged(store, last=2)
    old, new = 1, await taken_over(store, response)
    with pytest.raises(Fenced):
        await store.append("key", events(3), tail=2, epoch=old)
    with pytest.raises(Fenced):
        await store.change("key", Change({"model": "m"}, co_owner="c"), epoch=old, body=Body(b"b"))
    with pytest.raises(Fenced):
        await store.finish("key", completed(response), events(3), tail=2, epoch=old)
    assert await store.get("key") == response.but(epoch=new.epoch)
    assert await there(store) == (numbered(0, 2), None)
    assert await store.body("key") is None
    assert await store.append("key", events(3), tail=2, epoch=new.epoch) == 1
    assert await store.finish("key", completed(response), tail=3, epoch=new.epoch)
    shown = await store.get("key")
    assert shown is not None
    assert shown.epoch == new.epoch


async def test_a_take_over_between_two_writes_of_one_moment_fences_the_second(store: Store) -> None:
    await store.create(a_record())
    results = await asyncio.gather(
        store.append("key", events(0), tail=-1, epoch=1),
        store.release("key", epoch=1),
        store.claim("key"),
        store.append("key", events(1), tail=0, epoch=1),
        return_exceptions=True,
    )
    assert list(results[:3]) == [1, None, Lease("key", 2)]
    assert isinstance(results[3], Fenced)
    assert await there(store) == (numbered(0, 0), None)


async def test_what_is_deleted_leaves_a_tombstone(store: Store) -> None:
    await ended(store, last=2)
    await store.delete("key")
    await store.delete("key")
    assert await store.get("key") is None
    assert await store.body("key") is None
    assert await store.list(Query()) == []
    assert await found(store, "owner", "resp_key") is None
    assert await store.buried("resp_key", route="route")
    assert not await store.buried("resp_key", route="another")
    with pytest.raises(Closed):
        await store.append("key", events(3), tail=2, epoch=1)


async def test_a_key_that_was_deleted_begins_anew(store: Store) -> None:
    await ended(store, last=5)
    await store.delete("key")
    response = await store.create(a_record())
    assert (response.epoch, response.tail) == (1, -1)
    await store.append("key", events(0, 1), tail=-1, epoch=1)
    assert await there(store) == (numbered(0, 1), None)


async def test_what_was_held_and_deleted_does_not_begin_anew(store: Store) -> None:
    held = await logged(store, last=5)
    await store.delete("key")
    with pytest.raises(Closed):
        await store.create(held)
    assert await store.get("key") is None


async def test_a_record_without_an_id_leaves_no_tombstone(store: Store) -> None:
    await store.create(a_record())
    await store.delete("key")
    assert await store.get("key") is None
    assert not await store.buried("", route="route")


async def test_content_that_is_not_to_be_stored_goes_first(store: Store) -> None:
    body = Body(b"{}")
    for key, is_stored in (("stored", True), ("not", False)):
        response = await logged(store, key, last=2)
        await store.finish(key, completed(response, stored=is_stored), tail=2, epoch=1, body=body)
    now = BEGAN + 10 + 600
    assert await purge(store, now - 1, resume_window_s=600) == 0
    assert await purge(store, now, resume_window_s=600) == 1
    assert await purge(store, now, resume_window_s=600) == 0
    assert await store.body("stored") == body
    assert await there(store, "stored", after=1) != ([], None)
    assert await store.body("not") is None
    with pytest.raises(Closed):
        await store.read("not", after=-1)
    shown = await store.find("resp_not", route="route", owner="owner")
    assert shown is not None
    assert (shown.key, shown.tail, shown.status) == ("not", 2, Status.COMPLETED)
    # A word that comes late is recorded; content does not come back.
    assert await store.change("not", Change(counts={"resumes": 1}), epoch=1)
    assert await store.body("not") is None
    assert not await store.buried("resp_not", route="route")


async def test_a_late_word_does_not_bring_content_back(store: Store) -> None:
    response = await logged(store, last=2)
    await store.finish("key", replace(given_up(response), response=lost_unstored(response)), tail=2, epoch=1)
    assert await purge(store, BEGAN + 700, resume_window_s=600) == 1
    late = completed(response.but(stored=False))
    assert await store.finish("key", late, events(3), tail=2, epoch=1, body=Body(b"{}"))
    assert await store.body("key") is None
    with pytest.raises(Closed):
        await store.read("key", after=-1)


def lost_unstored(response: Response) -> Response:
    return given_up(response).response.but(stored=False)


async def test_what_is_past_its_retention_goes_and_its_tombstone_later(store: Store, clock: Clock) -> None:
    await ended(store, "early", last=2)
    await ended(store, "unstored", last=2, stored=False)
    late = await logged(store, "late", last=2)
    done = completed(late)
    await store.finish("late", replace(done, response=done.response.but(ended_at=BEGAN + 500)), tail=2, epoch=1)
    await logged(store, "live", last=2)
    clock.now = BEGAN + 10 + 100
    assert await purge(store, clock.now - 1, retention_s=100) == 0
    assert await purge(store, clock.now, retention_s=100) == 2
    assert await keys(store) == ["live", "late"]
    assert await store.buried("resp_early", route="route")
    assert await store.buried("resp_unstored", route="route")
    assert await purge(store, clock.now + 999, tombstone_s=1000) == 0
    assert await purge(store, clock.now + 1000, tombstone_s=1000) == 2
    assert not await store.buried("resp_early", route="route")
    assert await purge(store, clock.now + FOREVER_S, retention_s=0, resume_window_s=0) == 1
    assert await keys(store) == ["live"]


async def test_much_that_is_past_its_time_goes_call_by_call(store: Store, clock: Clock) -> None:
    responses = await asyncio.gather(*[store.create(a_record(str(number), stored=False)) for number in range(450)])
    outcomes = [store.finish(response.key, completed(response), tail=-1, epoch=1) for response in responses]
    assert all(await asyncio.gather(*outcomes))
    touched = 0
    while step := await purge(store, clock.now + 10**6, resume_window_s=100):
        touched += step
    assert touched == 450
    assert len(await keys(store, limit=1000)) == 450
    while step := await purge(store, clock.now + 10**6, retention_s=100):
        touched += step
    assert touched == 900
    assert await keys(store) == []


async def test_a_store_knows_its_size(store: Store) -> None:
    before = (await store.space()).bytes
    await store.create(a_record())
    await store.append("key", events(*range(1000)), tail=-1, epoch=1)
    assert (await store.space()).bytes > before + 20_000


async def test_a_store_has_a_secret_to_hash_owners_with(store: Store) -> None:
    assert len(store.owner_key) == 32
