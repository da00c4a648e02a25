"""Where finished spans go: the standard OTEL_* variables, and a queue that traffic never waits for.

Rule: nothing here blocks the loop, and nothing raises because of a collector: a span that cannot go is dropped and
counted. Used by `tracing.py` alone.
"""

import asyncio
import contextlib
import importlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

_EXPORTERS: Final = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}
_log = logging.getLogger(__name__)


def endpoint(environ: Mapping[str, str]) -> str | None:
    """Where spans go, by the OTLP exporter specification; None: nowhere."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if environ.get("OTEL_TRACES_EXPORTER", "").strip() not in ("", "otlp"):
        return None
    if endpoint := environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip():
        return endpoint
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    if not base or _protocol(environ) == "grpc":
        return base or None
    return f"{base.rstrip('/')}/v1/traces"


def _protocol(environ: Mapping[str, str]) -> str:
    named = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or ""
    return named.strip() if named.strip() in _EXPORTERS else "http/protobuf"


def otlp_exporter(environ: Mapping[str, str], endpoint: str) -> SpanExporter:
    """An exporter to an endpoint; headers, certificates, compression and timeout it reads from its own variables."""
    # Imported only where it is used: gRPC alone takes a tenth of a second to load.
    module = importlib.import_module(_EXPORTERS[_protocol(environ)])
    return cast(SpanExporter, module.OTLPSpanExporter(endpoint=endpoint))


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
        self._places = _whole_number(environ, "OTEL_BSP_MAX_QUEUE_SIZE", 2048)
        batch = min(_whole_number(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512), self._places)
        self._put = self._taken = 0
        self._closed = self._given_up = self.failing = False
        self._processor = BatchSpanProcessor(cast(SpanExporter, self), self._places, max_export_batch_size=batch)

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
        """Export what is queued, for at most `timeout_s`; what is left then is dropped."""
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
        if left := self._put - self._taken:
            self._on_dropped("shutdown", left)


def _whole_number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "").strip()
    return int(text) if text.isdecimal() and int(text) > 0 else default
