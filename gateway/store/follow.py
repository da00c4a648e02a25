"""The one way to read a log: first attach, resume, replay after the end, reading elsewhere are all this.

A reader's whole state is its cursor. Called by the edge and the operator API.
"""

from collections.abc import AsyncIterator

from gateway.domain.events import STRUCTURAL, type_of
from gateway.store.port import Page, Store


async def follow(store: Store, key: str, after: int, *, heartbeat_s: float) -> AsyncIterator[Page]:
    """The pages after a position, live, until the one that has `end` set.

    An empty page without an end means that nothing came for `heartbeat_s`. Raises `Closed` where the log is gone.
    """
    while True:
        page = await store.read(key, after=after, wait=heartbeat_s)
        yield page
        if page.end is not None:
            return
        if page.frames:
            after = page.frames[-1][0]


async def preamble(store: Store, key: str, until: int) -> AsyncIterator[Page]:
    """The structural events up to and including a position, with their own numbers.

    With them first, a client that accumulates can go on from the middle of a stream.
    """
    after = -1
    while after < until:
        page = await store.read(key, after=after)
        if not page.frames:
            return
        after = page.frames[-1][0]
        kept = tuple(
            (number, frame) for number, frame in page.frames if number <= until and type_of(frame) in STRUCTURAL
        )
        if kept:
            yield Page(kept)
