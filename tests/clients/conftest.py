"""Real client libraries, each pointed at upstream and at the gateway."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
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
