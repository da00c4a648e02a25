"""A line to a Redis that loses answers, or is cut off for a while: a TCP relay that a test rules."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class LossyLine:
    """`port` is where it listens. `lose` answers more are lost, with their connections; `down`: nobody gets through."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.lose = 0
        self.lost = 0
        self.down = False
        self._target = target
        self._ends: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Every connection breaks."""
        for end in tuple(self._ends):
            end.transport.abort()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["LossyLine"]:
        """Listen until the end of the block."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.down:
            writer.transport.abort()
            return
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        ends = {writer, to_server}
        self._ends |= ends
        try:
            await asyncio.gather(self._carry(reader, to_server), self._answer(from_server, writer))
        finally:
            for end in ends:
                end.transport.abort()
            self._ends -= ends

    async def _carry(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                to.write(data)
        to.transport.abort()

    async def _answer(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                if self.lose:
                    self.lose -= 1
                    self.lost += 1
                    break
                to.write(data)
        to.transport.abort()
