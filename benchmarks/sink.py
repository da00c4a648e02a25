"""A collector that counts: OTLP over HTTP in, how many spans came out. In a process of its own, as cheap as can be."""

import asyncio
import re
from typing import cast

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from benchmarks.processes import serve_until_told
from benchmarks.wire import HOST

_BLANK_LINE = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TAKEN = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"


class Count:
    """Spans by what they are: all, and the generations by their ids, as each may come more than once."""

    def __init__(self) -> None:
        self.spans = 0
        self.generations: set[bytes] = set()

    def take(self, body: bytes) -> None:
        """Count what one export brought."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.spans += len(scope.spans)
                self.generations.update(span.span_id for span in scope.spans if _is_generation(span))

    def report(self) -> dict[str, float]:
        """So far."""
        return {"spans": self.spans, "generations": len(self.generations)}


def _is_generation(span: Span) -> bool:
    return bool(span.kind == Span.SPAN_KIND_CLIENT and span.name.startswith("chat "))


class Connection(asyncio.Protocol):
    """One connection of an exporter."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        """Bytes: take each whole export."""
        self._buffer += data
        while True:
            head, found, rest = self._buffer.partition(_BLANK_LINE)
            length = _LENGTH.search(head) if found else None
            if length is None or len(rest) < int(length[1]):
                return
            body, self._buffer = rest[: int(length[1])], rest[int(length[1]) :]
            self._count.take(body)
            self._transport.write(_TAKEN)


async def _main() -> None:
    count = Count()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(count), HOST, 0)
    await serve_until_told(server.sockets[0].getsockname()[1], count.report)


if __name__ == "__main__":
    asyncio.run(_main())
