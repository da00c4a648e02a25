"""A crowd of live background responses, and an upstream that counts the polls it gets for them."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from running import Upstream
from stories import KEY, STILL, ask

from gateway.simulator import Simulator

_AT_ONCE = 50


class Polls:
    """What upstream was asked about responses, and when (loop time)."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.asked: set[str] = set()

    def forget(self) -> None:
        """Count from here on."""
        self.times.clear()
        self.asked.clear()

    def most_within(self, seconds: float) -> int:
        """In the worst of all times of this length, wherever they begin."""
        window: deque[float] = deque()
        most = 0
        for at in self.times:
            window.append(at)
            while at - window[0] >= seconds:
                window.popleft()
            most = max(most, len(window))
        return most


async def counting_upstream(parts: AsyncExitStack) -> tuple[Upstream, Polls]:
    """A simulator whose responses stay queued, and what it is asked about them."""
    polls = Polls()

    @web.middleware
    async def note(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.method == "GET":
            polls.times.append(time.monotonic())
            polls.asked.add(request.path)
        return await handler(request)

    simulator = Simulator(**STILL)
    app = simulator.app()
    app.middlewares.insert(0, note)
    server = TestServer(app)
    await server.start_server()
    parts.push_async_callback(server.close)
    return Upstream(simulator, server), polls


async def gather_crowd(count: int, *urls: str) -> None:
    """So many background responses, made by the gateways at these addresses in turn."""
    places = iter([urls[number % len(urls)] for number in range(count)])
    async with aiohttp.ClientSession(headers=KEY) as http:

        async def one_after_the_other() -> None:
            for url in places:
                async with http.post(f"{url}/v1/responses", json={**ask(), "background": True}) as answer:
                    assert answer.status == 200, await answer.text()

        await asyncio.gather(*(one_after_the_other() for _ in range(_AT_ONCE)))
