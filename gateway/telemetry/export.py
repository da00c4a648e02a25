"""Finished spans on their way out, which traffic never waits for.

There are two ways. `SpanQueue` is for what is told as it happens: what does not fit, or what the collector does not
take, is dropped and counted. `Sender` is for what is kept until it is told: a batch at a time, and an answer.

Rule: nothing here blocks the loop, and nothing raises because of a collector. Used by `tracing.py` alone.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import cast

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from gateway.telemetry.environment import whole_number

_log = logging.getLogger(__name__)


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
        self._under_way: asyncio.Future[bool] | None = None
        # A daemon: the process need not wait for a collector that does not answer.
        threading.Thread(target=self._work, name="spans-send", daemon=True).start()
        self.failing = self._closed = False

    async def send(self, build: Callable[[], Sequence[ReadableSpan]]) -> bool:
        """Build spans and export them, both in the thread, which goes on where this is cancelled."""
        loop = asyncio.get_running_loop()
        if self._under_way is not None:
            await asyncio.wait([self._under_way])
        if self._closed:
            return False
        done = self._under_way = loop.create_future()

        def order() -> None:
            taken = self._export(build)
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                loop.call_soon_threadsafe(done.set_result, taken)

        self._orders.put(order)
        self.failing = not await asyncio.shield(done)
        return not self.failing

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
