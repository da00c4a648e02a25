"""Stories of what a process of a shared store leaves behind, and who gets it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import redis_server
from given import BEGAN, PATIENCE_S, Clock, a_record, ended

from gateway.domain.response import Change
from gateway.store.port import Lease, Store
from gateway.store.redis import RedisStore

Another = Callable[[], Awaitable[RedisStore]]


@pytest.fixture
async def another(tmp_path: Path, clock: Clock) -> AsyncIterator[Another]:
    """One more process on the same store, which lives."""
    stores: list[RedisStore] = []

    async def start() -> RedisStore:
        store = RedisStore(redis_server.url_for(tmp_path), clock=clock)
        await store.open()
        stores.append(store)
        await store.renew(PATIENCE_S)
        return store

    yield start
    for store in stores:
        await store.close()


async def orphans(store: Store) -> list[str]:
    return [response.key async for response in store.orphans()]


async def test_what_waits_for_its_owner_is_taken_from_one_that_lives(another: Another) -> None:
    a, b = await another(), await another()
    await a.create(a_record())
    await a.change("key", Change({"waiting": True}), epoch=1)
    assert await orphans(b) == []
    assert await b.claim("key") == Lease("key", 2)
    assert (await a.renew(PATIENCE_S)).news == ("key",)


async def test_what_a_dead_one_left_of_the_ended_is_no_orphan(another: Another) -> None:
    a, b = await another(), await another()
    await ended(a, last=2)
    await a.create(a_record("live"))
    await a.renew(0)
    assert await orphans(b) == ["live"]


async def test_who_has_died_is_forgotten_once_nothing_is_left_of_it(another: Another) -> None:
    a, b = await another(), await another()
    await a.create(a_record())
    await a.renew(0)
    for left in (True, False):
        await b.purge(BEGAN, retention_s=PATIENCE_S, resume_window_s=PATIENCE_S, tombstone_s=PATIENCE_S)
        assert (a._processes.me in await b._processes.dead()) is left
        await b.claim("key")
