"""Real parts for tests: a simulator and gateways on free ports, in this process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiohttp.test_utils import TestServer
from openai import AsyncOpenAI

from gateway.app import Gateway
from gateway.config import Address, Settings
from gateway.domain.facts import Fact
from gateway.simulator import Simulator

F = TypeVar("F")

PATIENCE_S = 60.0
"""For what must happen; a loaded machine may take its time."""

ANYWHERE = Address("127.0.0.1", 0)

# Scaled so that what takes minutes in production happens within a test.
QUICK: dict[str, Any] = {
    "listen": ANYWHERE,
    "ops_listen": ANYWHERE,
    "store": "memory://",
    "poll_schedule_s": (0.05, 0.1, 0.2),
    "poll_max_age_s": 0.1,
    "poll_waiting_s": 0.1,
    "lost_after_s": 0.2,
    "upstream_retry_max_s": 0.2,
    "drain_delay_s": 0,
    "drain_s": 5,
}


class Recorder:
    """Every fact that a gateway emitted, in order."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self._more = asyncio.Event()

    def __call__(self, fact: Fact) -> None:
        self.facts.append(fact)
        self._more.set()

    def of(self, kind: type[F]) -> list[F]:
        """The facts of one kind."""
        return [fact for fact in self.facts if isinstance(fact, kind)]

    async def wait_for(self, kind: type[F], matching: Callable[[F], bool] = lambda fact: True) -> F:
        """The first fact of a kind that matches, as soon as it is there."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                self._more.clear()
                for fact in self.of(kind):
                    if matching(fact):
                        return fact
                await self._more.wait()


class Upstream:
    """A simulator that listens."""

    def __init__(self, simulator: Simulator, server: TestServer) -> None:
        self.simulator = simulator
        self.server = server
        self.url = f"http://{server.host}:{server.port}/v1"

    def asked(self, method: str, path: str) -> int:
        """How often it was asked for paths that contain `path`."""
        return sum(seen.method == method and path in seen.path for seen in self.simulator.requests)

    async def numbers_of(self, response_id: str, key: str = "sk-test") -> list[int]:
        """The numbers of an uncut run: upstream's own replay."""
        async with AsyncOpenAI(api_key=key, base_url=self.url, max_retries=0) as client:
            replay = await client.responses.retrieve(response_id, stream=True)
            return [event.sequence_number async for event in replay]


class Running:
    """A gateway that listens, and what it observed."""

    def __init__(self, gateway: Gateway, recorder: Recorder) -> None:
        self.gateway = gateway
        self.facts = recorder
        self.url = gateway.url
        self.ops_url = gateway.ops_url
        self._clients: list[AsyncOpenAI] = []

    def client(self, key: str = "sk-test", **options: Any) -> AsyncOpenAI:
        """The real SDK, pointed at the gateway; closed after the test."""
        client = AsyncOpenAI(api_key=key, base_url=f"{self.url}/v1", **{"max_retries": 0, **options})
        self._clients.append(client)
        return client

    async def hang_up(self) -> None:
        """Close every client."""
        for client in self._clients:
            await client.close()


@pytest.fixture
async def parts() -> AsyncIterator[AsyncExitStack]:
    """Whatever a test starts, stopped in reverse order."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Every store in turn, as the setting `store` names it."""
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/responses.db"


@pytest.fixture
def simulate(parts: AsyncExitStack) -> Callable[..., Awaitable[Upstream]]:
    """Start a simulator; `speed` makes simulated time pass faster."""

    async def start(**options: Any) -> Upstream:
        simulator = Simulator(**{"speed": 20.0, **options})
        server = TestServer(simulator.app())
        await server.start_server()
        parts.push_async_callback(server.close)
        return Upstream(simulator, server)

    return start


@pytest.fixture
def stage(
    simulate: Callable[..., Awaitable[Upstream]], gateway_for: Callable[..., Awaitable[Running]], store: str
) -> Callable[..., Awaitable[tuple[Upstream, Running]]]:
    """Start a simulator (with the options `simulated`) and a gateway in front of it, over every store in turn."""

    async def start(*, simulated: dict[str, Any] | None = None, **settings: Any) -> tuple[Upstream, Running]:
        upstream = await simulate(**(simulated or {}))
        return upstream, await gateway_for(upstream.url, **{"store": store, **settings})

    return start


@pytest.fixture
def gateway_for(parts: AsyncExitStack) -> Callable[..., Awaitable[Running]]:
    """Start a gateway in front of an upstream URL, with settings; it is stopped after the test."""

    async def start(upstream: str, **settings: Any) -> Running:
        environ = settings.pop("environ", {})
        recorder = Recorder()
        gateway = Gateway(Settings(upstream=upstream, **{**QUICK, **settings}), observer=recorder, environ=environ)
        await gateway.start()
        running = Running(gateway, recorder)
        parts.push_async_callback(gateway.stop)
        parts.push_async_callback(running.hang_up)
        return running

    return start
