"""Reading logs: pages from Redis, and the live end of each log that somebody here waits for. Only `redis` calls this.

Theory of operation. A log is watched while readers wait for more of it. A connection of this process is subscribed to
its channel (`redis_ears`); a write publishes its frames there in the script that writes them. A log is asked for once
Redis has confirmed the subscription, so nothing falls in between; from then on a message that continues it is applied,
and what it has already is dropped. Messages may be lost: one that leaves a hole, a connection that was made anew, or
two seconds of silence while somebody waits has the log asked for from its last position on. So the log is the truth,
and messages only make it quick.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from gateway.domain.errors import StoreUnavailable
from gateway.store.port import Closed, End, Forgotten, Page
from gateway.store.redis_ears import Ears
from gateway.store.redis_link import CLOSED, Link
from gateway.store.redis_rows import Names, Said, page_of, read_message, read_page
from gateway.store.rules import LAST_POSITION
from gateway.store.tail import Frames, Tail

GONE = "the log is not in the store any more"
_SHORTER = End("response_lost", "The store has lost some of these events, and they could not be had again.")
_SILENCE_S = 2.0
_UNREAD_S = 30.0
_PAGE_BYTES = 2**18


class _Watched:
    """One log. Without a `tail` it is still to be asked for; `behind`: it lacks something that was written."""

    def __init__(self, key: str, names: Names) -> None:
        self.key = key
        self.channel = names.channel
        self.tail: Tail | None = None
        self.confirmed = asyncio.Event()
        self.turn = asyncio.Lock()
        self.behind = False
        self.heard_at = self.read_at = time.monotonic()

    def hear(self, said: Said, frames: Frames) -> None:
        """What was written."""
        tail = self.tail
        if tail is None:
            return
        if said.before > tail.last:
            self.behind = True
            return
        self.heard_at = time.monotonic()
        end = _ended(said.end, frames[-1][0] if frames else said.before, tail)
        tail.publish([frame for frame in frames if frame[0] > tail.last], end or tail.end)


class Logs:
    """All logs that are read here. `names` gives the keys of a response, `me` names this process."""

    def __init__(self, link: Link, names: Callable[[str], Names], me: str, *, cache_bytes: int) -> None:
        self._link = link
        self._me = me
        self._names = names
        self._cache_bytes = cache_bytes
        self._watched: dict[str, _Watched] = {}
        self._channels: dict[bytes, _Watched] = {}
        self._pages: dict[tuple[str, int, int], asyncio.Future[list[Any]]] = {}
        self._ears = Ears(link, self._message, self._confirmed, self._lost, self._forget_unread)
        self._cuts = 0

    def open(self) -> None:
        """Begin to listen."""
        self._ears.open()

    def close(self) -> None:
        """Every reader gets an error."""
        for watched in self._watched.values():
            watched.confirmed.set()
            if watched.tail is not None:
                watched.tail.stop(StoreUnavailable, CLOSED)

    async def read(self, key: str, after: int, *, wait_s: float, limit: int) -> Page:
        """The next page after a position. Raises Closed, StoreUnavailable."""
        watched = self._watched.get(key)
        if watched is None or wait_s <= 0:
            last, end, frames = await self._read(key, after, limit)
            page = Page(frames, end if (frames[-1][0] if frames else after) >= last else None)
            if page.frames or page.end is not None or wait_s <= 0:
                return page
            watched = self._watch(key)
        return await self._wait(watched, after, wait_s, limit)

    def hear(self, key: str, said: Said, frames: Frames) -> None:
        """What was written, here or, as a message says, elsewhere."""
        watched = self._watched.get(key)
        if watched is None:
            return
        if said.gone:
            self._gone(watched)
            return
        watched.hear(said, frames)
        if watched.behind:
            self._link.spawn(self._mend(watched))

    def were_cut(self) -> bool:
        """Whether a line to Redis broke since this was asked last."""
        before, self._cuts = self._cuts, self._ears.cuts
        return self._cuts != before

    async def _wait(self, watched: _Watched, after: int, wait_s: float, limit: int) -> Page:
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while True:
            watched.read_at = time.monotonic()
            tail = watched.tail
            if tail is None or watched.behind or watched.read_at - watched.heard_at >= _SILENCE_S:
                tail = await self._ask(watched)
            page = await tail.read(after, wait_s=min(until - loop.time(), _SILENCE_S), limit=limit)
            if page.frames or page.end is not None or until <= loop.time():
                return page

    async def _mend(self, watched: _Watched) -> None:
        with contextlib.suppress(StoreUnavailable, Closed):  # whoever waits asks again
            await self._ask(watched)

    async def _ask(self, watched: _Watched) -> Tail:
        """Get all that Redis has of it. Of those who ask at once one does."""
        heard_at = watched.heard_at
        async with watched.turn:
            self._link.check()
            tail = watched.tail
            if tail is not None and not watched.behind and watched.heard_at != heard_at:
                return tail
            watched.behind = False
            try:
                if tail is None:
                    tail = await self._begin(watched)
                else:
                    await self._catch_up(watched.key, tail)
                    if not watched.confirmed.is_set():
                        await self._ears.listen(watched.channel)
            except BaseException as error:
                watched.behind = True
                if isinstance(error, Closed) and not isinstance(error, Forgotten):
                    self._gone(watched)
                raise
            watched.heard_at = time.monotonic()
            return tail

    async def _begin(self, watched: _Watched) -> Tail:
        if not watched.confirmed.is_set():
            await self._ears.listen(watched.channel)
        try:
            async with asyncio.timeout(self._link.timeout_s):
                await watched.confirmed.wait()
        except TimeoutError:
            raise StoreUnavailable("Redis does not confirm a subscription.") from None
        self._link.check()
        last, end, _ = await self._read(watched.key, LAST_POSITION, 1)
        older = partial(self._older, watched.key)
        watched.tail = Tail(last=last, end=end, limit_bytes=self._cache_bytes, older=older)
        return watched.tail

    async def _catch_up(self, key: str, tail: Tail) -> Tail:
        while True:
            after = tail.last
            last, end, frames = await self._read(key, after, _PAGE_BYTES)
            if tail.last != after:
                continue  # a message was quicker
            whole = not frames or frames[-1][0] >= last
            tail.publish(frames, _ended(end, last, tail) if whole else tail.end)
            if whole:
                return tail

    async def _older(self, key: str, after: int, limit: int) -> Frames:
        return (await self._read(key, after, limit))[2]

    async def _read(self, key: str, after: int, limit: int) -> tuple[int, End | None, Frames]:
        """A page from Redis; all who ask for the same while it is read share one answer. Raises Closed."""
        place = key, after, limit
        reading = self._pages.get(place)
        if reading is None:
            reading = self._pages[place] = self._link.read(page_of(self._names(key), after, limit))
            reading.add_done_callback(lambda _: self._pages.pop(place))
        (found,) = await asyncio.shield(reading)
        if found is None:
            raise Forgotten("the store has nothing of this log")
        if not found:
            raise Closed(GONE)
        return read_page(found)

    def _watch(self, key: str) -> _Watched:
        watched = self._watched.get(key)
        if watched is None:
            watched = self._watched[key] = _Watched(key, self._names(key))
            self._channels[watched.channel] = watched
        return watched

    def _gone(self, watched: _Watched) -> None:
        if watched.tail is not None:
            watched.tail.stop(Closed, GONE)
        self._forget(watched)

    def _forget(self, watched: _Watched) -> None:
        if self._watched.get(watched.key) is watched:
            del self._watched[watched.key]
            del self._channels[watched.channel]
            self._ears.forget(watched.channel)
            watched.confirmed.set()  # whoever waits for that looks again

    def _message(self, channel: bytes, message: bytes) -> None:
        said, frames = read_message(message)
        if said.by != self._me:  # else it is heard when it is acknowledged
            self.hear(self._channels[channel].key, said, frames)

    def _confirmed(self, channel: bytes) -> None:
        watched = self._channels[channel]
        watched.confirmed.set()
        if watched.tail is not None:  # on a new line: what was said in between was not heard
            watched.behind = True
            self._link.spawn(self._mend(watched))

    def _lost(self, channel: bytes) -> None:
        watched = self._channels[channel]
        watched.confirmed.clear()
        watched.behind = True
        self._link.spawn(self._mend(watched))

    def _forget_unread(self) -> None:
        before = time.monotonic() - _UNREAD_S
        for watched in tuple(self._watched.values()):
            if watched.read_at < before and (watched.tail is None or not watched.tail.waiting):
                self._forget(watched)


def _ended(end: End | None, last: int, tail: Tail) -> End | None:
    """The end for readers. Some may be beyond it, where a failover has forgotten what they had: then it is an error."""
    return _SHORTER if end is not None and end.code is None and last < tail.last else end
