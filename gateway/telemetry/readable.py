"""Finished spans as the vendor's exporters take them: ids, parents, links, limits.

Rule: pure, and any thread's. What a collector could not take (text that is no UTF-8, a number beyond 64 bits) is made
fit here, as one such value would cost its whole batch. Used by `tracing.py` alone.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from gateway.domain.content import shortened
from gateway.domain.response import Caller, Trace
from gateway.telemetry import names
from gateway.telemetry.environment import limit, resource
from gateway.telemetry.span import Finished, Span
from gateway.telemetry.trust import Trust

_ATTRIBUTES: Final = 128
_ATTRIBUTE_CHARACTERS: Final = 4096
_LINKS: Final = 128
_LARGEST: Final = 2**63 - 1
_KINDS: Final = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}


class Builder:
    """Builds what is exported. `upstream`: its base URL, for `server.*` and `url.full`."""

    def __init__(
        self,
        environ: Mapping[str, str],
        ids: RandomIdGenerator,
        *,
        version: str,
        upstream: str | None,
        trust: Trust,
    ) -> None:
        self._ids, self._trust = ids, trust
        self._resource, self._scope = resource(environ, version), InstrumentationScope(names.SCOPE, version)
        self._characters = limit(environ, "ATTRIBUTE_VALUE_LENGTH", _ATTRIBUTE_CHARACTERS)
        self._content = limit(environ, "ATTRIBUTE_VALUE_LENGTH", None)
        self._attributes = limit(environ, "ATTRIBUTE_COUNT", _ATTRIBUTES)
        self._links = limit(environ, "LINK_COUNT", _LINKS)
        self._origin, self._server = server(upstream)

    def build(self, finished: Finished) -> ReadableSpan:
        """A span of a response's trace, or of its caller's."""
        trace, span, promoted = finished
        context, parent = self._place(trace, span, promoted=promoted is not None)
        attributes: dict[str, Any] = {
            **span.attributes,
            **(self._server if span.kind == "client" else {}),
            names.ERROR_TYPE: span.error,
            names.GATEWAY_PROMOTED: promoted if span.place == "generation" else None,
        }
        if (path := attributes.get(names.URL_FULL)) is not None:
            attributes[names.URL_FULL] = f"{self._origin}{path}"
        callers = span.links
        if span.place == "caller" and span.caller is not None and self._trust == "link":
            callers = (*callers, span.caller)
        return ReadableSpan(
            name=self._text(span.name),
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=self._bounded(attributes),
            links=[Link(_elsewhere(caller)) for caller in callers[: self._links]],
            kind=_KINDS[span.kind],
            status=Status(StatusCode.UNSET if span.error is None else StatusCode.ERROR),
            start_time=_nanoseconds(span.start),
            end_time=_nanoseconds(max(span.start, span.end)),
            instrumentation_scope=self._scope,
        )

    def _place(self, trace: Trace, span: Span, *, promoted: bool) -> tuple[SpanContext, SpanContext | None]:
        """The span's own identity, and its parent's."""
        if span.place == "caller" and span.caller is not None:
            return self._in_the_callers(span.caller)
        flags = trace.flags | TraceFlags.SAMPLED if promoted else trace.flags
        remote = trace.remote_span_id

        def of(span_id: int, *, is_remote: bool = False) -> SpanContext:
            return SpanContext(trace.trace_id, span_id, is_remote, TraceFlags(flags), _state(trace.state))

        caller = None if remote is None else of(remote, is_remote=True)
        match span.place:
            case "create":
                return of(trace.parent_span_id), caller
            case "generation":
                # The create of a promoted response was not exported: its generation is the local root.
                return of(trace.span_id), caller if promoted else of(trace.parent_span_id)
            case _:
                own = _derived(trace.span_id, span.name) if span.once else self._ids.generate_span_id()
                return of(own), of(trace.span_id)

    def _in_the_callers(self, caller: Caller) -> tuple[SpanContext, SpanContext | None]:
        own = self._ids.generate_span_id()
        if self._trust == "parent":
            parent = _elsewhere(caller)
            return SpanContext(caller.trace_id, own, False, parent.trace_flags, parent.trace_state), parent
        flags = TraceFlags(TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID)
        return SpanContext(self._ids.generate_trace_id(), own, False, flags), None

    def _bounded(self, attributes: Mapping[str, Any]) -> Any:
        """At most so many, the first ones: the vendor's own limit would let the first ones go."""
        known = {name: self._fit(name, value) for name, value in attributes.items() if value is not None}
        if len(known) <= self._attributes:
            return known
        # What went wrong is never what there was no room for.
        kept: dict[str, Any] = {
            name: known.pop(name) for name in (names.ERROR_TYPE, names.GATEWAY_PROMOTED) if name in known
        }
        for name in tuple(known)[: max(self._attributes - len(kept), 0)]:
            kept[name] = known.pop(name)
        bounded = BoundedAttributes(attributes=kept)
        bounded.dropped = len(known)
        return bounded

    def _fit(self, name: str, value: Any) -> Any:
        if name in names.CONTENT and isinstance(value, str):
            # JSON that is cut anywhere is none; it has a limit of its own, of which a smaller one takes precedence.
            return value if self._content is None else shortened(value, self._content)
        return self._clean(value)

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, tuple):
            return tuple(map(self._text, value))
        if isinstance(value, int) and not -_LARGEST <= value <= _LARGEST:
            return _LARGEST if value > 0 else -_LARGEST
        return value

    def _text(self, value: str) -> str:
        value = value[: self._characters]
        return value if value.isascii() else value.encode(errors="replace").decode()


def server(upstream: str | None) -> tuple[str, dict[str, str | int]]:
    """Upstream's origin, and its address and port as attributes."""
    if upstream is None:
        return "", {}
    parts = urlsplit(upstream)
    host, port = parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    shown = f"[{host}]" if ":" in host else host
    origin = f"{parts.scheme}://{shown}" + (f":{parts.port}" if parts.port else "")
    return origin, {names.SERVER_ADDRESS: host, names.SERVER_PORT: port}


def _derived(span_id: int, name: str) -> int:
    """The id of a span that its response has once: it follows from the generation's."""
    digest = hashlib.blake2b(name.encode(), key=span_id.to_bytes(8, "big"), digest_size=8).digest()
    return int.from_bytes(digest, "big") or 1


def _elsewhere(caller: Caller) -> SpanContext:
    return SpanContext(caller.trace_id, caller.span_id, True, TraceFlags(caller.flags), _state(caller.state))


def _state(state: str) -> TraceState | None:
    return TraceState.from_header([state]) if state else None


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
