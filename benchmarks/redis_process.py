"""A Redis for a measurement: on a socket, with a file that is synced each second."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Redis:
    """A server that runs."""

    pid: int
    url: str


@asynccontextmanager
async def redis(folder: Path, program: str) -> AsyncIterator[Redis]:
    """Start a server in a folder of its own; it is killed in the end."""
    place = folder / f"redis-{time.monotonic_ns()}"
    place.mkdir()
    socket = place / "redis.sock"
    options = ("--port", "0", "--unixsocket", str(socket), "--dir", str(place), "--save", "", "--appendonly", "yes")
    server = await asyncio.create_subprocess_exec(program, *options, stdout=subprocess.DEVNULL)
    try:
        while not socket.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        yield Redis(server.pid, f"unix://{socket}")
    finally:
        server.kill()
        await server.wait()
