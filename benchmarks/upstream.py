"""The scratch upstream: canned answers of a Responses API, as cheap as can be, in a process of its own.

What a create is answered with stands in its `metadata`: `events` and `rate` (events per second, 0: as fast as they are
taken) of a stream. A background response stays `in_progress` for ever. `GET /polled` says when each one was asked for.
"""

import asyncio
import itertools
import json
import re
import time
from collections.abc import Iterator
from functools import cache
from typing import Any, cast

from benchmarks.processes import serve_until_told
from benchmarks.wire import HOST

_BLANK_LINE = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_BLOCK = 64
_WORDS = b"It is a truth universally acknowledged that a single man in possession of a good fortune"
_MODELS = json.dumps(
    {"object": "list", "data": [{"id": f"gpt-{n}", "object": "model", "owned_by": "openai"} for n in range(16)]}
).encode()


def response_object(response_id: bytes, status: bytes) -> bytes:
    """A response object of ordinary size."""
    return (
        b'{"id":"%b","object":"response","created_at":1760000000,"status":"%b","background":false,"error":null,'
        b'"incomplete_details":null,"instructions":null,"max_output_tokens":null,"model":"gpt-5.2-2026-01-15",'
        b'"output":[{"id":"msg_68e1","type":"message","status":"completed","role":"assistant","content":[{"type":'
        b'"output_text","text":"%b","annotations":[],"logprobs":[]}]}],"parallel_tool_calls":true,'
        b'"previous_response_id":null,"reasoning":{"effort":null,"summary":null},"service_tier":"default","store":true,'
        b'"temperature":1.0,"text":{"format":{"type":"text"},"verbosity":"medium"},"tool_choice":"auto","tools":[],'
        b'"top_logprobs":0,"top_p":1.0,"truncation":"disabled","usage":{"input_tokens":36,"input_tokens_details":'
        b'{"cached_tokens":0},"output_tokens":87,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":123},'
        b'"user":null,"metadata":{}}'
    ) % (response_id, status, _WORDS * 4)


def _head(kind: bytes, length: bytes) -> bytes:
    """With as many headers as OpenAI's answers have."""
    return (
        b"HTTP/1.1 200 OK\r\nDate: Thu, 19 Nov 2026 10:00:00 GMT\r\nContent-Type: %b\r\n%b\r\n"
        b"x-request-id: req_%032x\r\nopenai-organization: org-benchmark\r\nopenai-processing-ms: 87\r\n"
        b"openai-version: 2020-10-01\r\nx-ratelimit-limit-requests: 30000\r\nx-ratelimit-limit-tokens: 180000000\r\n"
        b"x-ratelimit-remaining-requests: 29999\r\nx-ratelimit-remaining-tokens: 179999945\r\n"
        b"x-ratelimit-reset-requests: 2ms\r\nx-ratelimit-reset-tokens: 0s\r\n"
        b"CF-Cache-Status: DYNAMIC\r\nServer: cloudflare\r\n\r\n"
    ) % (kind, length, next(_numbers))


_numbers = itertools.count()


def _json_answer(body: bytes) -> bytes:
    return _head(b"application/json", b"Content-Length: %d" % len(body)) + body


def _chunk(frame: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(frame), frame)


def _life_cycle_event(kind: bytes, number: int, response: bytes) -> bytes:
    frame = b'event: %b\ndata: {"type":"%b","sequence_number":%d,"response":%b}\n\n' % (kind, kind, number, response)
    return _chunk(frame)


def _delta(number: int, sent_ns: int = 0) -> bytes:
    """One HTTP chunk with one event, like OpenAI's; `sent` stands where its random padding is."""
    frame = (
        b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":%d,'
        b'"item_id":"msg_68e1d0c4a1b08190b7c4d2","output_index":0,"content_index":0,"delta":" word","logprobs":[],'
        b'"sent":"%019d"}\n\n'
    ) % (number, sent_ns)
    return _chunk(frame)


@cache
def _block(at: int) -> bytes:
    """The events of one block, each its own chunk."""
    return b"".join(_delta(number) for number in range(at * _BLOCK + 1, (at + 1) * _BLOCK + 1))


class _Stream:
    """The events of one response on their way to one connection."""

    def __init__(self, transport: asyncio.Transport, response_id: bytes, events: int, rate: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._id = response_id
        self._rate = rate
        self._at = 0
        self._events = events
        self.paused = False
        created = _life_cycle_event(b"response.created", 0, response_object(response_id, b"in_progress"))
        transport.write(_head(b"text/event-stream; charset=utf-8", b"Transfer-Encoding: chunked") + created)
        if rate:
            self._due = self._loop.time() + (hash(response_id) % 1000) / 1000 / rate
            self._loop.call_at(self._due, self._tick)
        else:
            self.pour()

    def pour(self) -> None:
        """Write until the other end has enough."""
        while not self._rate and not self.paused and self._at < self._events:
            if self._events - self._at >= _BLOCK:
                self._transport.write(_block(self._at // _BLOCK))
                self._at += _BLOCK
            else:
                self._transport.write(b"".join(_delta(number + 1) for number in range(self._at, self._events)))
                self._at = self._events
            if self._at == self._events:
                self._finish(self._events + 1)

    def _tick(self) -> None:
        if self._transport.is_closing():
            return
        self._at += 1
        if self._at > self._events:
            self._finish(self._at)
            return
        self._transport.write(_delta(self._at, time.monotonic_ns()))
        self._due += 1 / self._rate
        self._loop.call_at(self._due, self._tick)

    def _finish(self, number: int) -> None:
        final = response_object(self._id, b"completed")
        self._transport.write(_life_cycle_event(b"response.completed", number, final) + b"0\r\n\r\n")


class World:
    """What the connections share: ids, and when each response was polled (CLOCK_MONOTONIC, seconds)."""

    def __init__(self) -> None:
        self._ids: Iterator[int] = itertools.count()
        self.polled: dict[str, list[float]] = {}

    def new_id(self, kind: bytes) -> bytes:
        """An id that says how its response is doing."""
        return b"resp_%b_%032d" % (kind, next(self._ids))

    def answer(self, method: bytes, path: bytes, body: bytes) -> bytes | dict[str, Any]:
        """An answer, or what a stream is to be like."""
        path = path.partition(b"?")[0]
        if path == b"/v1/models":
            return _json_answer(_MODELS)
        if path == b"/polled":
            return _json_answer(json.dumps(list(self.polled.values())).encode())
        if path == b"/v1/responses" and method == b"POST":
            return self._created(json.loads(body))
        response_id = path.rpartition(b"/")[2]
        if response_id.startswith(b"resp_live"):
            self.polled.setdefault(response_id.decode(), []).append(time.monotonic())
            return _json_answer(response_object(response_id, b"in_progress"))
        return _json_answer(response_object(response_id, b"completed"))

    def _created(self, asked: dict[str, Any]) -> bytes | dict[str, Any]:
        if asked.get("stream"):
            return {"events": int(asked["metadata"]["events"]), "rate": float(asked["metadata"]["rate"])}
        if asked.get("background"):
            return _json_answer(response_object(self.new_id(b"live"), b"queued"))
        return _json_answer(response_object(self.new_id(b"done"), b"completed"))


class Connection(asyncio.Protocol):
    """One connection from a client."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._buffer = b""
        self._stream: _Stream | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        """Bytes: answer each whole request."""
        self._buffer += data
        while True:
            head, found, rest = self._buffer.partition(_BLANK_LINE)
            if not found:
                return
            length = _LENGTH.search(head)
            size = int(length[1]) if length else 0
            if len(rest) < size:
                return
            self._buffer = rest[size:]
            method, path, _ = head.split(b" ", 2)
            answer = self._world.answer(method, path, rest[:size])
            if isinstance(answer, bytes):
                self._transport.write(answer)
            else:
                self._stream = _Stream(self._transport, self._world.new_id(b"stream"), **answer)

    def pause_writing(self) -> None:
        """The other end has enough for now."""
        if self._stream is not None:
            self._stream.paused = True

    def resume_writing(self) -> None:
        """The other end takes more."""
        if self._stream is not None:
            self._stream.paused = False
            self._stream.pour()


async def _main() -> None:
    world = World()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(world), HOST, 0, backlog=2048)
    await serve_until_told(server.sockets[0].getsockname()[1])


if __name__ == "__main__":
    import uvloop

    uvloop.run(_main())
