"""What the demo is played on: a simulated upstream and a gateway, each a process, a trace collector, SDK clients.

Everything listens on free ports of the loopback interface and writes into one temporary directory. Leaving the stage
ends the processes and removes the directory, whatever happened on it. Called by the demo alone.
"""

import asyncio
import json
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from yarl import URL

from gateway.telemetry.receiver import Received, Receiver

Found = TypeVar("Found")
KEY = "sk-demo"
"""The SDK's API key: any does for the simulated upstream."""
COMMAND = (sys.executable, "-m", "gateway")
_ANY_PORT = "127.0.0.1:0"
_START_S = 60.0
_STOP_S = 20.0
_EXPORT_S = 30.0
_LOOK_S = 0.02
_SIMULATED = re.compile(r"Simulated Responses API at (http\S+)")
# What a person has set for a gateway, an SDK or a network of theirs must not reach the demo's.
_NOT_OURS = re.compile(r"(GATEWAY|OTEL|OPENAI)_.*|.*_PROXY", re.IGNORECASE)


class Broken(Exception):
    """A part of the demo does not work at all; the message is one line."""


class Process:
    """A command of this program as a process of its own; what it writes goes to a file."""

    def __init__(self, log: Path, environ: Mapping[str, str]) -> None:
        self._log = log
        self._environ = environ
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *arguments: str, where: Callable[[str], Found | None]) -> Found:
        """Start it; what `where` finds in the first line in which it finds something.

        Raises `Broken` with what the process said instead.
        """
        begin = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            # A session of its own: Ctrl-C is the demo's, which then ends its processes.
            self._process = await asyncio.create_subprocess_exec(
                *COMMAND,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                start_new_session=True,
            )
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            ended = self._process.returncode is not None
            *lines, rest = self._log.read_bytes()[begin:].decode(errors="replace").split("\n")
            for line in lines:
                if (found := where(line)) is not None:
                    return found
            if ended:
                last = next((line for line in reversed([*lines, rest]) if line.strip()), "nothing")
                raise Broken(f"`{arguments[0]}` did not start; it said: {last.strip()}")
            await asyncio.sleep(_LOOK_S)
        raise Broken(f"`{arguments[0]}` did not listen within {_START_S:g} s")

    async def kill(self) -> None:
        """End it with SIGKILL, as `kill -9` does."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> int:
        """Ask it to end, with SIGTERM; its exit status. Raises `Broken` if it does not."""
        assert self._process is not None
        self._process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                return await self._process.wait()
        except TimeoutError:
            raise Broken(f"the process did not stop within {_STOP_S:g} s") from None


def _gateway_url(line: str) -> tuple[str, str] | None:
    """From the log line of a gateway that listens: where clients and operators find it."""
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return (said["url"], said["ops_url"]) if isinstance(said, dict) and said.get("event") == "listening" else None


def _simulator_url(line: str) -> str | None:
    found = _SIMULATED.fullmatch(line.strip())
    return found[1] if found else None


@dataclass(slots=True)
class Stage:
    """The parts while they run. URLs of the API end in `/v1`; `ops_url` is the operators'."""

    directory: Path
    gateway: Process
    gateway_url: str
    ops_url: str
    client: AsyncOpenAI
    """The SDK pointed at the gateway."""
    upstream_url: str
    upstream: AsyncOpenAI
    """The SDK pointed past the gateway, at upstream: what the gateway's answers are compared with."""
    collector: Receiver
    http: aiohttp.ClientSession
    serve_again: tuple[str, ...]
    remembered: dict[str, str] = field(default_factory=dict)
    """The ids of responses, by what happened to them."""

    async def restart(self) -> None:
        """Start the gateway again, on the same file and where clients know it."""
        _, self.ops_url = await self.gateway.start(*self.serve_again, where=_gateway_url)

    async def asked(self, method: str, path_contains: str) -> int:
        """How often upstream was asked for such paths, by whomever."""
        query = {"method": method, "path_contains": path_contains}
        return len(await self._json("GET", f"{self._world}/requests", params=query))

    async def skip(self, seconds: float) -> None:
        """Move the simulated upstream's clock ahead."""
        await self._json("POST", f"{self._world}/skip", json={"seconds": seconds})

    async def forget(self, response_id: str) -> None:
        """Let upstream forget a response."""
        await self._json("POST", f"{self._world}/forget/{response_id}")

    async def operators(self, path: str) -> Any:
        """What the gateway's operator API says."""
        return await self._json("GET", f"{self.ops_url}{path}")

    async def metrics(self) -> str:
        """A scrape, as Prometheus gets it."""
        async with self.http.get(f"{self.ops_url}/metrics") as answer:
            answer.raise_for_status()
            return await answer.text()

    async def trace(self, trace_id: str, names: Collection[str]) -> Sequence[Received]:
        """The spans of a trace, once spans of all these names are there. Raises `Broken` if they do not come."""
        spans: Sequence[Received] = ()
        until = time.monotonic() + _EXPORT_S
        while time.monotonic() < until:
            spans = self.collector.trace(trace_id)
            if not set(names) - {span.name for span in spans}:
                return spans
            await asyncio.sleep(_LOOK_S)
        raise Broken(f"of {', '.join(names)} only {', '.join(span.name for span in spans) or 'nothing'} was exported")

    def on_disk(self, text: str) -> bool:
        """Whether a text is in any file of the demo: the gateway's store, and all logs."""
        return any(text.encode() in file.read_bytes() for file in self.directory.iterdir())

    @property
    def _world(self) -> str:
        return str(URL(self.upstream_url).with_path("/_simulator"))

    async def _json(self, method: str, url: str, **how: Any) -> Any:
        async with self.http.request(method, url, **how) as answer:
            answer.raise_for_status()
            return await answer.json(content_type=None)


@asynccontextmanager
async def set_up(environ: Mapping[str, str]) -> AsyncIterator[Stage]:
    """Everything running; ended and removed on the way out. Raises `Broken`."""
    clean = {name: value for name, value in environ.items() if not _NOT_OURS.fullmatch(name)}
    async with AsyncExitStack() as parts:
        directory = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="responses-gateway-demo-")))
        collector = Receiver()
        exporting = {"OTEL_EXPORTER_OTLP_ENDPOINT": await collector.start(), "OTEL_BSP_SCHEDULE_DELAY": "200"}
        parts.push_async_callback(collector.close)
        simulator = Process(directory / "simulator.log", clean)
        gateway = Process(directory / "gateway.log", {**clean, **exporting})
        parts.push_async_callback(simulator.kill)
        parts.push_async_callback(gateway.kill)
        upstream_url = await simulator.start("simulate", "--listen", _ANY_PORT, where=_simulator_url)
        serve = (
            *("serve", "--upstream", upstream_url, "--store", f"sqlite:///{directory / 'responses.db'}"),
            *("--ops-listen", _ANY_PORT, "--log-format", "json", "--drain-delay-s", "0"),
        )
        url, ops_url = await gateway.start(*serve, "--listen", _ANY_PORT, where=_gateway_url)
        gateway_url = f"{url}/v1"
        yield Stage(
            directory=directory,
            gateway=gateway,
            gateway_url=gateway_url,
            ops_url=ops_url,
            client=await parts.enter_async_context(_sdk(gateway_url)),
            upstream_url=upstream_url,
            upstream=await parts.enter_async_context(_sdk(upstream_url)),
            collector=collector,
            http=await parts.enter_async_context(aiohttp.ClientSession()),
            serve_again=(*serve, "--listen", URL(url).authority),
        )


def _sdk(base_url: str) -> AsyncOpenAI:
    # A proxy that is set for the internet is not asked for loopback; retries of the SDK's own would blur the counts.
    http = DefaultAsyncHttpxClient(trust_env=False)
    return AsyncOpenAI(api_key=KEY, base_url=base_url, max_retries=0, http_client=http)
