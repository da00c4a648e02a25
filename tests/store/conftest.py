"""Every story that asks for `store` is told once for each store."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from given import STORES, Clock, Opener

from gateway.store.port import Store
from gateway.store.sqlite import SqliteStore


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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is to be."""
    return tmp_path / "responses.db"


@pytest.fixture
async def opened(path: Path, clock: Clock) -> AsyncIterator[Opener]:
    """A way to open the file, again and again; what is open in the end is closed."""
    stores: list[SqliteStore] = []

    async def again(**options: Any) -> SqliteStore:
        for store in stores:
            await store.close()
        store = SqliteStore(path, clock=clock, **options)
        await store.open()
        stores.append(store)
        return store

    yield again
    for store in stores:
        await store.close()
