"""The two simulators of these stories: one in which time stands still, and one in which it flies."""

from collections.abc import AsyncIterator

import pytest
from scene import Scene, iter_clock, staged


@pytest.fixture
async def still() -> AsyncIterator[Scene]:
    """Time stands still but for `skip`."""
    async with staged() as one:
        yield one


@pytest.fixture
async def instant() -> AsyncIterator[Scene]:
    """Every response is over at once."""
    async with staged(speed=1e9, clock=iter_clock()) as one:
        yield one
