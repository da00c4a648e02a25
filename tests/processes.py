"""The gateway as a user runs it: a process of its own, which can be told to stop, or killed."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from openai import AsyncOpenAI
from running import PATIENCE_S

START_S = 60.0
T = TypeVar("T")


class Process:
    """A running `responses-gateway serve`."""

    def __init__(self, process: asyncio.subprocess.Process, started: dict[str, Any]) -> None:
        self._process = process
        self.lines: list[dict[str, Any]] = []
        """What it has written since it listens."""
        self._listening = asyncio.ensure_future(self._listen())
        self.url: str = started["url"]
        self.ops_url: str = started["ops_url"]
        self._clients: list[AsyncOpenAI] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, key: str = "sk-test") -> AsyncOpenAI:
        """The real SDK, pointed at it."""
        client = AsyncOpenAI(api_key=key, base_url=f"{self.url}/v1", max_retries=0)
        self._clients.append(client)
        return client

    async def close(self) -> None:
        """End it, whatever its state, and every client of it."""
        for client in self._clients:
            await client.close()
        await self.kill()

    async def kill(self) -> None:
        """As kill -9 does."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._listening
        await self._process.wait()

    def send(self, signal: int) -> None:
        self._process.send_signal(signal)

    def tell_to_stop(self) -> None:
        self.send(signal.SIGTERM)

    async def stopped(self) -> int:
        """The exit status, once it is there."""
        async with asyncio.timeout(START_S):
            await self._listening
            return await self._process.wait()

    async def _listen(self) -> None:
        """To the end: where nobody reads what it writes, its lines are lost."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            with suppress(ValueError):  # half a line of one that was killed
                self.lines.append(json.loads(line))


async def serve(
    upstream: str, store: str, *, port: int = 0, environ: Mapping[str, str] | None = None, **settings: object
) -> Process:
    """Start a gateway and wait until it listens. `environ`: further variables."""
    flags = {"upstream": upstream, "store": store, "listen": f"127.0.0.1:{port}", "ops_listen": "127.0.0.1:0"}
    arguments = [
        part
        for name, value in {**flags, "log_format": "json", **settings}.items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    return await started(sys.executable, "-m", "gateway", "serve", *arguments, environ=environ)


async def started(*command: str, environ: Mapping[str, str] | None = None) -> Process:
    """The gateway that a command starts, once it listens; it has to write its lines as JSON."""
    env = {**os.environ, **(environ or {})}
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=env)
    assert process.stdout is not None
    async with asyncio.timeout(START_S):
        while line := await process.stdout.readline():
            said = json.loads(line)
            if said.get("event") == "listening":
                return Process(process, said)
    raise AssertionError(f"the gateway did not start: exit status {await process.wait()}")


async def eventually(look: Callable[[], Awaitable[T]], true: Callable[[T], bool]) -> T:
    """Look until it is true: another process announces nothing."""
    async with asyncio.timeout(PATIENCE_S):
        while not true(seen := await look()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return seen
