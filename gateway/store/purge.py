"""Deleting all that is past its time. Called by the tracker, and by the command where no gateway runs."""

from gateway.config import Settings
from gateway.store.port import Store


async def purge(store: Store, settings: Settings, now: float) -> int:
    """Delete what is past its time at `now` (unix seconds); how many records that touched.

    A store does a bounded part per call, so that a large purge holds nobody up. Raises `StoreUnavailable`.
    """
    total = 0
    while touched := await store.purge(
        now,
        retention_s=settings.retention_s,
        resume_window_s=settings.resume_window_s,
        tombstone_s=settings.tombstone_s,
    ):
        total += touched
    return total
