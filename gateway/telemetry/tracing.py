"""Tracing: `Tracing.draw` decides a response's trace context, `Tracing.observe` exports what facts finish.

Theory of operation. A span here is never live. A response's trace context (ids, flags, the sampling decision) is drawn
once, at create, and kept in its record; when something is over, `spans.py` says what it was, and a finished span is
built from it and queued. So nothing is held open for hours, a restart does not break a trace, and no context is ever
made current, so none can fail to be taken back: parents are always given by hand.

The tree: caller -> SERVER span of the create (exported at once: the local root) -> generation (CLIENT, the response's
whole life, exported at its end) -> status phases, readers, re-attaches, polls that saw something, cancel, stuck.

Rule: the only importer of OpenTelemetry's SDK. What is exported, and where to, is decided by the standard OTEL_*
variables; without an endpoint nothing is. Nothing here blocks, and nothing raises because of a collector.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.domain import facts
from gateway.domain.response import Trace
from gateway.telemetry import names
from gateway.telemetry.environment import endpoint, otlp_exporter, resource, sampler, whole_number
from gateway.telemetry.export import SpanQueue
from gateway.telemetry.spans import Span, spans_of, went_wrong

Trust = Literal["parent", "link", "ignore"]
"""What a client's `traceparent` becomes: the parent of our spans, a link from them, nothing."""

_ATTRIBUTE_CHARACTERS: Final = 4096
_PENDING_LINKS: Final = 4096
_KINDS: Final = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}


class Tracing:
    """Draws trace contexts and exports spans.

    `environ`: where the OTEL_* variables are. `upstream`: its base URL, for `server.address`. `exporter`: in place of
    OTLP. `on_exported` and `on_dropped` are told how many spans, from any thread.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        version: str = "unknown",
        upstream: str | None = None,
        exporter: SpanExporter | None = None,
        on_exported: Callable[[int], None] = lambda spans: None,
        on_dropped: Callable[[str, int], None] = lambda reason, spans: None,
    ) -> None:
        self._ids, self._sampler, self._resource = RandomIdGenerator(), sampler(environ), resource(environ, version)
        self._scope = InstrumentationScope(names.SCOPE, version)
        general = whole_number(environ, "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", _ATTRIBUTE_CHARACTERS)
        self._characters = whole_number(environ, "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", general)
        self._server = _server(upstream)
        self.endpoint = endpoint(environ)
        if exporter is None and self.endpoint is not None:
            exporter = otlp_exporter(environ, self.endpoint)
        self._queue = None if exporter is None else SpanQueue(exporter, environ, on_exported, on_dropped)
        self._links: OrderedDict[int, SpanContext] = OrderedDict()
        self._were_stuck: set[str] = set()

    @property
    def exporting(self) -> bool:
        """Whether spans go anywhere."""
        return self._queue is not None

    @property
    def failing(self) -> bool:
        """The collector did not take the last batch."""
        return self._queue is not None and self._queue.failing

    def draw(
        self,
        traceparent: str | None,
        tracestate: str | None,
        *,
        trust: Trust,
        attributes: Mapping[str, str | bool | int | float] | None = None,
    ) -> Trace:
        """Draw the trace context of a response that is about to be created.

        The headers are the client's (W3C Trace Context); what cannot be read counts as absent. `attributes` are those
        that a sampler may look at. Where nothing is exported the ids still serve logs, and nothing is sampled.
        """
        caller = _caller(traceparent, tracestate) if trust != "ignore" else None
        parent = caller if trust == "parent" else None
        trace_id = parent.trace_id if parent else self._ids.generate_trace_id()
        random = TraceFlags.RANDOM_TRACE_ID if self._ids.is_trace_id_random() else 0
        flags = parent.trace_flags if parent else random
        state, sampled = parent.trace_state if parent else None, False
        if self.exporting:
            result = self._sampler.should_sample(
                set_span_in_context(NonRecordingSpan(parent), Context()) if parent else Context(),
                trace_id,
                names.SPAN_CREATE,
                SpanKind.SERVER,
                {names.HTTP_METHOD: "POST", names.HTTP_ROUTE: names.ROUTE_CREATE, **(attributes or {})},
            )
            state, sampled = result.trace_state, result.decision is Decision.RECORD_AND_SAMPLE
            flags = flags & ~TraceFlags.SAMPLED | (TraceFlags.SAMPLED if sampled else 0)
        trace = Trace(
            trace_id=trace_id,
            span_id=self._ids.generate_span_id(),
            parent_span_id=self._ids.generate_span_id(),
            flags=flags,
            sampled=sampled,
            remote_span_id=parent.span_id if parent else None,
            state=state.to_header() if state else "",
        )
        if caller is not None and parent is None and sampled:
            self._links[trace.parent_span_id] = caller
            if len(self._links) > _PENDING_LINKS:
                self._links.popitem(last=False)
        return trace

    def traceparent(self, trace: Trace) -> str:
        """The header to send upstream: its parent is the generation span; `trace.state` is the `tracestate`.

        Where nothing is exported no span of ours comes between: the parent is the caller's.
        """
        span_id = trace.span_id if self.exporting or trace.remote_span_id is None else trace.remote_span_id
        return f"00-{trace.trace_id:032x}-{span_id:016x}-{trace.flags:02x}"

    def observe(self, fact: facts.Fact) -> None:
        """Export what this fact finishes: an observer for `Telemetry`.

        Of an unsampled response nothing is exported, unless it failed, was stuck or was resumed: then the generation
        is, when it ends, with `gateway.promoted` saying why.
        """
        if self._queue is None or not isinstance(fact, facts.ResponseFact):
            return
        trace, promoted = fact.response.trace, None
        if not trace.sampled:
            promoted = self._promoted(fact)
            if promoted is None:
                return
            trace = replace(trace, flags=trace.flags | TraceFlags.SAMPLED)
        for span in spans_of(fact):
            self._queue.put(self._finished(trace, span, promoted), child=span.place == "child")

    async def close(self, timeout_s: float) -> None:
        """Export what is queued, for at most `timeout_s`; what is left then is dropped, and counted."""
        if self._queue is not None:
            await self._queue.close(timeout_s)

    def _promoted(self, fact: facts.ResponseFact) -> str | None:
        response = fact.response
        if not isinstance(fact, facts.Ended):
            if response.stuck is not None:
                self._were_stuck.add(response.key)
            return None
        was_stuck = response.key in self._were_stuck
        self._were_stuck.discard(response.key)
        reasons = (("stuck", was_stuck), ("failed", went_wrong(response)), ("resumed", response.counts.resumes))
        return "late" if fact.late else next((name for name, holds in reasons if holds), None)

    def _finished(self, trace: Trace, span: Span, promoted: str | None) -> ReadableSpan:
        # The create of a promoted response was not exported: its generation is the local root.
        caller = trace.remote_span_id
        span_id, parent_id = {
            "create": (trace.parent_span_id, caller),
            "generation": (trace.span_id, caller if promoted else trace.parent_span_id),
            "child": (0, trace.span_id),
        }[span.place]
        link = self._links.pop(trace.parent_span_id, None) if span.place == "create" else None
        attributes: dict[str, Any] = {
            **span.attributes,
            **(self._server if span.kind == "client" else {}),
            names.ERROR_TYPE: span.error,
            names.GATEWAY_PROMOTED: promoted if span.place == "generation" else None,
        }
        return ReadableSpan(
            name=self._text(span.name),
            context=_context(trace, span_id or self._ids.generate_span_id(), remote=False),
            parent=None if parent_id is None else _context(trace, parent_id, remote=parent_id == caller),
            resource=self._resource,
            attributes={name: self._clean(value) for name, value in attributes.items() if value is not None},
            links=() if link is None else (Link(link),),
            kind=_KINDS[span.kind],
            status=Status(StatusCode.UNSET if span.error is None else StatusCode.ERROR),
            start_time=_nanoseconds(span.start),
            end_time=_nanoseconds(max(span.start, span.end)),
            instrumentation_scope=self._scope,
        )

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        return tuple(map(self._text, value)) if isinstance(value, tuple) else value

    def _text(self, value: str) -> str:
        """Text as a collector can take it: one value that is no UTF-8 would cost its whole batch."""
        return value[: self._characters].encode(errors="replace").decode()


def _server(upstream: str | None) -> dict[str, str | int]:
    if upstream is None:
        return {}
    parts = urlsplit(upstream)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    return {names.SERVER_ADDRESS: parts.hostname or "", names.SERVER_PORT: port}


def _caller(traceparent: str | None, tracestate: str | None) -> SpanContext | None:
    if not traceparent:
        return None
    headers = {"traceparent": traceparent} | ({"tracestate": tracestate} if tracestate else {})
    found = get_current_span(TraceContextTextMapPropagator().extract(headers, Context())).get_span_context()
    return found if found.is_valid else None


def _context(trace: Trace, span_id: int, *, remote: bool) -> SpanContext:
    state = TraceState.from_header([trace.state]) if trace.state else None
    return SpanContext(trace.trace_id, span_id, remote, TraceFlags(trace.flags), state)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
