"""No context is ever made current, so none can fail to be taken back, in whichever task or moment a stream ends.

The same stories are told of a server that traces its streams the usual way, so that it is known what they would show.
"""

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from collecting import Collector
from opentelemetry.sdk.trace import TracerProvider
from running import PATIENCE_S, Running, Upstream
from stories import KEY, ask, job, until

from gateway.domain.facts import Attached, Detached, Ended
from gateway.store.follow import follow

BIG = 8_000_000
"""More than fits into what lies between a server and a client that does not read."""


@pytest.fixture
def complaints(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What OpenTelemetry's context has logged so far."""
    caplog.set_level(logging.DEBUG)
    return lambda: [record.getMessage() for record in caplog.records if record.name == "opentelemetry.context"]


async def leaves_in_the_middle(url: str, body: dict[str, Any]) -> None:
    """Reads a little of a large stream and is gone, while the server waits for room to write more."""
    async with aiohttp.ClientSession() as http, http.post(url, json=body, headers=KEY) as answer:
        await answer.content.readexactly(100)


async def reads_to_the_end(url: str, body: dict[str, Any]) -> None:
    async with aiohttp.ClientSession() as http, http.post(url, json=body, headers=KEY) as answer:
        while await answer.content.readany():
            pass


async def collected(true: Callable[[], object]) -> None:
    """Wait for what only the collection of garbage brings about."""
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            gc.collect()
            await asyncio.sleep(0.01)


Tracer = Any


async def traced_as_usual(tracer: Tracer) -> AsyncIterator[bytes]:
    with tracer.start_as_current_span("stream"):
        while True:
            yield b"x" * 2**20


async def usual_server(parts: AsyncExitStack, tracer: Tracer, left: list[str]) -> str:
    async def serve(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            async for piece in traced_as_usual(tracer):
                await answer.write(piece)
        finally:
            left.append("left")
        return answer

    app = web.Application()
    app.router.add_post("/", serve)
    server = TestServer(app, handler_cancellation=True)
    await server.start_server()
    parts.push_async_callback(server.close)
    return f"http://{server.host}:{server.port}/"


async def test_the_usual_way_loses_its_context_when_a_client_leaves(
    parts: AsyncExitStack, complaints: Callable[[], list[str]]
) -> None:
    left: list[str] = []
    url = await usual_server(parts, TracerProvider(shutdown_on_exit=False).get_tracer("usual"), left)
    await leaves_in_the_middle(url, {})
    await until(lambda: left)
    await collected(complaints)
    assert set(complaints()) == {"Failed to detach context"}


async def test_the_usual_way_loses_it_where_another_task_closes_the_stream(complaints: Callable[[], list[str]]) -> None:
    stream = traced_as_usual(TracerProvider(shutdown_on_exit=False).get_tracer("usual"))
    await asyncio.create_task(anext(stream))  # type: ignore[arg-type]
    await asyncio.create_task(stream.aclose())  # type: ignore[attr-defined]
    assert complaints() == ["Failed to detach context"]


@pytest.fixture
async def collector(parts: AsyncExitStack) -> Collector:
    collector = Collector()
    parts.push_async_callback(collector.close)
    await collector.open()
    return collector


async def test_however_streams_end_no_context_is_lost_and_no_span_is_lost_or_told_twice(
    parts: AsyncExitStack,
    simulate: Callable[..., Awaitable[Upstream]],
    gateway_for: Callable[..., Awaitable[Running]],
    collector: Collector,
    complaints: Callable[[], list[str]],
) -> None:
    upstream = await simulate()
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "10"}
    gateway = await gateway_for(upstream.url, environ=environ, linger_s=60)
    url = f"{gateway.url}/v1/responses"
    big = {**ask("big", bytes=BIG), "stream": True}

    await leaves_in_the_middle(url, big)
    await leaves_in_the_middle(url, {**big, "background": True})
    await reads_to_the_end(url, job())
    await reads_to_the_end(url, {**ask(), "stream": True})
    # Readers that the gateway cuts: their tasks are cancelled by another one.
    cut = [asyncio.create_task(reads_to_the_end(url, job("stalls"))) for _ in range(3)]
    await until(lambda: len(gateway.facts.of(Attached)) == 7)
    gateway.gateway.context.tracker.cut_background_readers()
    await asyncio.gather(*cut, return_exceptions=True)
    # Readings that are closed by another task, or left to be collected.
    store = gateway.gateway.store
    key = gateway.facts.of(Attached)[-1].response.key
    for _ in range(3):
        reading = follow(store, key, -1, heartbeat_s=60)
        await asyncio.create_task(anext(reading))  # type: ignore[arg-type]
        await asyncio.create_task(reading.aclose())  # type: ignore[attr-defined]
        forgotten = follow(store, key, -1, heartbeat_s=60)
        await anext(forgotten)
        del forgotten
    gc.collect()

    await until(lambda: len(gateway.facts.of(Detached)) == 7)
    await until(lambda: len(gateway.facts.of(Ended)) == 4)
    await collector.until(lambda: len(collector.named("stream")) == 7)
    with suppress(aiohttp.ClientError):
        await gateway.gateway.stop()
    names = Counter(span.name for span in collector.spans)
    assert (names["POST /v1/responses"], names["chat gpt-5.2"], names["stream"], names["POST"]) == (7, 4, 7, 7)
    assert set(Counter(span.span_id for span in collector.spans).values()) == {1}
    assert complaints() == []
