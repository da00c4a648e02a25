"""The outbox: what is due is sent until it is taken, and nothing holds it up or waits for it."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from lives import TRACE, T, a_response, ended
from msgspec.structs import replace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from running import PATIENCE_S, Recorder

from gateway.domain.facts import StoreFailed
from gateway.domain.lifecycle import Outcome
from gateway.domain.response import Response, Status, Usage
from gateway.relay import outbox as outbox_module
from gateway.relay.outbox import Outbox
from gateway.store.memory import MemoryStore
from gateway.store.port import Store
from gateway.store.sqlite import SqliteStore
from gateway.telemetry.observers import Telemetry
from gateway.telemetry.tracing import Tracing

CHAT = "chat gpt-5"


class Collector:
    """An exporter whose answers the test chooses: `takes` is asked about each batch, by its responses' keys."""

    def __init__(self) -> None:
        self.takes: Callable[[list[str]], bool] = lambda keys: True
        self.batches: list[list[str]] = []
        self.taken: list[str] = []
        self.usage: dict[str, list[str]] = {}
        self.open = Event()
        self.open.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        told = [span.attributes or {} for span in spans if span.name == CHAT]
        keys = [str(one["gateway.key"]) for one in told]
        self.usage.update(
            (key, sorted(n for n in one if ".usage.input" in n)) for key, one in zip(keys, told, strict=True)
        )
        self.batches.append(keys)
        self.open.wait(PATIENCE_S)
        if not self.takes(keys):
            return SpanExportResult.FAILURE
        self.taken += keys
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


class Told:
    """What became of the spans."""

    def __init__(self) -> None:
        self.exported = 0
        self.dropped: dict[str, int] = {}

    def on_exported(self, spans: int) -> None:
        self.exported += spans

    def on_dropped(self, reason: str, spans: int) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + spans


class House:
    """An outbox with all that it needs."""

    def __init__(self, store: Store, environ: dict[str, str]) -> None:
        began = time.monotonic()

        def clock() -> float:
            return T + 10 + time.monotonic() - began

        self.store, self.collector, self.told, self.recorder = store, Collector(), Told(), Recorder()
        self.tracing = Tracing(
            environ,
            exporter=lambda: self.collector,  # type: ignore[arg-type, return-value]
            on_exported=self.told.on_exported,
            on_dropped=self.told.on_dropped,
        )
        self.outbox = Outbox(
            store, self.tracing, lambda facts: self.telemetry.emit(facts), lambda: T + 10 + time.monotonic() - began
        )
        self.telemetry = Telemetry([self.recorder, self.outbox.observe], due=self.tracing.due)

    async def end(self, key: str, **changes: Any) -> Response:
        """A response that ends, as the ledger ends it."""
        fact = ended(Status.COMPLETED, key=key, response_id=f"resp_{key}", **changes)
        await self.store.create(a_response(key=key))
        outcome = Outcome(fact.response, None, closes_log=False, due=self.telemetry.due(fact.response, late=False))
        assert await self.store.finish(key, outcome, tail=-1, epoch=1)
        self.telemetry.emit([fact])
        return fact.response

    async def settled(self) -> None:
        """Wait until nothing is due."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.store.owed() or self.outbox.owed:  # noqa: ASYNC110
                await asyncio.sleep(0.002)


Build = Callable[..., Awaitable[House]]


@pytest.fixture
async def parts() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def build(parts: AsyncExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """An outbox over a store, at work. Pauses are short, and as many as in production."""
    monkeypatch.setattr(outbox_module, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(outbox_module, "_LONGEST_PAUSE_S", 0.004)

    async def start(store: Store | None = None, *, working: bool = True, **environ: str) -> House:
        if store is None:
            store = SqliteStore(tmp_path / "responses.db")
            await store.open()
            parts.push_async_callback(store.close)
        house = House(store, {"OTEL_BSP_SCHEDULE_DELAY": "1", **environ})
        parts.push_async_callback(house.tracing.close, 1)
        if working:
            task = asyncio.create_task(house.outbox.run())
            parts.callback(task.cancel)
            await asyncio.sleep(0)
        return house

    return start


async def test_what_ends_is_sent_once(build: Build) -> None:
    house = await build()
    for key in ("a", "b", "c"):
        await house.end(key)
    await house.settled()
    assert sorted(key for batch in house.collector.batches for key in batch) == ["a", "b", "c"]
    assert (house.told.exported, house.told.dropped) == (3, {})


async def test_an_end_that_is_not_due_is_not_kept(build: Build) -> None:
    house = await build(OTEL_TRACES_SAMPLER="always_off")
    fact = ended(Status.COMPLETED)
    unsampled = fact.response.but(trace=replace(fact.response.trace, sampled=False))
    assert not house.telemetry.due(unsampled, late=False)
    assert house.telemetry.due(unsampled.but(status=Status.FAILED), late=False)
    assert house.telemetry.due(unsampled, late=True), "what it is late for was promoted"
    assert not Telemetry().due(fact.response, late=False), "where nothing is exported, nothing is due"


async def test_what_was_not_taken_is_sent_again_and_counted_once(build: Build) -> None:
    house = await build(working=False)
    for key in ("a", "b"):
        await house.end(key)
    refusals = iter([False, False, False])
    house.collector.takes = lambda keys: next(refusals, True)
    task = asyncio.create_task(house.outbox.run())
    await house.settled()
    task.cancel()
    assert (sorted(house.collector.taken), house.told.dropped) == (["a", "b"], {})
    assert not house.tracing.failing


async def test_batches_grow_smaller_until_one_is_taken_and_then_larger_again(build: Build) -> None:
    house = await build(working=False, OTEL_BSP_MAX_EXPORT_BATCH_SIZE="8")
    for number in range(20):
        await house.end(f"{number:02}")
    house.collector.takes = lambda keys: len(keys) <= 3 or len(house.collector.batches) > 4
    task = asyncio.create_task(house.outbox.run())
    await house.settled()
    task.cancel()
    assert list(map(len, house.collector.batches)) == [8, 4, 2, 4, 2, 4, 8, 4]
    assert len(house.collector.taken) == len(set(house.collector.taken)) == 20


async def test_an_end_that_is_refused_holds_up_no_other(build: Build) -> None:
    house = await build(working=False, OTEL_BSP_MAX_EXPORT_BATCH_SIZE="4")
    for number in range(12):
        await house.end(f"{number:02}")
    house.collector.takes = lambda keys: "02" not in keys
    task = asyncio.create_task(house.outbox.run())
    async with asyncio.timeout(PATIENCE_S):
        while await house.store.owed() > 1:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    assert [due.response.key for due in await house.store.due(limit=9)] == ["02"]
    # And it is not forgotten.
    house.collector.takes = lambda keys: True
    await house.settled()
    task.cancel()
    assert len(house.collector.taken) == len(set(house.collector.taken)) == 12


async def test_what_is_due_beyond_its_retention_is_dropped_and_counted(build: Build) -> None:
    house = await build(working=False)
    for key in ("a", "b"):
        await house.end(key)
    await house.store.purge(T + 1000, retention_s=100, resume_window_s=10, tombstone_s=1000)
    house.collector.takes = lambda keys: False
    await house.end("c")
    task = asyncio.create_task(house.outbox.run())
    async with asyncio.timeout(PATIENCE_S):
        while house.outbox.owed != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    task.cancel()
    assert house.told.dropped == {"expired": 2}


async def test_a_stop_sends_what_is_due_but_waits_no_longer_than_it_may(build: Build) -> None:
    house = await build(working=False)
    await house.end("a")
    await house.outbox.close(PATIENCE_S)
    assert house.collector.batches == [["a"]]
    house.collector.open.clear()
    await house.end("b")
    await house.outbox.close(0.01)
    assert (await house.store.owed(), house.told.dropped) == (1, {}), "it stays in the file"
    house.collector.open.set()


async def test_what_no_store_keeps_beyond_the_stop_is_dropped_and_counted(build: Build) -> None:
    house = await build(MemoryStore(), working=False)
    house.collector.takes = lambda keys: False
    for key in ("a", "b"):
        await house.end(key)
    await house.outbox.close(PATIENCE_S)
    assert house.told.dropped == {"shutdown": 2}


async def test_a_store_that_fails_is_told_of_and_asked_again(build: Build) -> None:
    house = await build(working=False)
    await house.end("a")
    assert isinstance(house.store, SqliteStore)
    await house.store._thread.ask(lambda db: db.execute("ALTER TABLE due RENAME TO away"))
    task = asyncio.create_task(house.outbox.run())
    await house.recorder.wait_for(StoreFailed, lambda fact: fact.operation == "outbox")
    await house.store._thread.ask(lambda db: db.execute("ALTER TABLE away RENAME TO due"))
    house.outbox.observe(ended(Status.COMPLETED))
    await house.settled()
    task.cancel()
    assert house.collector.batches == [["a"]]


async def test_a_batch_that_was_under_way_at_the_stop_is_waited_for_and_not_sent_again(build: Build) -> None:
    house = await build()
    house.collector.open.clear()
    await house.end("a")
    async with asyncio.timeout(PATIENCE_S):
        while not house.collector.batches:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    stop = asyncio.ensure_future(house.outbox.close(PATIENCE_S))
    house.collector.open.set()
    await stop
    assert house.collector.batches == [["a"]]
    assert await house.store.owed() == 0


async def test_what_was_sent_and_could_not_be_settled_is_settled_later_and_not_sent_again(build: Build) -> None:
    house = await build(working=False)
    await house.end("a")
    assert isinstance(house.store, SqliteStore)
    away = "CREATE TRIGGER kept BEFORE DELETE ON due BEGIN SELECT RAISE(ABORT, 'not now'); END"
    await house.store._thread.ask(lambda db: db.execute(away))
    task = asyncio.create_task(house.outbox.run())
    await house.recorder.wait_for(StoreFailed, lambda fact: fact.operation == "outbox")
    await house.store._thread.ask(lambda db: db.execute("DROP TRIGGER kept"))
    await house.settled()
    task.cancel()
    assert house.collector.batches == [["a"]]


async def test_what_nobody_foresaw_stops_it_for_a_while_and_not_for_good(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await build(working=False)
    await house.end("a")
    due, raised = house.store.due, []

    async def broken(**asked: Any) -> Any:
        if not raised:
            raised.append(asked)
            raise ZeroDivisionError
        return await due(**asked)

    monkeypatch.setattr(house.store, "due", broken)
    task = asyncio.create_task(house.outbox.run())
    await house.settled()
    task.cancel()
    assert raised
    assert house.collector.taken == ["a"]


def test_an_exporter_of_telemetry_that_raises_ends_no_response() -> None:
    removed: list[object] = []

    def broken(response: Response, late: bool) -> bool:
        raise sqlite3.Error

    telemetry = Telemetry(on_removed=lambda observer, error: removed.append(observer), due=broken)
    assert not telemetry.due(a_response(), late=False)
    assert not telemetry.due(a_response(), late=False)
    assert removed == [broken]


ATTENDED: dict[str, Any] = {
    "attended": True,
    "trace": replace(TRACE, remote_span_id=0xDEF, remote_sampled=True),
    "usage": Usage(input=7),
}
"""Of a caller that records its own span, and is there at the end."""


async def test_what_a_caller_may_count_itself_waits_until_its_answer_is_over(build: Build) -> None:
    house = await build()
    for key in ("told", "left", "reads"):
        await house.end(key, **ATTENDED)
    await house.end("alone")
    async with asyncio.timeout(PATIENCE_S):
        while house.collector.taken != ["alone"]:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    house.outbox.answered("told", told=True)
    house.outbox.answered("left", told=False)
    house.outbox.answered("nobody", told=False)
    async with asyncio.timeout(PATIENCE_S):
        while await house.store.owed() > 1:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    assert house.collector.usage == {
        "alone": [],
        "told": ["gateway.usage.input_tokens"],
        "left": ["gen_ai.usage.input_tokens"],
    }
    # A stop waits for nobody.
    await house.outbox.close(PATIENCE_S)
    assert house.collector.usage["reads"] == ["gateway.usage.input_tokens"]


async def test_that_the_caller_left_is_written_before_it_is_told(build: Build) -> None:
    house = await build(working=False)
    await house.end("left", **ATTENDED)
    house.outbox.answered("left", told=False)
    house.collector.takes = lambda keys: False
    await house.outbox.close(PATIENCE_S)
    (due,) = await house.store.due(limit=9)
    assert not due.response.attended


async def test_a_caller_that_reads_for_ever_keeps_no_span_back(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_ANSWERED_S", 0.01)
    house = await build()
    await house.end("reads", **ATTENDED)
    await house.settled()
    assert house.collector.usage == {"reads": ["gateway.usage.input_tokens"]}


async def test_what_ends_while_a_batch_is_sent_is_the_beginning_of_the_next_one(build: Build) -> None:
    house = await build(OTEL_BSP_SCHEDULE_DELAY="3600000", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="4")
    house.collector.open.clear()
    for key in "abcd":
        await house.end(key)
    async with asyncio.timeout(PATIENCE_S):
        while not house.collector.batches:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    for key in "ef":
        await house.end(key)
    house.collector.open.set()
    async with asyncio.timeout(PATIENCE_S):
        while await house.store.owed() > 2:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    for key in "gh":
        await house.end(key)
    await house.settled()
    assert house.collector.batches == [list("abcd"), list("efgh")]
