"""The outbox: ends that are due go to the collector, and are settled when it has taken them.

Theory of operation. The store is the queue. An end is due from the very write that ended the response, and what is due
there is read, sent and settled, a batch at a time, by one task; so it does not matter which process sends it, nor how
often it is sent, for what is sent is made of what was written. A batch that the collector does not take stays due:
the next one is tried after a pause, half as large, down to a single end, and then with the one behind it. So neither a
batch that is too large nor an end that is refused holds up the others for ever.

Nothing waits for this: no request, no write, and a stop no longer than its limit. Started by the composition root.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from gateway.domain.errors import StoreUnavailable
from gateway.domain.facts import Ended, Fact, StoreFailed
from gateway.store.port import Due, Store
from gateway.telemetry.generation import End
from gateway.telemetry.tracing import Tracing

_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0


class Outbox:
    """Sends what is due. `owed`: how much that is. `emit` is the telemetry's, `clock` gives unix seconds."""

    def __init__(
        self, store: Store, tracing: Tracing, emit: Callable[[Iterable[Fact]], None], clock: Callable[[], float]
    ) -> None:
        self._store, self._tracing, self._emit, self._clock = store, tracing, emit, clock
        self.owed = 0
        self._more = asyncio.Event()
        self._size, self._after, self._failures = tracing.batch, -1, 0

    def observe(self, fact: Fact) -> None:
        """Something may be due: an observer for `Telemetry`."""
        if isinstance(fact, Ended) and self._tracing.due(fact.response, fact.late):
            self.owed += 1
            self._more.set()

    async def run(self) -> None:
        """Send until cancelled. First what an earlier process left, and what else it may not have got out."""
        if not self._tracing.exporting:
            return
        await self._count()
        await self._send_all(again=True)
        while True:
            await self._gather()
            await self._send_all()

    async def close(self, timeout_s: float) -> None:
        """Send what is due, for at most `timeout_s`. What is left stays in a store that lasts, else it is dropped."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.owed and not self._failures:
                    await self._round()
        if self.owed and self._store.durability == "memory":
            self._tracing.on_dropped("shutdown", self.owed)

    async def _send_all(self, *, again: bool = False) -> None:
        while self.owed:
            if not await self._round(again=again):
                await asyncio.sleep(min(_FIRST_PAUSE_S * 2.0 ** (self._failures - 1), _LONGEST_PAUSE_S))

    async def _gather(self) -> None:
        """Wait until something is due; then for a whole batch, but no longer than the delay."""
        while not self.owed:
            await self._for_more()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._tracing.delay_s):
                while self.owed < self._tracing.batch:
                    await self._for_more()

    async def _for_more(self) -> None:
        self._more.clear()
        await self._more.wait()

    async def _round(self, *, again: bool = False) -> bool:
        """One batch; False: neither store nor collector may be asked again at once."""
        try:
            ends = await self._store.due(after=self._after, limit=self._size)
            if not ends:
                # Either there is nothing, or the rest is what was refused: from the start again.
                self.owed = self.owed if self._after >= 0 else 0
                self._after = -1
                return True
            if await self._tracing.send([await self._whole(due) for due in ends], again=again):
                await self._store.settle([due.number for due in ends])
                self.owed = max(self.owed - len(ends), 0)
                self._size, self._failures = min(self._size * 2, self._tracing.batch), 0
                return True
            if self._size == 1:
                self._after = ends[-1].number
            self._size = max(self._size // 2, 1)
        except StoreUnavailable as error:
            self._emit([StoreFailed(self._clock(), "outbox", error.message)])
        self._failures += 1
        await self._count()
        return False

    async def _whole(self, due: Due) -> End:
        """An end with what was said, where that is captured, and as long as it is kept."""
        if due.response.content is None:
            return End(due.response, due.late)
        record = await self._store.get(due.response.key)
        body = await self._store.body(due.response.key)
        content = record.content if record is not None else None
        return End(replace(due.response, content=content), due.late, body.bytes if body and content else None)

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
