"""A small OTLP/HTTP receiver: takes spans as a collector does, keeps them as plain values, shows a trace as a tree.

For looking at what the gateway exports, without a tracing backend: the demo and the tests start one. It is no backend:
it keeps what it got in memory, up to a limit, and answers protobuf only.
Source: OTLP specification 1.x, section OTLP/HTTP.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1 import trace_pb2

_PROTOBUF: Final = "application/x-protobuf"
_BODY_BYTES: Final = 64 * 2**20
_KINDS: Final = {
    trace_pb2.Span.SPAN_KIND_SERVER: "server",
    trace_pb2.Span.SPAN_KIND_CLIENT: "client",
    trace_pb2.Span.SPAN_KIND_INTERNAL: "internal",
}


@dataclass(frozen=True, slots=True)
class Received:
    """One span as it came. Ids are lower-case hex, `parent_id` is empty at a root; times are unix seconds."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start: float
    end: float
    error: bool
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    links: tuple[tuple[str, str], ...] = ()

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


class Receiver:
    """Listens on a port and keeps the spans it is sent, the newest `limit` of them, in order of arrival."""

    def __init__(self, *, limit: int = 10_000) -> None:
        self._spans: deque[Received] = deque(maxlen=limit)
        self._runner: web.AppRunner | None = None

    @property
    def spans(self) -> Sequence[Received]:
        """What came so far."""
        return tuple(self._spans)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen, on any free port by default. Returns what `OTEL_EXPORTER_OTLP_ENDPOINT` has to say."""
        app = web.Application(client_max_size=_BODY_BYTES)
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        return f"http://{host}:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        """Stop listening; what came is kept."""
        if self._runner is not None:
            await self._runner.cleanup()

    def trace(self, trace_id: str) -> Sequence[Received]:
        """The spans of one trace; of several with the same id, as a repeated export makes them, the newest."""
        return tuple({span.span_id: span for span in self._spans if span.trace_id == trace_id}.values())

    def keep(self, message: ExportTraceServiceRequest) -> None:
        """Keep the spans of a request, however it came."""
        self._spans.extend(_received(message))

    async def _take(self, request: web.Request) -> web.Response:
        if request.content_type != _PROTOBUF:
            return web.Response(status=415, text=f"expected {_PROTOBUF}\n")
        try:
            message = ExportTraceServiceRequest.FromString(await request.read())
        except DecodeError:
            return web.Response(status=400, text="this is no ExportTraceServiceRequest\n")
        self.keep(message)
        return web.Response(body=ExportTraceServiceResponse().SerializeToString(), content_type=_PROTOBUF)


def tree(spans: Sequence[Received], attributes: Sequence[str] = ()) -> str:
    """One trace as text: a line per span with its offset from the first, its duration, and the named attributes.

    A span whose parent is not among them (a caller's, or one not exported yet) stands at the top.
    """
    if not spans:
        return ""
    begin = min(span.start for span in spans)
    known = {span.span_id for span in spans}
    lines: list[tuple[str, Received]] = []

    def put(span: Received, indent: str, branch: str, below: str) -> None:
        lines.append((f"{indent}{branch}{span.name}", span))
        children = sorted((child for child in spans if child.parent_id == span.span_id), key=lambda c: (c.start, c.end))
        for child in children:
            last = child is children[-1]
            put(child, indent + below, "└─ " if last else "├─ ", "   " if last else "│  ")

    for root in sorted((span for span in spans if span.parent_id not in known), key=lambda root: root.start):
        put(root, "", "", "")
    width = max((len(label) for label, _ in lines), default=0)
    return "".join(
        f"{label:<{width}}  {f'+{span.start - begin:.3f} s':>12} {f'{span.seconds:.3f} s':>11}"
        f"{''.join(_shown(span, attributes))}\n"
        for label, span in lines
    )


def _shown(span: Received, attributes: Sequence[str]) -> Iterator[str]:
    if span.error:
        yield f"  error={span.attributes.get('error.type', '')}"
    for name in attributes:
        if name in span.attributes:
            value = span.attributes[name]
            yield f"  {name.rpartition('.')[2]}={f'{value:.3f}' if isinstance(value, float) else value}"


def _received(message: ExportTraceServiceRequest) -> Iterator[Received]:
    for of_resource in message.resource_spans:
        resource = _values(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield Received(
                    name=span.name,
                    kind=_KINDS.get(span.kind, "other"),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    start=span.start_time_unix_nano / 1e9,
                    end=span.end_time_unix_nano / 1e9,
                    error=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                    attributes=_values(span.attributes),
                    resource=resource,
                    links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                )


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(_value(item) for item in value.array_value.values)
    return getattr(value, kind) if kind else None
