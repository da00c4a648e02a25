"""Real client libraries, each pointed at upstream and at the gateway."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from programs import Program, framework_command, node_command, started
from running import Running, Upstream
from sides import TWIN, Side, Sides


@pytest.fixture
def sides(
    simulate: Callable[..., Awaitable[Upstream]], gateway_for: Callable[..., Awaitable[Running]]
) -> Callable[..., Awaitable[Sides]]:
    """Start both sides: two simulators that are alike (with the options `simulated`), a gateway before one of them."""

    async def start(*, simulated: dict[str, Any] | None = None, base_path: str = "/v1", **settings: Any) -> Sides:
        options = {**TWIN, **(simulated or {})}
        direct, behind = await simulate(**options), await simulate(**options)
        upstream = behind.url.removesuffix("/v1") + base_path
        return Sides(Side(direct), Side(behind, await gateway_for(upstream, **settings)))

    return start


@pytest.fixture
def node(parts: AsyncExitStack) -> Callable[..., Awaitable[Program]]:
    """Start a scene of a Node script."""

    async def start(script: str, scene: str, base_url: str, **arguments: Any) -> Program:
        return await started(parts, node_command(script, scene), base_url, arguments)

    return start


@pytest.fixture
def framework(parts: AsyncExitStack) -> Callable[..., Awaitable[Program]]:
    """Start a scene of a program for one of Python's frameworks."""

    async def start(script: str, scene: str, base_url: str, **arguments: Any) -> Program:
        return await started(parts, framework_command(script, scene), base_url, arguments)

    return start
