"""Tracing: `Tracing.draw` decides a response's trace context, `observe` and `send` export what is finished.

Theory of operation. A span here is never live. A response's trace context (ids, flags, the sampling decision) is drawn
once, at create, and kept in its record; when something is over, `spans.py` says what it was, and a finished span is
built from it and queued. So nothing is held open for hours, a restart does not break a trace, and no context is ever
made current, so none can fail to be taken back: parents are always given by hand.

The tree: caller -> SERVER span of the create (exported at once: the local root) -> generation (CLIENT, the response's
whole life, exported at its end) -> attempts, status phases, readers, re-attaches, polls that saw something, cancel,
stuck. A poll or a resume whose client records a span of its own stands in that client's trace, and links to the
generation.

Spans are built and sent where they are exported: in a process of its own (`exporter_process`), for requests would wait
for an interpreter that builds them.

What an end finishes does not go through the queue, which drops: the store keeps the end (`due` says of which), and the
relay's outbox gives it to `send` until the collector has taken it. Only what no store keeps, the responses of a
WebSocket, is queued with the rest.

Rule: with its siblings the only importer of OpenTelemetry. What is exported, and where to, is decided by the standard
OTEL_* variables; without an endpoint nothing is. Nothing here blocks, and nothing raises because of a collector.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from gateway.domain import facts
from gateway.domain.response import Caller, Response, Trace
from gateway.telemetry import names
from gateway.telemetry.environment import endpoint, sampler, whole_number
from gateway.telemetry.export import Exports, ExportsHere, Options
from gateway.telemetry.exporter_process import ExporterProcess
from gateway.telemetry.generation import End, finished_by, promoted
from gateway.telemetry.span import Finished
from gateway.telemetry.spans import spans_of
from gateway.telemetry.trust import Budget, Trust, read_caller

_SENT_AT_ONCE: Final = 128
_TOLD: Final = (facts.ResponseFact, facts.RequestServed)


class Tracing:
    """Draws trace contexts and exports spans.

    `environ`: where the OTEL_* variables are. `upstream`: its base URL, for `server.address`. `trust`: what a client's
    `traceparent` becomes; its sampled flag is believed `believed_per_s` times a second, for creates and as often for
    other requests. `exporter` makes one, in place of OTLP. `on_exported` and `on_dropped` are told how many spans, from
    any thread. `clock` gives seconds of any origin.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        version: str = "unknown",
        upstream: str | None = None,
        trust: Trust = "parent",
        believed_per_s: float = 1000.0,
        exporter: Callable[[], SpanExporter] | None = None,
        on_exported: Callable[[int], None] = lambda spans: None,
        on_dropped: Callable[[str, int], None] = lambda reason, spans: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ids, self._sampler, self._trust = RandomIdGenerator(), sampler(environ), trust
        self._creates, self._requests = Budget(believed_per_s, clock), Budget(believed_per_s, clock)
        self.endpoint = endpoint(environ)
        self._exports: Exports | None = None
        options = Options(environ, version, upstream, trust, self.endpoint or "")
        if exporter is not None:
            self._exports = ExportsHere(options, exporter, on_exported, on_dropped, on_exported)
        elif self.endpoint is not None:
            self._exports = ExporterProcess(options, on_exported, on_dropped)
        self.on_dropped = on_dropped
        self.batch = min(whole_number(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", _SENT_AT_ONCE), _SENT_AT_ONCE)
        """How many ends `send` should get at once, at the most."""
        self.delay_s = whole_number(environ, "OTEL_BSP_SCHEDULE_DELAY", 5000) / 1000
        """How long ends may be gathered for a batch."""

    @property
    def exporting(self) -> bool:
        """Whether spans go anywhere."""
        return self._exports is not None

    @property
    def failing(self) -> bool:
        """The collector did not take the last batch."""
        return self._exports is not None and self._exports.failing

    async def open(self) -> None:
        """Begin to export. What is finished before is kept."""
        if self._exports is not None:
            await self._exports.open()

    def draw(
        self,
        traceparent: str | None,
        tracestate: str | None,
        *,
        attributes: Mapping[str, str | bool | int | float] | None = None,
    ) -> Trace:
        """Draw the trace context of a response that is about to be created.

        The headers are the client's (W3C Trace Context); what cannot be read counts as absent. `attributes` are those
        that a sampler may want to see, besides method and route.
        """
        caller = None if self._trust == "ignore" else read_caller(traceparent, tracestate)
        parent = caller if self._trust == "parent" else None
        trace_id = parent.trace_id if parent else self._ids.generate_trace_id()
        random = TraceFlags.RANDOM_TRACE_ID if self._ids.is_trace_id_random() else 0
        flags, state, sampled = parent.flags if parent else random, parent.state if parent else "", False
        if self.exporting:
            result = self._sampler.should_sample(
                self._believed(parent),
                trace_id,
                names.SPAN_CREATE,
                SpanKind.SERVER,
                {names.HTTP_METHOD: "POST", names.HTTP_ROUTE: names.ROUTE_CREATE, **(attributes or {})},
            )
            sampled = result.decision is Decision.RECORD_AND_SAMPLE
            state = result.trace_state.to_header() if result.trace_state else state
            flags = flags & ~TraceFlags.SAMPLED | (TraceFlags.SAMPLED if sampled else 0)
        return Trace(
            trace_id=trace_id,
            span_id=self._ids.generate_span_id(),
            parent_span_id=self._ids.generate_span_id(),
            flags=flags,
            sampled=sampled,
            remote_span_id=parent.span_id if parent else None,
            state=state,
            remote_sampled=parent.sampled if parent else False,
            linked=caller if parent is None and sampled else None,
        )

    def _believed(self, parent: Caller | None) -> Context:
        """What the sampler is told of the parent: nothing, where its sampled flag is not believed."""
        if parent is None or (parent.sampled and not self._creates.take()):
            return Context()
        state = TraceState.from_header([parent.state]) if parent.state else None
        context = SpanContext(parent.trace_id, parent.span_id, True, TraceFlags(parent.flags), state)
        return set_span_in_context(NonRecordingSpan(context), Context())

    def heard(self, traceparent: str | None, tracestate: str | None) -> Caller | None:
        """The client's span, by the headers of a request that gets a span there; None: it gets none."""
        if traceparent is None or not self.exporting or self._trust == "ignore":
            return None
        caller = read_caller(traceparent, tracestate)
        return caller if caller is not None and caller.sampled and self._requests.take() else None

    def traceparent(self, trace: Trace) -> str:
        """The header to send upstream: its parent is the generation span; `trace.state` is the `tracestate`.

        Where nothing is exported no span of ours comes between: the parent is the caller's.
        """
        span_id = trace.span_id if self.exporting or trace.remote_span_id is None else trace.remote_span_id
        return f"00-{trace.trace_id:032x}-{span_id:016x}-{trace.flags:02x}"

    def observe(self, fact: facts.Fact) -> None:
        """Export what this fact finishes: an observer for `Telemetry`.

        Of an unsampled response nothing is, but what its clients ask for with a sampled span of their own.
        """
        if self._exports is None or not isinstance(fact, _TOLD) or fact.response is None:
            return
        if isinstance(fact, facts.Ended) and not fact.response.mode.kept and self.due(fact.response, fact.late):
            for finished in finished_by(End(fact.response)):
                self._exports.put(finished)
        trace = fact.response.trace
        if trace.sampled or isinstance(fact, facts.RequestServed):
            for span in spans_of(fact):
                self._exports.put(Finished(trace, span))

    def due(self, response: Response, late: bool) -> bool:
        """Whether the end of this response is to be exported: a sampled one's, or one that is worth a look.

        An unsampled response that failed, was stuck or was resumed is promoted: its generation is exported when it
        ends, with `gateway.promoted` saying why. What comes late belongs to one that was given up.
        """
        return self.exporting and (response.trace.sampled or late or promoted(response) is not None)

    def send(self, ends: Sequence[End], *, again: bool = False) -> "asyncio.Future[bool]":
        """Export what ends finish; whether the collector took it. At most `batch` of them, one call at a time.

        `again`: with what was told before the end, too.
        """
        if self._exports is not None:
            return self._exports.send(ends, again)
        nothing = asyncio.get_running_loop().create_future()
        nothing.set_result(False)
        return nothing

    async def flush(self, timeout_s: float) -> None:
        """Export what is queued, for at most `timeout_s`; what is left is dropped and counted. Ends may follow."""
        if self._exports is not None:
            await self._exports.flush(timeout_s)

    async def close(self, timeout_s: float) -> None:
        """The same, and no more ends are sent."""
        if self._exports is not None:
            await self._exports.close(timeout_s)
