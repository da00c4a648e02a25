"""The outbox: ends that are due go to the collector, and are settled when it has taken them.

Theory of operation. The store is the queue. An end is due from the very write that ended the response, and what is due
there is read, sent and settled, a batch at a time, by one task; so it does not matter which process sends it, nor how
often it is sent, for what is sent is made of what was written. A batch that the collector does not take stays due:
the next one is tried after a pause, half as large, down to a single end, and then with the one behind it. So neither a
batch that is too large nor an end that is refused holds up the others for ever.

Who counts the tokens in the caller's trace is known when the create's own answer is over: a caller that was there at
the end but left before it was told counts none. Until then such an end waits, and what changes is written first.

Nothing waits for this: no request, no write, and a stop no longer than its limit. Started by the composition root.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

from gateway.domain.errors import StoreUnavailable
from gateway.domain.facts import Ended, Fact, StoreFailed
from gateway.store.port import Due, Store
from gateway.telemetry.generation import End, counted_by_caller
from gateway.telemetry.tracing import Tracing

_log = logging.getLogger("gateway")
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
_AT_ONCE: Final = 32
"""Reading, building and settling more in one go would hold requests up."""
_ANSWERED_S: Final = 60.0
"""A caller that takes longer to read the end is taken at its word."""


class Outbox:
    """Sends what is due. `owed`: how much that is. `emit` is the telemetry's, `clock` gives unix seconds."""

    def __init__(
        self, store: Store, tracing: Tracing, emit: Callable[[Iterable[Fact]], None], clock: Callable[[], float]
    ) -> None:
        self._store, self._tracing, self._emit, self._clock = store, tracing, emit, clock
        self.owed = 0
        self._enough, self._wanted = asyncio.Event(), 1
        self._batch = min(tracing.batch, _AT_ONCE)
        self._size, self._after, self._failures = self._batch, -1, 0
        self._answering: dict[str, float] = {}
        self._told: dict[str, bool] = {}
        self._under_way: tuple[list[Due], asyncio.Future[bool]] | None = None
        self._closing = False

    def observe(self, fact: Fact) -> None:
        """Something may be due: an observer for `Telemetry`."""
        if isinstance(fact, Ended) and self._tracing.due(fact.response, fact.late):
            self.owed += 1
            if counted_by_caller(fact.response):
                self._answering[fact.response.key] = time.monotonic()
            self._wake()

    def answered(self, key: str, *, told: bool) -> None:
        """The create's answer is over; `told`: the caller was given the end."""
        if self._answering.pop(key, None) is not None:
            self._told[key] = told
            self._wake()

    async def run(self) -> None:
        """Send until cancelled. What nobody foresaw stops it for a while, not for good."""
        while self._tracing.exporting:
            try:
                await self._work()
            except Exception:
                _log.exception("the outbox failed; it goes on")
                await asyncio.sleep(_LONGEST_PAUSE_S)

    async def _work(self) -> None:
        """First what an earlier process left, and what else it may not have got out; then what comes."""
        await self._count()
        await self._send_all(again=True)
        while True:
            await self._gather()
            await self._send_all()

    async def close(self, timeout_s: float) -> None:
        """Send what is due, for at most `timeout_s`. What is left stays in a store that lasts, else it is dropped."""
        self._closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.owed and not self._failures:
                    await self._round()
        if self.owed and self._store.durability == "memory":
            self._tracing.on_dropped("shutdown", self.owed)

    async def _send_all(self, *, again: bool = False) -> None:
        while self._ready:
            if await self._round(again=again):
                if self._ready < self._size:
                    return  # what came meanwhile is the beginning of the next batch
            else:
                await asyncio.sleep(min(_FIRST_PAUSE_S * 2.0 ** (self._failures - 1), _LONGEST_PAUSE_S))

    async def _gather(self) -> None:
        """Wait until something is due; then for a whole batch, but no longer than the delay."""
        while not self._ready:
            await self._ready_for(1, _ANSWERED_S)
        await self._ready_for(self._batch, self._tracing.delay_s)

    async def _ready_for(self, wanted: int, at_most_s: float) -> None:
        """Wait until so much may be sent; each end that is not enough wakes nobody."""
        self._wanted = wanted
        self._enough.clear()
        self._wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._enough.wait()

    def _wake(self) -> None:
        if self._ready >= self._wanted:
            self._enough.set()

    @property
    def _ready(self) -> int:
        """How much of what is due may be sent."""
        since = time.monotonic() - _ANSWERED_S
        for key in [key for key, at in self._answering.items() if at < since]:
            del self._answering[key]
        return max(self.owed - len(self._answering), 0)

    async def _round(self, *, again: bool = False) -> bool:
        """One batch; False: neither store nor collector may be asked again at once.

        What is under way when a round is cancelled, or the store fails, is the next one's: it is not sent twice.
        """
        try:
            if self._under_way is None:
                found = await self._store.due(after=self._after, limit=self._size)
                ends = [await self._decided(due) for due in found if again or not self._waits(due)]
                if not found:
                    # Either there is nothing, or the rest is what was passed by: from the start again.
                    self.owed = self.owed if self._after >= 0 else 0
                    self._after = -1
                    return True
                if not ends:
                    self._after = found[-1].number
                    return True
                self._under_way = ends, self._tracing.send([await self._whole(due) for due in ends], again=again)
            ends, answer = self._under_way
            if await asyncio.shield(answer):
                await self._store.settle([due.number for due in ends])
                self._under_way = None
                self.owed = max(self.owed - len(ends), 0)
                for due in ends:
                    self._told.pop(due.response.key, None)
                self._size, self._failures = min(self._size * 2, self._batch), 0
                return True
            self._under_way = None
            if self._size == 1:
                self._after = ends[-1].number
            self._size = max(self._size // 2, 1)
        except StoreUnavailable as error:
            self._emit([StoreFailed(self._clock(), "outbox", error.message)])
        self._failures += 1
        await self._count()
        return False

    def _waits(self, due: Due) -> bool:
        """Whether its caller may still be told. What was written a moment ago may be found before it is observed."""
        response = due.response
        if self._closing or due.late or response.key in self._told or not counted_by_caller(response):
            return False
        return self._clock() - (response.ended_at or 0.0) < _ANSWERED_S

    async def _decided(self, due: Due) -> Due:
        """The end with its last word: written before it is sent, so that it stays the same."""
        if due.late or self._told.get(due.response.key, True):
            return due
        due = Due(due.number, due.response.but(attended=False), due.late)
        await self._store.amend(due)
        return due

    async def _whole(self, due: Due) -> End:
        """An end with what was said, where that is captured, and as long as it is kept."""
        if due.response.content is None:
            return End(due.response, due.late)
        record = await self._store.get(due.response.key)
        body = await self._store.body(due.response.key)
        content = record.content if record is not None else None
        return End(due.response.but(content=content), due.late, body.bytes if body and content else None)

    async def _count(self) -> None:
        """How much is due by the store's own count: less, where some went with its retention."""
        try:
            left = await self._store.owed()
        except StoreUnavailable as error:
            self._emit([StoreFailed(self._clock(), "outbox", error.message)])
            return
        if left < self.owed:
            self._tracing.on_dropped("expired", self.owed - left)
        self.owed = left
