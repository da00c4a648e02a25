"""A process of its own that writes to an SQLite store, for stories in which it is killed or its disk fails.

`python writer.py MODE PATH DURABILITY`. It says what was acknowledged, a line each, as soon as it was.
"""

import asyncio
import os
import resource
import sys

from given import a_record, completed, events

from gateway.domain.errors import StoreUnavailable
from gateway.store.port import Store
from gateway.store.sqlite import SqliteStore

LOGS = 20
LAST = 60


def say(*words: object) -> None:
    """One write, which a reader has even if this process is killed in the same moment."""
    os.write(1, f"{' '.join(map(str, words))}\n".encode())


async def write_a_log(store: Store, key: str) -> None:
    """A log in batches of one to four, and its end."""
    response = await store.create(a_record(key, response_id=f"resp_{key}"))
    tail = -1
    while tail < LAST - 1:
        batch = events(*range(tail + 1, min(tail + 2 + tail % 4, LAST)))
        await store.append(key, batch, tail=tail, epoch=1)
        tail = batch[-1].number
        say("appended", key, tail)
    await store.finish(key, completed(response), events(LAST), tail=tail, epoch=1)
    say("ended", key, LAST)


async def write_logs(store: Store) -> None:
    """For ever: generations of logs, of which the last but one is deleted."""
    generation = 0
    while True:
        await asyncio.gather(*[write_a_log(store, f"{generation}-{number}") for number in range(LOGS)])
        if generation:
            await asyncio.gather(*[store.delete(f"{generation - 1}-{number}") for number in range(LOGS)])
        generation += 1


async def fill_the_disk(store: Store) -> None:
    """Until a write fails; then there is room again."""
    await store.create(a_record())
    tail = -1
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((await store.space()).bytes, most))
    try:
        while True:
            await store.append("key", events(tail + 1), tail=tail, epoch=1)
            tail += 1
            say("appended", "key", tail)
    except StoreUnavailable:
        say("failed", "key", (await store.get("key") or a_record()).tail)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    await store.append("key", events(tail + 1), tail=tail, epoch=1)
    say("appended", "key", tail + 1)


async def main(mode: str, path: str, durability: str) -> None:
    """Open the store, say so, write."""
    store = SqliteStore(path, durability="fsync" if durability == "fsync" else "process", cache_bytes=1000)
    await store.open()
    say("open")
    await {"logs": write_logs, "full": fill_the_disk}[mode](store)
    await store.close()


asyncio.run(main(*sys.argv[1:]))
