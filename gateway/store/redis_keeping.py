"""What is past its time goes, and what leads to responses is mended. Only `redis` calls this.

Theory of operation. Each key of a response goes by itself some time after it should have gone; so what no list leads to
any more, as a failover forgot that, leaves nothing behind for ever. Lists have no such end: what they lead to is looked
at, a part of it at each purge. What is gone leaves its lists, and what lives comes back to those that it should be in.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Container, Iterable, Sequence
from functools import partial

from gateway.store import rules
from gateway.store.port import ATTEMPT_S
from gateway.store.redis_due import Dues
from gateway.store.redis_hints import Hints, keys_of
from gateway.store.redis_link import Link
from gateway.store.redis_processes import Processes
from gateway.store.redis_rows import Names, Row
from gateway.store.redis_writing import Writer
from gateway.store.rules import State

_AT_ONCE = 100
_PURGED_AT_ONCE = 20
_PER_CALL = 200
_LISTS = ("all", "live")
_YOUNG_S = 60.0  # what leads to a response is there before it


class Keeping:
    """Goes through lists of responses. `names` gives the keys of one."""

    def __init__(
        self,
        link: Link,
        hints: Hints,
        names: Callable[[str], Names],
        processes: Processes,
        dues: Dues,
        writer: Writer,
    ) -> None:
        self._link, self._hints, self._names, self._processes = link, hints, names, processes
        self._dues, self._writer = dues, writer
        self._seen = dict.fromkeys(_LISTS, "-inf")

    async def listed(self, place: bytes, *, but: Container[str] = ()) -> AsyncIterator[tuple[str, Row]]:
        """All that a list leads to."""
        (found,) = await self._link.read(("ZRANGE", place, 0, -1))
        async for key, row in self._rows([key for key in keys_of(found) if key not in but]):
            yield key, row

    async def find_again(self, keys: Collection[str]) -> None:
        """What this process holds can be found by others, should it die, whatever a failover made of the lists."""
        (found,) = await self._link.read(("ZRANGE", self._hints.held_by(self._processes.me), 0, -1))
        async for key, row in self._rows(set(keys).difference(keys_of(found))):
            self._list(key, row)

    async def purge(self, now: float, *, retention_s: float, resume_window_s: float, tombstone_s: float) -> int:
        """See the port. What has gone by itself leaves nothing but its hints."""
        rule = partial(rules.expire, now=now, retention_s=retention_s, resume_window_s=resume_window_s)
        touched = await self._applied("ended", now - retention_s, rule)
        touched += await self._applied("unstored", now - resume_window_s, rule)
        touched += await self._applied(
            "attempts", now - ATTEMPT_S, partial(rules.forget_attempt, until=now - ATTEMPT_S)
        )
        touched += await self._dues.forget(now - retention_s, _PER_CALL)
        await self._processes.forget()
        stones = self._hints.key("tombstones")
        old = await self._until("tombstones", now - tombstone_s)
        if old:
            await self._link.write(("ZREM", stones, *old))
        touched += len(old)
        if not touched:
            for name in _LISTS:
                await self._look_at_some(name, now - _YOUNG_S)
        return touched

    async def _rows(self, keys: Iterable[str]) -> AsyncIterator[tuple[str, Row]]:
        keys = list(keys)
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            for key, row in zip(some, await self._writer.read(some), strict=True):
                yield key, row

    async def _look_at_some(self, name: str, until: float) -> None:
        """Look at the next ones of a list that were made by a time, and after its end from the beginning again."""
        after, place = self._seen[name], self._hints.key(name)
        asked = ("ZRANGEBYSCORE", place, after, repr(until * 1e6), "LIMIT", 0, _PER_CALL)
        (found,) = await self._link.read(asked)
        self._seen[name] = "-inf"
        if len(found) == _PER_CALL:
            (last,) = await self._link.read(("ZSCORE", place, found[-1]))
            self._seen[name] = f"({float(last)!r}" if last is not None else "-inf"
        async for key, row in self._rows(keys_of(found)):
            if row.state.entry is None:
                self._link.later(*self._hints.forget(key))
            elif not row.state.entry.response.ended:
                self._list(key, row)

    def _list(self, key: str, row: Row) -> None:
        """One that lives is in the lists that it should be in, and whoever holds it is known."""
        state = row.state
        if state.entry is None or state.entry.response.ended:
            return
        if state.hold is not None:
            self._link.later(self._processes.known(state.hold))
        self._link.later(*self._hints.before(key, row.order, State(), state, kept_ms=self._writer.kept.of(state)[0]))

    async def _until(self, name: str, until: float) -> Sequence[bytes]:
        asked = ("ZRANGEBYSCORE", self._hints.key(name), "-inf", repr(until), "LIMIT", 0, _PER_CALL)
        found: Sequence[bytes] = (await self._link.read(asked))[0]
        return found

    async def _applied(self, name: str, until: float, rule: Callable[[State], tuple[State, bool]]) -> int:
        """Apply a rule to what a list has up to a time; how many records that touched."""
        keys = keys_of(await self._until(name, until))
        touched = 0
        for start in range(0, len(keys), _PURGED_AT_ONCE):
            some = keys[start : start + _PURGED_AT_ONCE]
            rows = dict(zip(some, await self._writer.read(some), strict=True))
            if name == "ended":
                await self._make_room([key for key, row in rows.items() if row.had_ended(until)])
            touched += sum(await asyncio.gather(*[self._writer.write(key, rule) for key in some]))
            for key, row in rows.items():
                if row.state.entry is None:
                    self._link.later(*self._hints.forget(key))
        return touched

    async def _make_room(self, keys: Sequence[str]) -> None:
        """First goes what needs no room to go: a Redis that is full can do nothing else."""
        if keys:
            await self._link.write(*[("UNLINK", part) for key in keys for part in self._names(key).content])
