"""The recent end of one log in memory, and the readers that wait for more of it.

Shared by all stores: each publishes here what it has acknowledged, and only that. A position that is older than what
memory holds is asked of `older`. One wake-up reaches all who wait; whoever is woken looks again, so none is lost.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from operator import itemgetter

from gateway.domain.errors import StoreUnavailable
from gateway.store.port import End, Page

Frames = tuple[tuple[int, bytes], ...]
"""Frames by ascending position."""
Older = Callable[[int, int], Awaitable[Frames]]
"""`older(after, limit)`: the frames after a position, at most `limit` bytes or one frame."""

_PAGES = 64
_number = itemgetter(0)


class Tail:
    """A suffix of a log of about `limit_bytes` (None: all of it), its last position and, once it has ended, its end.

    A log that was there before this object begins with `last` and `end`, and nothing in memory.
    """

    def __init__(
        self, *, last: int = -1, end: End | None = None, limit_bytes: int | None = None, older: Older | None = None
    ) -> None:
        self.last = last
        self.end = end
        self.bytes = 0
        self._since = last
        self._frames: list[tuple[int, bytes]] = []
        self._limit = limit_bytes
        self._older = older
        self._pages: dict[tuple[int, int], Page] = {}
        self._waiters: set[asyncio.Future[None]] = set()
        self._stopped: tuple[type[Exception], str] | None = None

    @property
    def waiting(self) -> int:
        """How many readers wait for more."""
        return len(self._waiters)

    def publish(self, frames: Sequence[tuple[int, bytes]], end: End | None = None) -> None:
        """Show readers what has been acknowledged: frames that continue the log, and its end if it has ended."""
        if not frames and end is self.end:
            return
        self._frames.extend(frames)
        self.bytes += sum(len(frame) for _, frame in frames)
        if frames:
            self.last = frames[-1][0]
        self.end = end
        self._pages.clear()
        if self._limit is not None and self.bytes > self._limit:
            self._shorten(self._limit // 2)
        self._wake()

    def stop(self, error: type[Exception], message: str) -> None:
        """Every reader, now and later, gets this error: the log is gone, or its store is closed."""
        self._stopped = error, message
        self._frames.clear()
        self._pages.clear()
        self.bytes = 0
        self._wake()

    async def read(self, after: int, *, wait_s: float, limit: int) -> Page:
        """The page after a position; empty, without an end, only when `wait_s` is over. Raises what `stop` was told."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while True:
            if self._stopped is not None:
                error, message = self._stopped
                raise error(message)
            if after < self._since:
                page = await self._old_page(after, limit)
                if self._stopped is None:
                    return page
                continue
            page = self._page(after, limit)
            left_s = until - loop.time()
            if page.frames or page.end is not None or left_s <= 0:
                return page
            await self._more(loop, left_s)

    def _page(self, after: int, limit: int) -> Page:
        """From memory. Readers at the same position are given the same page."""
        known = self._pages.get((after, limit))
        if known is not None:
            return known
        frames = self._frames
        start = stop = bisect_right(frames, after, key=_number)
        room = limit
        while stop < len(frames) and (stop == start or len(frames[stop][1]) <= room):
            room -= len(frames[stop][1])
            stop += 1
        page = Page(tuple(frames[start:stop]), self.end if stop == len(frames) else None)
        if len(self._pages) >= _PAGES:
            self._pages.clear()
        self._pages[after, limit] = page
        return page

    async def _old_page(self, after: int, limit: int) -> Page:
        frames = await self._older(after, limit) if self._older is not None else ()
        if not frames and self._stopped is None:
            raise StoreUnavailable(f"The log has lost what came after {after}.")
        return Page(frames, self.end if frames and frames[-1][0] >= self.last else None)

    async def _more(self, loop: asyncio.AbstractEventLoop, at_most_s: float) -> None:
        waiter = loop.create_future()
        self._waiters.add(waiter)
        timer = loop.call_later(at_most_s, _release, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            _release(waiter)

    def _shorten(self, to_bytes: int) -> None:
        """Let go of the oldest frames: half at a time, so that a long log does not move its list at every batch."""
        dropped = 0
        while self.bytes > to_bytes and dropped < len(self._frames):
            self._since, frame = self._frames[dropped]
            self.bytes -= len(frame)
            dropped += 1
        del self._frames[:dropped]


def _release(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
