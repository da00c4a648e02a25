"""Gateways and simulators as tests hold them: in this process, on free ports, with all that was observed."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import aiohttp
from aiohttp.test_utils import TestServer
from openai import AsyncOpenAI
from prometheus_client.parser import text_string_to_metric_families

from gateway.app import Gateway
from gateway.config import Address
from gateway.domain.facts import Fact
from gateway.simulator import Simulator

F = TypeVar("F")

PATIENCE_S = 60.0
"""For what must happen; a loaded machine may take its time."""

PREFIX = "responses_gateway_"
ANYWHERE = Address("127.0.0.1", 0)

# Scaled so that what takes minutes in production happens within a test.
QUICK: dict[str, Any] = {
    "listen": ANYWHERE,
    "ops_listen": ANYWHERE,
    "store": "memory://",
    "store_timeout_s": 60,
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


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""What a scrape shows: values by name, without the prefix of all, and labels."""


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
        client = AsyncOpenAI(
            api_key=key, base_url=f"{self.url}/v1", **{"max_retries": 0, "timeout": PATIENCE_S, **options}
        )
        self._clients.append(client)
        return client

    async def scrape(self) -> Samples:
        """A real scrape of the gateway's own metrics."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.ops_url}/metrics") as answer:
            families = text_string_to_metric_families(await answer.text())
        samples = [sample for family in families for sample in family.samples if sample.name.startswith(PREFIX)]
        return {(one.name.removeprefix(PREFIX), frozenset(one.labels.items())): one.value for one in samples}

    async def shown(self, name: str, **labels: str) -> float | None:
        """One value of a scrape; None where there is no such series."""
        return (await self.scrape()).get((name, frozenset(labels.items())))

    @property
    def connections(self) -> int:
        """How many connections of clients it has, used or not."""
        listener = self.gateway._clients
        assert listener is not None
        assert listener._runner.server is not None
        return len(listener._runner.server.connections)

    async def hang_up(self) -> None:
        """Close every client."""
        for client in self._clients:
            await client.close()
