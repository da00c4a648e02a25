"""From the `store` setting to a store. Called by the composition root and the commands."""

from collections.abc import Callable

from gateway.config import Settings
from gateway.store.memory import MemoryStore
from gateway.store.port import Store
from gateway.store.redis import RedisStore
from gateway.store.sqlite import SqliteStore


def open_store(settings: Settings, clock: Callable[[], float]) -> Store:
    """The store that the settings name, not opened yet."""
    path = settings.store.path
    if path is None and settings.store.kind == "memory":
        return MemoryStore(clock, limit_bytes=settings.memory_limit_bytes)
    if path is None:
        return RedisStore(
            settings.store,
            clock=clock,
            cache_bytes=settings.tail_cache_bytes,
            timeout_s=settings.store_timeout_s,
            retention_s=settings.retention_s,
            resume_window_s=settings.resume_window_s,
            give_up_after_s=settings.give_up_after_s,
        )
    return SqliteStore(path, durability=settings.durability, clock=clock, cache_bytes=settings.tail_cache_bytes)
