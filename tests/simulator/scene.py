"""A simulator, the official client and a plain HTTP client, for the stories about the simulator."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp.test_utils import TestServer
from openai import AsyncOpenAI

from gateway.simulator import Simulator

NOON = 1_790_000_000.0
KEY = "sk-test-alice"
ASK = {"model": "gpt-5.2", "input": "What did the tide bring?"}
STREAMED = {**ASK, "background": True, "stream": True}
FUNCTION = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}


@dataclass
class Scene:
    simulator: Simulator
    server: TestServer
    client: AsyncOpenAI
    http: aiohttp.ClientSession

    def another(self, key: str = KEY, base: str = "/v1", **options: Any) -> AsyncOpenAI:
        return self.client.with_options(api_key=key, base_url=str(self.server.make_url(base)), **options)

    async def get(self, path: str, **options: Any) -> tuple[aiohttp.ClientResponse, Any]:
        return await self.call("GET", path, **options)

    async def call(self, method: str, path: str, **options: Any) -> tuple[aiohttp.ClientResponse, Any]:
        options = {"headers": {"Authorization": f"Bearer {KEY}"}, **options}
        async with self.http.request(method, self.server.make_url(path), **options) as answer:
            return answer, json.loads(await answer.read())


@asynccontextmanager
async def staged(**options: Any) -> AsyncIterator[Scene]:
    simulator = Simulator(**{"clock": lambda: NOON, **options})
    async with (
        TestServer(simulator.app()) as server,
        AsyncOpenAI(base_url=str(server.make_url("/v1")), api_key=KEY, max_retries=0) as client,
        aiohttp.ClientSession() as http,
    ):
        yield Scene(simulator, server, client, http)


def iter_clock() -> Any:
    """A clock that moves on by a microsecond (1000 simulated seconds) each time it is read."""
    reads = iter(range(10**9))
    return lambda: NOON + next(reads) * 1e-6


async def all_of(stream: Any) -> list[dict[str, Any]]:
    return [event.to_dict() async for event in stream]


async def until_cut(stream: Any) -> list[dict[str, Any]]:
    """What came before the connection broke; fails if it did not break."""
    events = []
    try:
        async for event in stream:
            events.append(event.to_dict())
    except openai.APIConnectionError:
        return events
    pytest.fail("the stream came to a proper end")


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def numbers(events: list[dict[str, Any]]) -> list[int]:
    return [event["sequence_number"] for event in events]


async def finished_stream(at: Scene, **more: Any) -> list[dict[str, Any]]:
    """All the events of a background stream."""
    stream = await at.client.responses.create(**STREAMED, **more)
    at.simulator.skip(60)
    return await all_of(stream)


def acting(name: str, **settings: Any) -> dict[str, Any]:
    return {"metadata": {"scenario": name, **{key: str(value) for key, value in settings.items()}}}


async def raw_request(at: Scene, body: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A create over a bare connection, once the simulator is at work on it."""
    raw = json.dumps(body).encode()
    head = f"POST /v1/responses HTTP/1.1\r\nHost: simulator\r\nContent-Length: {len(raw)}\r\n\r\n"
    reader, writer = await asyncio.open_connection(at.server.host, at.server.port)
    writer.write(head.encode() + raw)
    await eventually(at.simulator.connections)
    return reader, writer


async def eventually(condition: Callable[[], object]) -> None:
    """Return once it is so, in the server of this same loop."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)
