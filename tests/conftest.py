"""Real parts for tests: a simulator and gateways on free ports, in this process."""

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis_server
from aiohttp.test_utils import TestServer
from running import QUICK, Recorder, Running, Upstream

from gateway.app import Gateway
from gateway.config import Settings
from gateway.simulator import Simulator


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Where nothing may be skipped (FORBID_SKIPS is set), a skip is a failure that names what to install."""
    report = yield
    if report.skipped and os.environ.get("FORBID_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which FORBID_SKIPS forbids: {report.longrepr[-1]}"
    return report


@pytest.fixture
async def parts() -> AsyncIterator[AsyncExitStack]:
    """Whatever a test starts, stopped in reverse order."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Every store in turn, as the setting `store` names it."""
    if request.param == "redis":
        return redis_server.url_for(tmp_path)
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
        environ, clock = settings.pop("environ", {}), settings.pop("clock", time.time)
        recorder = Recorder()
        gateway = Gateway(
            Settings(upstream=upstream, **{**QUICK, **settings}), observer=recorder, environ=environ, clock=clock
        )
        await gateway.start()
        running = Running(gateway, recorder)
        parts.push_async_callback(gateway.stop)
        parts.push_async_callback(running.hang_up)
        return running

    return start
