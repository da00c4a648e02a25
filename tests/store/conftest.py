"""Every story that asks for `store` is told once for each store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from given import STORES, Clock

from gateway.store.port import Store


@pytest.fixture
def clock() -> Clock:
    """Time that stands still until the test moves it."""
    return Clock()


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    """An open, empty store."""
    one = STORES[request.param](tmp_path, clock)
    await one.open()
    yield one
    await one.close()
