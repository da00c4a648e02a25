"""Server-sent events: bytes in, frames out, each frame with upstream's own bytes.

The rule: work on bytes, decode nothing, copy little. Source: WHATWG HTML, section 9.2 "Server-sent events".
Used by the pump (in), the edge and the simulator (out).

A frame keeps the lines that carry the event as they came, line endings included. Comments, `id:` and `retry:` lines are
left out: they belong to the connection, not to the event, and the official Python client fails on a comment that
follows an `id:`.
"""

import re

from msgspec import Struct

_BOM = b"\xef\xbb\xbf"
# An atomic group keeps CRLF whole: without it a lone CRLF would match as CR + LF, that is, as a blank line.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE = re.compile(rb"([^\r\n]*)(\r\n|\n|\r|$)")
# For blocks without a CR: there a search for two LFs and this pattern are several times faster than the general way.
_PLAIN = re.compile(rb"(?:event: ?(.*)\n)?data: ?(.*)\n\n")
_OF_THE_CONNECTION = frozenset({b"id", b"retry"})


class EventTooLarge(ValueError):
    """One event is larger than the decoder's limit; the stream cannot be followed further."""


class Frame(Struct, frozen=True):
    """One event as framed on the wire.

    `event` is the value of its `event:` line (empty if there is none), `data` its `data:` lines joined by LF, `raw` its
    own bytes up to and including the blank line.
    """

    event: bytes
    data: bytes
    raw: bytes


class Decoder:
    """Cuts a byte stream into frames, wherever the network cut it into chunks.

    `limit` is the largest event in bytes; `feed` raises `EventTooLarge` beyond it.
    """

    __slots__ = ("_buffer", "_carriage_returns", "_limit", "_scanned", "_started")

    def __init__(self, limit: int = 64 * 1024 * 1024) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._scanned = 0
        self._started = False
        self._carriage_returns = False

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take the next chunk, return the frames that it completes."""
        buffer = self._buffer
        buffer += chunk
        self._carriage_returns = self._carriage_returns or b"\r" in chunk
        if not self._started:
            if len(buffer) < len(_BOM) and _BOM.startswith(bytes(buffer)):
                return []
            if buffer.startswith(_BOM):
                del buffer[: len(_BOM)]
            self._started = True
        return self._cut(final=False)

    def end(self) -> list[Frame]:
        """Upstream closed: the frame whose blank line ended in a lone CR, if any. An unfinished event is discarded."""
        return self._cut(final=True)

    def _cut(self, *, final: bool) -> list[Frame]:
        buffer, frames, start = self._buffer, [], 0
        position = self._scanned
        while (stop := self._blank_line(position)) > 0:
            if stop == len(buffer) and buffer[stop - 1] == 0x0D and not final:
                break  # a CR at the very end may be half of a CRLF
            frame = _frame(bytes(buffer[start:stop]))
            if frame is not None:
                frames.append(frame)
            start = position = stop
        if start:
            del buffer[:start]
        self._scanned = max(0, len(buffer) - 3)
        # The events before it are not lost with it: it is refused when there is nothing else.
        if len(buffer) > self._limit and not frames:
            raise EventTooLarge(f"an event of more than {self._limit} bytes")
        return frames

    def _blank_line(self, position: int) -> int:
        """Where the next blank line after a position ends; 0: there is none yet."""
        if not self._carriage_returns:
            found = self._buffer.find(b"\n\n", position)
            return found + 2 if found >= 0 else 0
        boundary = _BLANK_LINE.search(self._buffer, position)
        return boundary.end() if boundary else 0


def _frame(block: bytes) -> Frame | None:
    if b"\r" not in block and (plain := _PLAIN.fullmatch(block)):
        return Frame(plain[1] or b"", plain[2], block)
    event, data, kept, whole = b"", [], [], True
    for line, _ in _LINE.findall(block.lstrip(b"\r\n")):
        name, _, value = line.partition(b":")
        if line and (not name or name in _OF_THE_CONNECTION):
            whole = False
            continue
        kept.append(line)
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            event = value
    if not data:
        return None
    if whole:
        return Frame(event, b"\n".join(data), block.lstrip(b"\r\n"))
    # Endings that a line stood between could join to another one: a CR and an LF are one ending.
    return Frame(event, b"\n".join(data), b"\n".join(filter(None, kept)) + b"\n\n")


def encode(event: str, data: bytes) -> bytes:
    """Frame one event. `data` is JSON: its line breaks are white space, so they become spaces."""
    one_line = data.replace(b"\r", b" ").replace(b"\n", b" ")
    return b"event: " + event.encode() + b"\ndata: " + one_line + b"\n\n"


def with_id(number: int, frame: bytes) -> bytes:
    """The frame with an `id:` line, for an EventSource, which hands it back as `Last-Event-ID`."""
    return b"id: %d\n%b" % (number, frame)


KEEPALIVE = b": keepalive\n\n"
"""A comment: every client ignores it, and no intermediary takes the connection for dead."""

DONE = b"data: [DONE]\n\n"
"""What ends a stream for clients of other servers; upstream does not send it."""
