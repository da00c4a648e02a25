"""Pump, poller, cancel and expiry may all see the end of one response: whoever writes first, there is one end."""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from running import Recorder
from stories import all_of, ask, fetch, job

from gateway.domain.events import Event
from gateway.domain.facts import Appended, Ended
from gateway.domain.lifecycle import give_up
from gateway.domain.mode import Mode
from gateway.domain.response import Ending, Response, Status, Trace
from gateway.domain.snapshot import read_snapshot
from gateway.domain.sse import encode
from gateway.relay.ledger import Ledger
from gateway.relay.live import Live
from gateway.store.memory import MemoryStore
from gateway.store.port import Closed, Store
from gateway.store.sqlite import SqliteStore
from gateway.telemetry.observers import Telemetry

T = 1_790_000_000.0


def event(number: int, kind: str, status: str) -> Event:
    data = json.dumps(
        {"type": kind, "sequence_number": number, "response": {"id": "resp_1", "status": status}}
    ).encode()
    return Event(number, kind, encode(kind, data), data)


async def by_its_stream(ledger: Ledger, live: Live) -> None:
    try:
        await ledger.receive(live, [event(2, "response.completed", "completed")])
    except Closed:
        return


async def by_a_poll(ledger: Ledger, live: Live) -> None:
    snapshot = read_snapshot(b'{"id":"resp_1","status":"failed"}')
    assert snapshot is not None
    await ledger.observe(live, snapshot, [], source="poll")


async def by_a_cancel(ledger: Ledger, live: Live) -> None:
    snapshot = read_snapshot(b'{"id":"resp_1","status":"cancelled"}')
    assert snapshot is not None
    await ledger.observe(live, snapshot, [], source="cancel")


async def by_expiry(ledger: Ledger, live: Live) -> None:
    await ledger.end(live, give_up(live.response, Ending.ABANDONED, T, code="c", message="m"), source="expiry")


Way = Callable[[Ledger, Live], Awaitable[None]]
WAYS: dict[Way, Status | None] = {
    by_its_stream: Status.COMPLETED,
    by_a_poll: Status.FAILED,
    by_a_cancel: Status.CANCELLED,
    by_expiry: Status.IN_PROGRESS,
}
ORDERS = list(itertools.permutations(WAYS))


@pytest.fixture(params=["memory", "sqlite"])
async def opened(request: pytest.FixtureRequest, parts: AsyncExitStack, tmp_path: Path) -> Store:
    store: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "responses.db")
    await store.open()
    parts.push_async_callback(store.close)
    return store


async def running(store: Store, recorder: Recorder) -> tuple[Ledger, Live]:
    """A response in the middle of its stream."""
    trace = Trace(1, 2, 3, 0, False)
    record = Response(key="k", route="default", owner="o", mode=Mode.BACKGROUND_STREAM, created_at=T, trace=trace)
    created = await store.create(record)
    ledger = Ledger(store, Telemetry([recorder]), lambda: T, lambda live: None, lambda live: None)
    live = Live(created, created.epoch)
    await ledger.receive(
        live, [event(0, "response.created", "queued"), event(1, "response.in_progress", "in_progress")]
    )
    return ledger, live


def name(order: tuple[Way, ...]) -> str:
    return ", ".join(way.__name__.removeprefix("by_") for way in order)


@pytest.mark.parametrize("order", ORDERS, ids=name)
async def test_whoever_ends_a_response_first_ends_it(opened: Store, order: tuple[Way, ...]) -> None:
    recorder = Recorder()
    ledger, live = await running(opened, recorder)
    for way in order:
        await way(ledger, live)

    ends = [fact.response.status for fact in recorder.of(Ended) if fact.response.terminal]
    first_terminal = next(WAYS[way] for way in order if way is not by_expiry)
    record = await opened.get("k")
    assert record is not None
    # What expired may still be told its terminal status, late and once.
    assert ends == [first_terminal]
    assert record.status is first_terminal
    assert len(recorder.of(Ended)) == (2 if order[0] is by_expiry else 1)


@pytest.mark.parametrize("order", ORDERS, ids=name)
async def test_who_ends_a_response_at_the_same_moment_makes_one_end(opened: Store, order: tuple[Way, ...]) -> None:
    recorder = Recorder()
    ledger, live = await running(opened, recorder)
    await asyncio.gather(*(way(ledger, live) for way in order))

    terminal = [fact for fact in recorder.of(Ended) if fact.response.terminal]
    record = await opened.get("k")
    assert record is not None
    assert [fact.response.status for fact in terminal] == [record.status]
    page = await opened.read("k", after=-1)
    assert page.end is not None
    assert [number for number, _ in page.frames] == list(range(len(page.frames)))


async def test_tokens_are_counted_once_however_often_a_finished_response_is_polled(stage: Any) -> None:
    _, gateway = await stage()
    client = gateway.client()
    created = await client.responses.create(**ask(), background=True)
    ended = await gateway.facts.wait_for(Ended)
    for _ in range(5):
        await client.responses.retrieve(created.id)
    metrics = (await fetch(f"{gateway.ops_url}/metrics")).body.decode()
    counted = [
        float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if line.startswith("responses_gateway_tokens_total{") and 'kind="output"' in line
    ]
    assert sum(counted) == ended.response.usage.output > 0


async def test_every_event_is_counted_as_logged_the_last_one_too(stage: Any) -> None:
    _, gateway = await stage()
    events = await all_of(await gateway.client().responses.create(**job()))
    await gateway.facts.wait_for(Ended)
    assert sum(fact.events for fact in gateway.facts.of(Appended)) == len(events)
