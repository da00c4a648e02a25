"""An HTTP/1.1 client that costs next to nothing, so that what is measured is the other end.

Rule: just enough for the answers that these benchmarks get. What is not understood fails the run, never a number.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from time import monotonic_ns
from typing import Self, cast

HOST = "127.0.0.1"
_BLANK_LINE = b"\r\n\r\n"
_CREDENTIAL = "Authorization: Bearer sk-benchmark"


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """A request as an SDK would send it, give or take a few headers."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n{_CREDENTIAL}\r\nAccept: application/json\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class WrongAnswer(Exception):
    """An answer that the run cannot go on from."""


class Line(asyncio.Protocol):
    """One connection, one request at a time. `on_body` is given each piece of a body, `on_end` its end.

    `ended` is done when the connection is: with the error, if there was one.
    """

    def __init__(self, on_body: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        self._on_body = on_body
        self._on_end = on_end
        self._rest = b""
        self._left = -1  # bytes of the body or chunk to come; -1: a head is next
        self._chunked = False
        self._transport: asyncio.Transport
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, port: int, on_body: Callable[[bytes], None], on_end: Callable[[], None]) -> Self:
        """Connect."""
        _, line = await asyncio.get_running_loop().create_connection(lambda: cls(on_body, on_end), HOST, port)
        return line

    def send(self, message: bytes) -> None:
        """Send a request; the one before must have been answered."""
        self._transport.write(message)

    def close(self) -> None:
        """Leave."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone."""
        if not self.ended.done():
            if exc is not None or self._left >= 0:
                self.ended.set_exception(exc or WrongAnswer("The connection broke inside an answer."))
            else:
                self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Bytes."""
        self._rest = self._rest + data if self._rest else data
        try:
            while self._rest and self._advance():
                pass
        except Exception as error:
            if not self.ended.done():
                self.ended.set_exception(error)
            self._transport.abort()

    def _advance(self) -> bool:
        """Take one part of what is there; False: more is needed."""
        if self._left < 0:
            return self._head()
        if self._left > 0:
            piece, self._rest = self._rest[: self._left], self._rest[self._left :]
            self._left -= len(piece)
            self._on_body(piece)
            if not self._left and not self._chunked:
                self._finish()
            return True
        return self._chunk_size()

    def _head(self) -> bool:
        head, found, rest = self._rest.partition(_BLANK_LINE)
        if not found:
            return False
        lines = head.lower()
        if not lines.startswith(b"http/1.1 200"):
            raise WrongAnswer(f"{head.splitlines()[0].decode()}: {rest[:300].decode(errors='replace')}")
        self._rest = rest
        self._chunked = b"\r\ntransfer-encoding: chunked" in lines
        if self._chunked:
            self._left = 0
            return True
        _, found, value = lines.partition(b"\r\ncontent-length:")
        if not found:
            raise WrongAnswer("The answer does not say where it ends.")
        self._left = int(value.partition(b"\r\n")[0])
        if not self._left:
            self._finish()
        return True

    def _chunk_size(self) -> bool:
        start = 2 if self._rest.startswith(b"\r\n") else 0
        end = self._rest.find(b"\r\n", start)
        if end < 0:
            return False
        size = int(self._rest[start:end], 16)
        if size == 0:
            if len(self._rest) < end + 4:
                return False
            self._rest = self._rest[end + 4 :]
            self._finish()
            return True
        self._rest = self._rest[end + 2 :]
        self._left = size
        return True

    def _finish(self) -> None:
        self._left = -1
        self._on_end()


@dataclass(slots=True)
class Asking:
    """A closed loop: so many connections, each sending the next request when the last was answered."""

    port: int
    requests: Iterator[bytes]
    answered: int = 0
    _stopped: bool = False
    _lines: list[Line] = field(default_factory=list)

    async def start(self, connections: int) -> None:
        """Connect and begin."""
        for at in range(connections):
            self._lines.append(await Line.open(self.port, _ignore, partial(self._next, at)))
        for line in self._lines:
            line.send(next(self.requests))

    async def stop(self) -> None:
        """Send nothing more, and wait for what was sent. Raises what went wrong on any connection."""
        self._stopped = True
        async with asyncio.timeout(30):
            await asyncio.gather(*(line.ended for line in self._lines))

    def _next(self, at: int) -> None:
        self.answered += 1
        if self._stopped:
            self._lines[at].close()
        else:
            self._lines[at].send(next(self.requests))


@dataclass(slots=True)
class Pacing:
    """An open loop: so many requests per second, whether or not those before were answered.

    `taken_ns`: how long each took, from when it was due (CLOCK_MONOTONIC): one that waits for a connection to be free
    has waited for an answer.
    """

    port: int
    message: bytes
    per_s: float
    taken_ns: list[int] = field(default_factory=list)
    _idle: list[int] = field(default_factory=list)
    _due_ns: deque[int] = field(default_factory=deque)
    _sent_ns: dict[int, int] = field(default_factory=dict)
    _lines: list[Line] = field(default_factory=list)
    _next: asyncio.TimerHandle | None = None

    async def start(self, connections: int) -> None:
        """Connect and begin."""
        for at in range(connections):
            self._lines.append(await Line.open(self.port, _ignore, partial(self._answered, at)))
        self._idle = list(range(connections))
        self._tick(asyncio.get_running_loop().time())

    async def stop(self) -> None:
        """Send nothing more, and wait for what was sent. Raises what went wrong on any connection."""
        if self._next is not None:
            self._next.cancel()
        async with asyncio.timeout(30):
            while self._due_ns or self._sent_ns:
                await asyncio.wait([line.ended for line in self._lines], timeout=0.05)
                if broken := [line.ended for line in self._lines if line.ended.done()]:
                    await broken[0]
        for line in self._lines:
            line.close()

    def _tick(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        self._due_ns.append(int(due * 1e9))
        self._send()
        self._next = loop.call_at(due + 1 / self.per_s, self._tick, due + 1 / self.per_s)

    def _send(self) -> None:
        while self._idle and self._due_ns:
            at = self._idle.pop()
            self._sent_ns[at] = self._due_ns.popleft()
            self._lines[at].send(self.message)

    def _answered(self, at: int) -> None:
        self.taken_ns.append(monotonic_ns() - self._sent_ns.pop(at))
        self._idle.append(at)
        self._send()


def _ignore(_: bytes) -> None:
    pass


async def ask(port: int, message: bytes) -> bytes:
    """The body of one answer."""
    pieces: list[bytes] = []
    done = asyncio.get_running_loop().create_future()
    line = await Line.open(port, pieces.append, lambda: done.set_result(None))
    line.send(message)
    try:
        async with asyncio.timeout(60):
            await asyncio.wait((done, line.ended), return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                await line.ended
    finally:
        line.close()
    return b"".join(pieces)


_EVENT_END = b"\n\n"
_SENT = b'"sent":"'
_DIGITS = 19


class Following:
    """One stream that is read: how many events have come, and if `timed` how long each was under way (ns).

    `done` is set at the end of the stream, with an error if it is not the end of a response.
    """

    def __init__(self, *, timed: bool = False) -> None:
        self.events = 0
        self.delays_ns: list[int] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.head = b""
        self._end = b""
        self._timed = timed
        self._line: Line

    async def start(self, port: int, message: bytes) -> None:
        """Send the request for the stream."""
        self._line = await Line.open(port, self._body, self._ended)
        self._line.ended.add_done_callback(self._lost)
        self._line.send(message)

    def close(self) -> None:
        """Leave."""
        self._line.close()

    def _body(self, piece: bytes) -> None:
        if not self.events:
            self.head += piece
        piece = self._end + piece
        self.events += piece.count(_EVENT_END)
        if self._timed:
            self._time(piece)
        # The rest of an event that is not whole yet; a blank line that was counted must not be counted again.
        self._end = piece[piece.rfind(_EVENT_END) + 2 :] if _EVENT_END in piece else piece
        if self.events and not self.begun.done():
            self.begun.set_result(None)

    def _time(self, piece: bytes) -> None:
        now = monotonic_ns()
        end = piece.rfind(_EVENT_END)
        at = piece.find(_SENT, 0, max(end, 0))
        while at >= 0:
            start = at + len(_SENT)
            self.delays_ns.append(now - int(piece[start : start + _DIGITS]))
            at = piece.find(_SENT, start, end)

    def _ended(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self._line.close()

    def _lost(self, ended: "asyncio.Future[None]") -> None:
        error = ended.exception() or WrongAnswer("The stream broke off.")
        for waiter in (self.begun, self.done):
            if not waiter.done():
                waiter.set_exception(error)
                waiter.exception()
