"""HTTP as bytes: an upstream that follows a script, a client that types, and a cable that is read along and cut."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

PATIENCE_S = 60.0
"""For what must happen; a loaded machine may take its time."""


@dataclass(slots=True)
class Line:
    """One end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> bytes:
        """Everything up to the empty line."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def exactly(self, size: int) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readexactly(size)

    async def rest(self) -> bytes:
        """Everything up to the connection's end, which may be a reset."""
        data = b""
        async with asyncio.timeout(PATIENCE_S):
            try:
                while piece := await self.reader.read(1 << 16):
                    data += piece
            except ConnectionError:
                pass
        return data

    def close(self) -> None:
        self.writer.close()


@dataclass(slots=True)
class Asked(Line):
    """A request that reached the scripted upstream, and the line to answer on."""

    start: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def header(self, name: bytes) -> list[bytes]:
        return [value for found, value in self.headers if found.lower() == name]


Script = Callable[[Asked], Awaitable[None]]


@dataclass(slots=True)
class ScriptedUpstream:
    """`url` ends in a base path, `asked` are the requests that came, `closed` the count of lines that are over."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    lines_closed: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))


async def scripted_upstream(parts: AsyncExitStack, script: Script) -> ScriptedUpstream:
    """An upstream that reads each request's head and then does what `script` says; the line is closed after it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            start, *lines = (await reader.readuntil(b"\r\n\r\n")).rstrip(b"\r\n").split(b"\r\n")
            headers = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
            asked = Asked(reader, writer, start, headers)
            upstream.asked.append(asked)
            await script(asked)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the gateway left, which is what some stories are about
        finally:
            writer.close()
            upstream.lines_closed.release()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    parts.callback(server.close)
    upstream = ScriptedUpstream(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/base")
    return upstream


def answering(data: bytes) -> Script:
    """A script that sends these bytes."""

    async def script(asked: Asked) -> None:
        await asked.send(data)

    return script


async def dial(parts: AsyncExitStack, url: str) -> Line:
    """A client's connection to a gateway."""
    parts_of = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts_of.hostname, parts_of.port, limit=1 << 20)
    parts.callback(writer.close)
    return Line(reader, writer)


async def exchange(parts: AsyncExitStack, url: str, request: bytes) -> bytes:
    """Send one request on a line of its own, which the gateway is asked to close; everything that came back."""
    line = await dial(parts, url)
    await line.send(request)
    return await line.rest()


_NAME = re.compile(rb"x-gateway-request-id: [0-9a-f]{32}\r\n")


def unnamed(answer: bytes) -> bytes:
    """An answer as upstream gave it: less the name that the gateway gave the request, which must be there once."""
    assert len(_NAME.findall(answer.partition(b"\r\n\r\n")[0] + b"\r\n")) == 1, answer
    return _NAME.sub(b"", answer)


@dataclass(slots=True)
class Passed:
    """What passed in one connection, both ways."""

    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class Cable:
    """A line to a server: `url` is the server's by way of it, `passed` what went through, connection by connection."""

    url: str
    passed: list[Passed] = field(default_factory=list)
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> int:
        """Reset every open connection, at both ends; how many ends that were."""
        ends = [writer for writer in self._open if not writer.is_closing()]
        for writer in ends:
            writer.transport.abort()
        return len(ends)

    async def carry(self, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either end closes it."""
        there, back = await asyncio.open_connection(host, port)
        passed = Passed()
        self.passed.append(passed)
        self._open |= {writer, back}
        try:
            await asyncio.gather(_pass_on(reader, back, passed.up), _pass_on(there, writer, passed.down))
        finally:
            self._open -= {writer, back}


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, noted: bytearray) -> None:
    try:
        while data := await reader.read(1 << 16):
            noted += data
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # cut, here or there
    finally:
        writer.close()


async def cable_to(parts: AsyncExitStack, url: str) -> Cable:
    """A cable to the server at `url`; it is taken down after the test."""
    there = urlsplit(url)
    host, port = there.hostname or "", there.port or 0
    server = await asyncio.start_server(lambda reader, writer: cable.carry(host, port, reader, writer), "127.0.0.1", 0)
    parts.callback(server.close)
    cable = Cable(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{there.path}")
    parts.callback(cable.cut)
    return cable


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def error_of(answer: bytes) -> dict[str, Any]:
    """The error of an answer in OpenAI's shape; fails on any other answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower(), answer
    error: dict[str, Any] = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in error["message"]
    return error


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def framed(*events: dict[str, Any]) -> bytes:
    """Events as upstream frames them."""
    frames = [b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event).encode()) for event in events]
    return b"".join(frames)


def json_answer(value: object, status: int = 200) -> bytes:
    """An answer with a JSON body, after which the line is closed."""
    body = json.dumps(value).encode()
    head = b"HTTP/1.1 %d -\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return head % (status, len(body)) + body


async def body_of(asked: Asked) -> bytes:
    """A request's body that has a length."""
    return await asked.exactly(int((asked.header(b"content-length") or [b"0"])[0]))
