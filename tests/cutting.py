"""A line that breaks: a TCP relay between clients and a server, which cuts connections where it is told to."""

import asyncio
import contextlib
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

Where = Literal["held", "headers", "body"]
"""An answer is held back until it is cut, or cut before its first byte, or when some of its body has passed."""
_OF_THE_BODY = 50


@dataclass(eq=False, slots=True)
class _Ends:
    """The two ends of a connection; `cuts` is where its answer is to be cut."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    cuts: Where | None

    def cut(self) -> None:
        """Both ends see a broken connection, and get nothing more of what was under way."""
        for end in (self.client, self.server):
            end.transport.abort()


@dataclass(slots=True)
class Cutting:
    """`url` is where it listens, `target` where it leads; `held` answers have come and are kept back.

    `cuts` says where the answers on the next connections are cut; on those after them nothing is. While it is not
    `passing`, connections are there and nothing comes through.
    """

    url: str
    target: str
    cuts: list[Where]
    held: int = 0
    passing: asyncio.Event = field(default_factory=asyncio.Event)
    _open: set[_Ends] = field(default_factory=set)

    def cut(self) -> None:
        """Cut every connection that is there now."""
        for ends in tuple(self._open):
            ends.cut()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection; where the target is not there, it is cut at once."""
        where = self.cuts.pop(0) if self.cuts else None
        target = urlsplit(self.target)
        try:
            from_server, to_server = await asyncio.open_connection(target.hostname, target.port)
        except OSError:
            writer.transport.abort()
            return
        ends = _Ends(writer, to_server, where)
        self._open.add(ends)
        try:
            await asyncio.gather(self._carry(reader, to_server), self._answer(from_server, ends))
        finally:
            self._open.discard(ends)
            ends.cut()

    async def _answer(self, reader: asyncio.StreamReader, ends: _Ends) -> None:
        if ends.cuts is not None:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                if ends.cuts == "body":
                    ends.client.write(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(_OF_THE_BODY))
                    await ends.client.drain()
                elif ends.cuts == "headers":
                    await reader.readexactly(1)
                else:
                    await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(1)
                    self.held += 1
            if ends.cuts == "held":
                with contextlib.suppress(ConnectionError):
                    await ends.client.wait_closed()
            ends.cut()
        await self._carry(reader, ends.client)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(1 << 16):
                await self.passing.wait()
                writer.write(piece)
                await writer.drain()
        if not writer.is_closing():
            writer.close()


async def cutting(parts: AsyncExitStack, target: str, *cuts: Where) -> Cutting:
    """A relay to the server at `target`; it stops after the test."""
    relay = Cutting("", target, list(cuts))
    relay.passing.set()
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0, limit=1 << 20)
    relay.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    parts.callback(relay.cut)
    parts.callback(server.close)
    return relay
