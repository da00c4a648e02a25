"""Spans as OTLP's message: the one that the vendor's encoder makes, at a third of its cost (it makes two objects per
attribute), for that is paid with the interpreter's lock, which requests wait for.

Rule: the outcome is the vendor's to the last field, which a test holds; what all spans share (resource, scope) is
encoded by the vendor. Any thread's. Used by `environment.py`. Source: opentelemetry/proto/trace/v1/trace.proto, and
"Encoding" of the Protocol Buffers documentation.
"""

from collections.abc import Sequence
from functools import cache
from struct import pack
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.common import trace_encoder
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, SpanContext

from gateway.telemetry.unhurried import unhurried

_REMOTE_IS_KNOWN: Final = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE: Final = SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK | _REMOTE_IS_KNOWN
_64_BITS: Final = 2**64 - 1
_SHORT: Final = 124


def encode_spans(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    """One export of spans that have one resource and one scope."""
    request = trace_encoder.encode_spans(spans[:1])
    if len(spans) > 1:
        others = b"".join([_part(b"\x12", _span(span)) for span in unhurried(spans[1:])])
        request.resource_spans[0].scope_spans[0].MergeFromString(others)
    return request


def _span(span: ReadableSpan) -> bytes:
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    return b"".join(
        (
            _context(context),
            *[_part(b"\x1a", state.to_header().encode()) for state in (context.trace_state,) if state],
            b"" if parent is None else b"\x22\x08" + parent.span_id.to_bytes(8, "big"),
            _part(b"\x2a", span.name.encode()),
            b"\x30" + _number(span.kind.value + 1),
            pack("<cQcQ", b"\x39", span.start_time, b"\x41", span.end_time),
            *[_attribute(name, value) for name, value in (span.attributes or {}).items()],
            b"\x50" + _number(span.dropped_attributes),
            *[_part(b"\x6a", _link(link)) for link in span.links],
            _part(b"\x7a", b"\x18" + _number(span.status.status_code.value)),
            pack("<2sI", b"\x85\x01", _flags(parent)),
        )
    )


def _context(context: SpanContext) -> bytes:
    ids = context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")
    return b"\x0a\x10%b\x12\x08%b" % ids


def _link(link: Link) -> bytes:
    return _context(link.context) + pack("<cI", b"\x35", _flags(link.context))


def _flags(context: SpanContext | None) -> int:
    return _REMOTE if context is not None and context.is_remote else _REMOTE_IS_KNOWN


def _attribute(name: str, value: Any) -> bytes:
    key = _key(name)
    if isinstance(value, str) and len(text := value.encode()) + len(key) < _SHORT:
        # All lengths are single bytes: one step in place of seven, for nearly all attributes there are.
        return b"\x4a%c%b\x12%c\x0a%c%b" % (len(key) + len(text) + 4, key, len(text) + 2, len(text), text)
    return _part(b"\x4a", key + _part(b"\x12", _value(value)))


@cache
def _key(name: str) -> bytes:
    return _part(b"\x0a", name.encode())


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return _part(b"\x0a", value.encode())
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _number(value & _64_BITS)
    if isinstance(value, float):
        return pack("<cd", b"\x21", value)
    return _part(b"\x2a", b"".join([_part(b"\x0a", _value(one)) for one in value]))


def _part(tag: bytes, content: bytes) -> bytes:
    """A field of text, bytes or a message."""
    size = len(content)
    return b"%b%c%b" % (tag, size, content) if size < 0x80 else b"%b%b%b" % (tag, _number(size), content)


def _number(value: int) -> bytes:
    if value < 0x80:
        return value.to_bytes(1, "little")
    pieces = []
    while value >= 0x80:
        pieces.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*pieces, value))
