"""What the stories about stores are given: records, events, endings, a clock, and a way to read a log at once."""

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import redis_server

from gateway.domain.events import Event
from gateway.domain.lifecycle import Outcome
from gateway.domain.mode import Mode
from gateway.domain.response import Ending, Response, Status, Trace
from gateway.store.memory import MemoryStore
from gateway.store.port import PAGE_BYTES, End, Lease, Store
from gateway.store.redis import RedisStore
from gateway.store.sqlite import SqliteStore

BEGAN = 1_790_000_000.0
PATIENCE_S = 60.0
"""For what must happen; a loaded machine may take its time."""


class Clock:
    """Time that a test moves by hand."""

    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> float:
        return self.now


Opener = Callable[..., Awaitable[SqliteStore]]
"""Opens a store on a test's one SQLite file, after it has closed the one before."""

STORES: dict[str, Callable[[Path, Clock], Store]] = {
    "memory": lambda folder, clock: MemoryStore(clock),
    "sqlite": lambda folder, clock: SqliteStore(folder / "responses.db", clock=clock),
    # Nothing but the last event stays in memory: what is read comes from the file.
    "sqlite without a cache": lambda folder, clock: SqliteStore(folder / "responses.db", clock=clock, cache_bytes=1),
    "redis": lambda folder, clock: RedisStore(redis_server.url_for(folder), clock=clock),
    "redis cluster": lambda folder, clock: RedisStore(redis_server.cluster_url_for(folder), clock=clock),
}


def a_record(key: str = "key", **changes: Any) -> Response:
    """An attempt, as it is before upstream is called."""
    # Ids as OpenTelemetry draws them: larger than what most formats call an integer.
    trace = Trace(trace_id=2**127 + 1, span_id=2**63 + 1, parent_span_id=3, flags=1, sampled=True)
    first = Response(key, "route", "owner", Mode.BACKGROUND_STREAM, created_at=BEGAN, trace=trace)
    return first.but(**changes)


def frame_of(number: int) -> bytes:
    """The one frame that belongs to a position."""
    return b'event: response.output_text.delta\ndata: {"sequence_number":%d,"delta":"%b"}\n\n' % (
        number,
        b"x" * (number * 37 % 101),
    )


def events(*numbers: int) -> list[Event]:
    """Events at these positions."""
    return [an_event(number, frame_of(number)) for number in numbers]


def an_event(number: int, frame: bytes) -> Event:
    """An event of which only position and frame matter, as they do to a store."""
    return Event(number, "response.output_text.delta", frame, frame)


def numbered(first: int, last: int) -> list[tuple[int, bytes]]:
    """What a reader should get: frames from one position up to and including another."""
    return [(number, frame_of(number)) for number in range(first, last + 1)]


def completed(response: Response, **changes: Any) -> Outcome:
    """Upstream's final word, with an event that closes the log."""
    done = response.but(status=Status.COMPLETED, ending=Ending.TERMINAL, ended_at=BEGAN + 10, **changes)
    return Outcome(done, b"{}", closes_log=True)


def given_up(response: Response, ending: Ending = Ending.LOST) -> Outcome:
    """Tracking ends, without upstream's final word."""
    done = response.but(ending=ending, ended_at=BEGAN + 5, error_code="response_lost")
    return Outcome(done, None, closes_log=False, code="response_lost", message="It was lost.")


async def logged(store: Store, key: str = "key", *, last: int) -> Response:
    """A record whose log reaches up to a position, written in batches of three."""
    response = await store.create(a_record(key, response_id=f"resp_{key}"))
    for first in range(0, last + 1, 3):
        batch = events(*range(first, min(first + 3, last + 1)))
        await store.append(key, batch, tail=first - 1, epoch=1)
    return await store.get(key) or response


async def ended(store: Store, key: str = "key", *, last: int = 2, **changes: Any) -> Response:
    """A record that is completed."""
    response = await logged(store, key, last=last - 1)
    await store.finish(key, completed(response, **changes), events(last), tail=last - 1, epoch=1)
    return await store.get(key) or response


async def there(
    store: Store, key: str = "key", *, after: int = -1, limit: int = PAGE_BYTES
) -> tuple[list[tuple[int, bytes]], End | None]:
    """What is there now: every frame after a position, and the log's end if it has ended."""
    frames: list[tuple[int, bytes]] = []
    while True:
        page = await store.read(key, after=after, limit=limit)
        frames += page.frames
        if page.end is not None or not page.frames:
            return frames, page.end
        after = page.frames[-1][0]


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    """What is in the file of a store that is closed."""
    with closing(sqlite3.connect(path)) as db:
        found = db.execute(sql).fetchall()
        db.commit()
    return found


async def taken_over(store: Store, response: Response) -> Lease:
    """The lease of whoever holds it next."""
    await store.release(response.key, epoch=response.epoch)
    lease = await store.claim(response.key)
    assert lease is not None
    return lease
