"""The one hand that writes: what it tells is what was written, once, whatever happens between the two.

And what it has in hand: a response, and the credentials with which upstream is asked about it.
"""

import asyncio
import json

import pytest
from running import Recorder

from gateway.domain.errors import StoreUnavailable
from gateway.domain.events import Event
from gateway.domain.facts import Appended, Contradicted, Ended, StatusChanged, StoreFailed
from gateway.domain.lifecycle import give_up
from gateway.domain.mode import Mode
from gateway.domain.response import Ending, Response, Status, Trace
from gateway.domain.snapshot import read_snapshot
from gateway.domain.sse import encode
from gateway.relay.ledger import Ledger
from gateway.relay.live import Live
from gateway.store.memory import MemoryStore
from gateway.telemetry.observers import Telemetry

T = 1_790_000_000.0


class Slow(MemoryStore):
    """A store that answers a little later than it writes, as one with a disk does; some of its changes fail."""

    failing = 0

    async def change(self, *arguments, **options):
        if self.failing:
            self.failing -= 1
            raise StoreUnavailable("not now")
        return await super().change(*arguments, **options)

    async def append(self, *arguments, **options):
        new = await super().append(*arguments, **options)
        await asyncio.sleep(0)
        return new

    async def finish(self, *arguments, **options):
        done = await super().finish(*arguments, **options)
        await asyncio.sleep(0)
        return done


def event(number, kind, status):
    said = {"type": kind, "sequence_number": number, "response": {"id": "resp_1", "status": status}}
    data = json.dumps(said).encode()
    return Event(number, kind, encode(kind, data), data)


OPENING = [
    event(0, "response.created", "queued"),
    event(1, "response.queued", "queued"),
    event(2, "response.in_progress", "in_progress"),
]
END = event(3, "response.completed", "completed")


@pytest.fixture
async def hand():
    """A response that has just been created: store, ledger, the response in hand, and what is told."""
    store, recorder = Slow(), Recorder()
    ledger = Ledger(store, Telemetry([recorder]), lambda: T, lambda live: None, lambda live: None)
    trace = Trace(1, 2, 3, 0, False)
    record = Response(key="k", route="default", owner="o", mode=Mode.BACKGROUND_STREAM, created_at=T, trace=trace)
    created = await store.create(record)
    return store, ledger, Live(created, created.epoch), recorder


async def test_a_terminal_that_overtakes_an_expiry_in_flight_is_told_as_late(hand):
    _, ledger, live, recorder = hand
    await ledger.receive(live, OPENING)
    abandoned = give_up(live.response, Ending.ABANDONED, T, code="response_abandoned", message="m")
    await asyncio.gather(ledger.end(live, abandoned, source="expiry"), ledger.receive(live, [END]))
    told = [(fact.response.ending, fact.late) for fact in recorder.of(Ended)]
    assert told == [(Ending.ABANDONED, False), (Ending.TERMINAL, True)]
    assert live.response.tail == 2


async def test_a_batch_that_was_logged_is_told_once_though_its_record_could_not_be_written(hand):
    store, ledger, live, recorder = hand
    await ledger.receive(live, OPENING[:1])
    store.failing = 1
    await ledger.receive(live, OPENING[1:])
    assert [fact.operation for fact in recorder.of(StoreFailed)] == ["change"]
    assert [fact.events for fact in recorder.of(Appended)] == [1, 2]
    assert [fact.after for fact in recorder.of(StatusChanged)] == [Status.QUEUED, Status.IN_PROGRESS]
    assert recorder.of(Contradicted) == []
    await ledger.note(live)
    record = await store.get("k")
    assert (record.response_id, record.status, record.tail) == ("resp_1", Status.IN_PROGRESS, 2)


async def test_whoever_has_read_an_id_can_ask_for_it(hand):
    store, ledger, live, _ = hand

    async def read_and_ask():
        assert (await store.read("k", after=-1, wait=60)).frames
        return await store.find("resp_1", route="default", owner="o")

    found, _ = await asyncio.gather(read_and_ask(), ledger.receive(live, OPENING))
    assert found is not None


async def test_when_its_first_event_is_there_the_record_says_that_a_stream_is_read(hand):
    store, ledger, live, _ = hand
    live.response = live.response.but(pumped=True)

    async def read_and_look():
        assert (await store.read("k", after=-1, wait=60)).frames
        return await store.get("k")

    seen, _ = await asyncio.gather(read_and_look(), ledger.receive(live, OPENING))
    assert (seen.pumped, seen.status) == (True, None)


async def test_an_end_is_told_once_though_its_counts_could_not_be_written(hand):
    store, ledger, live, recorder = hand
    await ledger.receive(live, OPENING)
    live.count(client_polls=1)
    store.failing = 1
    assert await ledger.end(live, give_up(live.response, Ending.LOST, T, code="c", message="m"), source="poll")
    assert len(recorder.of(Ended)) == 1
    assert live.response.ended


async def test_while_a_stream_is_read_its_own_end_counts_and_not_a_snapshot_that_overtakes_it(hand):
    _, ledger, live, recorder = hand
    await ledger.receive(live, OPENING)
    live.connected = True
    overtaking = read_snapshot(b'{"id":"resp_1","status":"completed"}')
    assert not await ledger.observe(live, overtaking, [], source="get")
    assert recorder.of(Ended) == []
    await ledger.receive(live, [END])
    assert [(fact.source, fact.response.synthesised) for fact in recorder.of(Ended)] == [("stream", False)]


async def test_a_cancel_ends_a_stream_that_is_read_as_there_is_no_event_for_it(hand):
    _, ledger, live, recorder = hand
    await ledger.receive(live, OPENING)
    live.connected = True
    await ledger.observe(live, read_snapshot(b'{"id":"resp_1","status":"cancelled"}'), [], source="post")
    assert [fact.response.status for fact in recorder.of(Ended)] == [Status.CANCELLED]


OLD, NEW, NEWEST = ([("Authorization", f"Bearer {key}")] for key in ("old", "new", "newest"))


def test_a_refused_credential_gives_way_to_the_one_before(hand):
    _, _, live, _ = hand
    live.heard(OLD, T)
    live.heard(NEW, T)
    live.refused(NEW)
    assert live.credential == OLD
    live.refused(OLD)
    assert live.credential is None
    assert live.waits_for_owner


def test_a_refusal_that_comes_late_does_not_touch_a_newer_credential(hand):
    _, _, live, _ = hand
    live.heard(OLD, T)
    live.heard(NEW, T)
    live.refused(OLD)
    live.heard(NEWEST, T)
    live.refused(OLD)
    assert live.credential == NEWEST
    live.refused(NEWEST)
    assert live.credential == NEW
