"""Finished spans on their way out, which traffic never waits for.

There are two ways. `SpanQueue` is for what is told as it happens: what does not fit, or what the collector does not
take, is dropped and counted. `Sender` is for what is kept until it is told: a batch at a time, and an answer. `Exports`
is both; where they are to a collector, they are in a process of their own (`exporter_process`).

Rule: nothing here blocks the loop, and nothing raises because of a collector. Used by `tracing.py` alone.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Protocol, cast

from msgspec import Struct
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from gateway.telemetry.environment import whole_number
from gateway.telemetry.generation import End, finished_by
from gateway.telemetry.readable import Builder
from gateway.telemetry.span import Finished
from gateway.telemetry.trust import Trust

_log = logging.getLogger(__name__)


class Options(Struct, frozen=True, tag=True):
    """What spans are built with, and where they go: `environ` has the OTEL_* variables, `upstream` is its base URL."""

    environ: Mapping[str, str]
    version: str
    upstream: str | None
    trust: Trust
    endpoint: str


class Exports(Protocol):
    """Where finished spans go."""

    @property
    def failing(self) -> bool:
        """The collector did not take the last batch."""

    async def open(self) -> None:
        """Begin. What is put before is kept."""

    def put(self, finished: Finished) -> None:
        """Queue a span, or drop it where there is no room."""

    def send(self, ends: Sequence[End], again: bool) -> "asyncio.Future[bool]":
        """Export what ends finish; whether the collector took it. `again`: with what was told before the end, too."""

    async def flush(self, timeout_s: float) -> None:
        """Export what is queued, for at most `timeout_s`; what is left is dropped and counted. Ends may follow."""

    async def close(self, timeout_s: float) -> None:
        """The same, and no more ends are sent."""


class ExportsHere:
    """Exports from this process, by two exporters that `make` makes, as none may export twice at a time.

    `on_exported` and `on_dropped` are told of what was put, `on_sent` of what was sent: how many spans, by any thread.
    """

    def __init__(
        self,
        options: Options,
        make: Callable[[], SpanExporter],
        on_exported: Callable[[int], None],
        on_dropped: Callable[[str, int], None],
        on_sent: Callable[[int], None],
    ) -> None:
        self._builder = Builder(
            options.environ,
            RandomIdGenerator(),
            version=options.version,
            upstream=options.upstream,
            trust=options.trust,
        )
        self._queue = SpanQueue(make(), options.environ, on_exported, on_dropped)
        self._sender = Sender(make(), on_sent)

    @property
    def failing(self) -> bool:
        """See `Exports`."""
        return self._queue.failing or self._sender.failing

    async def open(self) -> None:
        """See `Exports`."""

    def put(self, finished: Finished) -> None:
        """See `Exports`."""
        self._queue.put(self._builder.build(finished), child=finished.span.place == "child")

    def send(self, ends: Sequence[End], again: bool) -> "asyncio.Future[bool]":
        """See `Exports`."""
        return self._sender.send(
            lambda: [self._builder.build(finished) for end in ends for finished in finished_by(end, again=again)]
        )

    async def flush(self, timeout_s: float) -> None:
        """See `Exports`."""
        await self._queue.close(timeout_s)

    async def close(self, timeout_s: float) -> None:
        """See `Exports`."""
        await self.flush(timeout_s)
        self._sender.close()


class SpanQueue:
    """Finished spans on their way out: bounded, counted, never waited for.

    A quarter of its places is kept free of children, so that a flood of them cannot push out what traces hang on. It is
    itself the exporter that the SDK's processor sees, and so knows what is under way: `put` is the loop's, `export` the
    worker thread's.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        environ: Mapping[str, str],
        on_exported: Callable[[int], None],
        on_dropped: Callable[[str, int], None],
    ) -> None:
        self._exporter, self._on_exported, self._on_dropped = exporter, on_exported, on_dropped
        self._places = whole_number(environ, "OTEL_BSP_MAX_QUEUE_SIZE", 2048)
        self._put = self._taken = self._answered = 0
        self._closed = self._given_up = self.failing = False
        self._processor = BatchSpanProcessor(
            cast(SpanExporter, self),
            max_queue_size=self._places,
            schedule_delay_millis=whole_number(environ, "OTEL_BSP_SCHEDULE_DELAY", 5000),
            max_export_batch_size=min(whole_number(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512), self._places),
        )

    def put(self, span: ReadableSpan, *, child: bool) -> None:
        """Queue a span, or drop it where there is no room."""
        if self._closed:
            self._on_dropped("shutdown", 1)
        elif self._put - self._taken >= (self._places * 3 // 4 if child else self._places):
            self._on_dropped("queue_full", 1)
        else:
            self._put += 1
            self._processor.on_end(span)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """For the processor: hand a batch to the exporter and count what became of it."""
        self._taken += len(spans)
        if self._given_up:
            return SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # whatever an exporter raises, its thread goes on
            _log.warning("spans were not exported: %s: %s", type(error).__name__, error)
            result = SpanExportResult.FAILURE
        if self._given_up:
            return result  # they are counted as lost by now
        self._answered += len(spans)
        self.failing = result is not SpanExportResult.SUCCESS
        if self.failing:
            self._on_dropped("export_failed", len(spans))
        else:
            self._on_exported(len(spans))
        return result

    def shutdown(self) -> None:
        """For the processor: the last batch is out."""
        self._exporter.shutdown()

    async def close(self, timeout_s: float) -> None:
        """Export what is queued, for at most `timeout_s`; what the collector has not answered for by then is lost."""
        if self._closed:
            return
        self._closed = True
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            self._processor.shutdown()  # type: ignore[no-untyped-call]  # the vendor's
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                loop.call_soon_threadsafe(done.set)

        # A daemon: the process need not wait for a collector that does not answer.
        threading.Thread(target=flush, name="spans-flush", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await done.wait()
        self._given_up = True
        if left := self._put - self._answered:
            self._on_dropped("shutdown", left)


class Sender:
    """Sends batches of spans, one at a time, and says whether the collector took them.

    In one thread for all: the loop would stand still for as long as a thread takes to start.
    """

    def __init__(self, exporter: SpanExporter, on_exported: Callable[[int], None]) -> None:
        self._exporter, self._on_exported = exporter, on_exported
        self._orders: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # A daemon: the process need not wait for a collector that does not answer.
        threading.Thread(target=self._work, name="spans-send", daemon=True).start()
        self.failing = self._closed = False

    def send(self, build: Callable[[], Sequence[ReadableSpan]]) -> "asyncio.Future[bool]":
        """Build spans and export them, both in the thread."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bool] = loop.create_future()

        def told(taken: bool) -> None:
            self.failing = not taken
            if not answer.done():
                answer.set_result(taken)

        def order() -> None:
            taken = self._export(build)
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                loop.call_soon_threadsafe(told, taken)

        if self._closed:
            told(False)
        else:
            self._orders.put(order)
        return answer

    def close(self) -> None:
        """No batch follows: one that is between two attempts is given up."""
        self._closed = True
        self._orders.put(None)
        threading.Thread(target=self._exporter.shutdown, name="spans-sent", daemon=True).start()

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            order()

    def _export(self, build: Callable[[], Sequence[ReadableSpan]]) -> bool:
        try:
            spans = build()
            taken = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception as error:  # whatever is raised: what was not sent will be sent again
            _log.warning("spans were not sent: %s: %s", type(error).__name__, error)
            return False
        if taken:
            self._on_exported(len(spans))
        return taken
