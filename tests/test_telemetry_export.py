"""Spans on their way out: telemetry cannot hurt traffic, whatever the collector does."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from threading import Event
from typing import Any

import pytest
from aiohttp import ClientSession, web
from lives import TRACE, T, a_life, a_response, ended
from msgspec.structs import replace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from spanning import GRACE_S, tell

from gateway.domain import facts
from gateway.domain.mode import Parameters
from gateway.domain.response import Status
from gateway.telemetry.generation import End
from gateway.telemetry.receiver import Receiver, tree
from gateway.telemetry.tracing import Tracing

QUEUED_OF_A_LIFE = 5
"""The spans that go through the queue: those that its end does not finish."""
DUE_OF_A_LIFE = 2


class Told:
    """What the queue said became of the spans."""

    def __init__(self) -> None:
        self.exported = 0
        self.dropped: dict[str, int] = {}

    def on_exported(self, spans: int) -> None:
        self.exported += spans

    def on_dropped(self, reason: str, spans: int) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + spans


class Gate:
    """An exporter that takes nothing until it is opened."""

    def __init__(self) -> None:
        self.open = Event()
        self.busy = Event()
        self.spans: list[str] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.busy.set()
        self.open.wait(GRACE_S)
        self.spans += [span.name for span in spans]
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


class Broken(Gate):
    """An exporter with a fault."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise ZeroDivisionError


@pytest.fixture
async def parts() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


def tracing_with(told: Told, environ: dict[str, str] | None = None, exporter: Any = None) -> Tracing:
    make = None if exporter is None else lambda: exporter
    return Tracing(environ or {}, exporter=make, on_exported=told.on_exported, on_dropped=told.on_dropped)


async def test_what_the_collector_took_is_counted(parts: AsyncExitStack) -> None:
    told, receiver = Told(), Receiver()
    parts.push_async_callback(receiver.close)
    tracing = tracing_with(told, {"OTEL_EXPORTER_OTLP_ENDPOINT": await receiver.start()})
    await tracing.open()
    await tell(tracing, a_life())
    await tracing.close(GRACE_S)
    assert (told.exported, told.dropped, tracing.failing) == (QUEUED_OF_A_LIFE + DUE_OF_A_LIFE, {}, False)


async def test_a_collector_that_is_not_there_costs_nothing_and_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.05")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        told = Told()
        tracing = tracing_with(told, {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{taken.getsockname()[1]}"})
        await tracing.open()
        await tell(tracing, a_life())
        await tracing.close(GRACE_S)
    assert (told.exported, told.dropped, tracing.failing) == (0, {"export_failed": QUEUED_OF_A_LIFE}, True)


async def test_a_collector_that_refuses_is_counted(parts: AsyncExitStack) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=400)

    app = web.Application()
    app.router.add_post("/v1/traces", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    parts.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    told = Told()
    tracing = tracing_with(told, {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{runner.addresses[0][1]}"})
    await tracing.open()
    await tell(tracing, a_life())
    await tracing.close(GRACE_S)
    assert told.dropped == {"export_failed": QUEUED_OF_A_LIFE}
    assert tracing.failing


async def test_an_exporter_that_raises_is_counted_and_asked_again() -> None:
    told = Told()
    tracing = tracing_with(told, {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2"}, Broken())
    await tell(tracing, a_life())
    await tracing.close(GRACE_S)
    assert told.dropped == {"export_failed": QUEUED_OF_A_LIFE}


async def test_a_collector_that_hangs_holds_up_neither_facts_nor_the_exit() -> None:
    told, gate = Told(), Gate()
    tracing = tracing_with(told, {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1"}, gate)
    await tell(tracing, [facts.Created(T, a_response())])
    assert await asyncio.to_thread(gate.busy.wait, GRACE_S)
    await tell(tracing, [facts.Created(T, a_response()), facts.Created(T, a_response())])
    await tracing.close(0.05)
    assert told.dropped == {"shutdown": 3}, "with the one that is under way"
    await tracing.close(0.05)
    assert told.dropped == {"shutdown": 3}, "a second close is nothing"
    await tell(tracing, [facts.Created(T, a_response())])
    assert told.dropped == {"shutdown": 4}
    gate.open.set()


async def test_a_flood_of_children_leaves_room_for_what_traces_hang_on() -> None:
    told, gate = Told(), Gate()
    environ = {"OTEL_BSP_MAX_QUEUE_SIZE": "8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1"}
    tracing = tracing_with(told, environ, gate)
    await tell(tracing, [facts.Created(T, a_response())])
    assert await asyncio.to_thread(gate.busy.wait, GRACE_S)
    poll = facts.UpstreamPolled(T, a_response(), "error", 503, 0.1)
    await tell(tracing, [poll] * 20)
    assert told.dropped == {"queue_full": 14}
    refused = facts.Refused(T + 1, a_response(response_id=None, model=None), 429)
    await tell(tracing, [refused])
    assert told.dropped == {"queue_full": 14}
    await tell(tracing, [refused])
    assert told.dropped == {"queue_full": 16}
    gate.open.set()
    await tracing.close(GRACE_S)
    assert told.exported == 9
    assert gate.spans.count("chat gpt-5") == 1


async def test_text_that_is_no_utf8_or_too_long_costs_no_span() -> None:
    memory, told = InMemorySpanExporter(), Told()
    tracing = tracing_with(told, exporter=memory)
    odd: dict[str, Any] = {"model_asked": "\udcff", "upstream_request_id": "\udc80" * 5000, "model": "m" * 5000}
    odd["parameters"] = Parameters(max_output_tokens=2**70)
    await tell(tracing, [ended(Status.COMPLETED, **odd)])
    await tracing.close(GRACE_S)
    (span,) = memory.get_finished_spans()
    attributes = dict(span.attributes or {})
    assert span.name == "chat ?"
    assert attributes["gen_ai.request.max_tokens"] == 2**63 - 1, "nor a number that no collector can hold"
    assert attributes["gateway.upstream.request_id"] == "?" * 4096
    assert attributes["gen_ai.response.model"] == "m" * 4096


async def test_the_standard_variables_limit_the_length_of_attributes() -> None:
    memory = InMemorySpanExporter()
    environ = {"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "10", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "7"}
    tracing = Tracing(environ, exporter=lambda: memory)
    await tell(tracing, [ended(Status.COMPLETED)])
    await tracing.close(GRACE_S)
    assert dict(memory.get_finished_spans()[0].attributes or {})["gen_ai.response.model"] == "gpt-5-2"


async def test_spans_go_out_while_the_process_runs(parts: AsyncExitStack) -> None:
    gate = Gate()
    gate.open.set()
    tracing = tracing_with(Told(), {"OTEL_BSP_SCHEDULE_DELAY": "1"}, gate)
    parts.push_async_callback(tracing.close, GRACE_S)
    await tell(tracing, [facts.Created(T, a_response())])
    assert await asyncio.to_thread(gate.busy.wait, GRACE_S)


async def test_the_receiver_takes_protobuf_and_nothing_else(parts: AsyncExitStack) -> None:
    receiver = Receiver()
    parts.push_async_callback(receiver.close)
    url = f"{await receiver.start()}/v1/traces"
    session = await parts.enter_async_context(ClientSession())
    async with session.post(url, json={"resourceSpans": []}) as answer:
        assert answer.status == 415
    async with session.post(url, data=b"\xff\xff", headers={"content-type": "application/x-protobuf"}) as answer:
        assert answer.status == 400
    assert receiver.spans == ()


async def test_a_tree_shows_what_hangs_in_the_air_at_the_top(parts: AsyncExitStack) -> None:
    receiver = Receiver()
    parts.push_async_callback(receiver.close)
    tracing = Tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": await receiver.start()})
    await tracing.open()
    trace = replace(TRACE, remote_span_id=0xDEF)
    await tell(
        tracing, [facts.Created(T + 1, a_response(trace=trace)), facts.BecameStuck(T + 2, a_response(trace=trace))]
    )
    await tracing.close(GRACE_S)
    assert [line.split()[0] for line in tree(receiver.spans).splitlines()] == ["POST", "stuck"]
    assert tree(()) == ""


async def test_ends_are_sent_after_the_queue_is_flushed_until_all_is_closed() -> None:
    tracing = Tracing({}, exporter=InMemorySpanExporter)
    end = End(ended(Status.COMPLETED).response)
    await tracing.flush(GRACE_S)
    assert await tracing.send([end])
    await tracing.close(GRACE_S)
    assert not await tracing.send([end])
