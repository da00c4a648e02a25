"""How writes are decided and done. Only `redis` calls this.

Theory of operation. A rule (`rules`) makes of a response's state the state after a write. The state is the one that
this process remembers, or else read; the write is done if that is still the state (`COMMIT`), and decided again on the
newest if not. What is remembered decides writes alone, as those are compared: a refusal, or that there is nothing to
write, is said of what was just read. Writes of one response take turns in this process; appends go past the rules, as
all that they depend on is in the script (`APPEND`).

A write that is sent again under the same name is done once. An end whose answer did not come at all keeps its name for
the next try, so that whoever tries again is told that it was this process's; a change has its name from whoever tries.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from msgspec import structs

from gateway.domain.errors import StoreUnavailable
from gateway.domain.events import Event
from gateway.store import rules
from gateway.store.port import Closed, Fenced, Lease
from gateway.store.redis_due import Dues
from gateway.store.redis_hints import Hints
from gateway.store.redis_link import Command, Link
from gateway.store.redis_logs import Logs
from gateway.store.redis_processes import Processes
from gateway.store.redis_rows import Kept, Names, Row, Said, append_of, commit_of, row_of, settled
from gateway.store.redis_scripts import NAME_BYTES
from gateway.store.rules import State, continuing

_T = TypeVar("_T")
Rule = Callable[[State], tuple[State, _T]]
_REMEMBERED = 4096


class Turns:
    """One at a time for each name, in the order of coming, within this process."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __call__(self, name: str) -> asyncio.Lock:
        """To be held during a turn."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock


class Writer:
    """Writes responses. `names` gives the keys of one; `kept`: how long ended ones are kept if nobody purges them."""

    def __init__(
        self,
        link: Link,
        hints: Hints,
        names: Callable[[str], Names],
        processes: Processes,
        dues: Dues,
        logs: Logs,
        kept: Kept,
    ) -> None:
        self._link, self._hints, self._names, self.kept = link, hints, names, kept
        self._processes, self._dues, self._logs = processes, dues, logs
        self._turn = Turns()
        self._rows: OrderedDict[str, Row] = OrderedDict()
        self._endings: dict[str, bytes] = {}
        self._random, self._counts = secrets.token_hex(NAME_BYTES // 4), count()
        self._last_order = 0
        self._known = False

    async def read(self, keys: Sequence[str]) -> list[Row]:
        """Records as they are now."""
        if not keys:
            return []
        asked = [("HGETALL", self._names(key).record) for key in keys]
        return [row_of(found) for found in await self._link.read(*asked)]

    async def begin(self, key: str, rule: Rule[_T], created_at: float) -> _T:
        """The first write, most probably, of a response."""
        self._last_order = max(int(created_at * 1e6), self._last_order + 1)
        return await self._write(key, rule, Row(State(), order=self._last_order))

    async def write(self, key: str, rule: Rule[_T]) -> _T:
        """What the rule answers, once what it decided is done; or what it raised."""
        return await self._write(key, rule, None)

    async def change(self, key: str, rule: Rule[bool], name: str | None) -> bool:
        """The same under a name, if it has one: what was done under that is not done again, and answered True."""
        async with self._turn(key):
            return await self._decide(
                key, rule, self._rows.get(key), name.encode() if name else self._name(), done=True
            )

    async def end(self, key: str, rule: Rule[bool]) -> bool:
        """The same for an end, which is answered True also if this process made it unawares."""
        async with self._turn(key):
            name = self._endings.pop(key, None) or self._name()
            try:
                return await self._decide(key, rule, self._rows.get(key), name, done=True)
            except StoreUnavailable:
                self._endings[key] = name
                raise

    async def claim(self, key: str) -> Lease | None:
        """The lease of a response, if this process may have it."""
        async with self._turn(key):
            living = await self._processes.living()

            def rule(state: State) -> tuple[State, Lease | None]:
                return rules.claim(state, key, self._processes.me, living=state.hold in living)

            return await self._decide(key, rule, self._rows.get(key), self._name())

    async def append(self, key: str, events: Sequence[Event], *, tail: int, epoch: int) -> int:
        """Append what is new of a batch; how many that were."""
        async with self._turn(key):
            last = tail
            while True:
                fresh = continuing(State(tail=last), events, tail)
                if last != tail and not fresh:
                    return 0
                (answer,) = await self._link.write(
                    append_of(self._names(key), fresh, tail=last, epoch=epoch, by=self._processes.me)
                )
                if answer[0] == b"tail":
                    last = int(answer[1])
                    continue
                if answer[0] == b"fenced":
                    raise Fenced(f"the lease is at epoch {int(answer[1])}, not {epoch}")
                if answer[0] == b"missing":
                    raise Closed("the response is not in the store")
                if answer[0] == b"closed":
                    raise Closed("the log has ended")
                if fresh:
                    self._appended(key, last, fresh)
                return len(fresh)

    def _appended(self, key: str, before: int, events: Sequence[Event]) -> None:
        row = self._rows.get(key)
        if row is not None:
            state = structs.replace(row.state, tail=events[-1].number)
            self._rows[key] = Row(state, row.version, row.writes, row.order)
        self._logs.hear(key, Said(self._processes.me, before), tuple((event.number, event.frame) for event in events))

    async def _write(self, key: str, rule: Rule[_T], row: Row | None) -> _T:
        async with self._turn(key):
            return await self._decide(key, rule, row or self._rows.get(key), self._name())

    async def _decide(self, key: str, rule: Rule[_T], row: Row | None, name: bytes, *, done: _T | None = None) -> _T:
        """`done`: the answer where the write of this name is done already."""
        remembered = row is not None
        while True:
            if row is None:
                (row,), remembered = await self.read([key]), False
            if done is not None and name in row.writes:
                return done
            try:
                after, answer = rule(row.state)
            except Exception:
                if not remembered:
                    raise
                row = None
                continue
            if not _is_written(row.state, after):
                if not remembered:
                    return answer
                row = None
                continue
            row, remembered = await self._commit(key, row, after, name), False
            if row is None:
                return answer

    async def _commit(self, key: str, row: Row, after: State, name: bytes) -> Row | None:
        """Do it; or what is there instead of the row that it was decided on."""
        self._rows.pop(key, None)
        ends = self._dues.ends(key, after.ends)
        known = [] if self._known else [self._processes.known(self._processes.me)]
        hints = self._hints.before(key, row.order, row.state, after, kept_ms=self.kept.of(after)[0])
        before = [*known, *hints, *ends.before]
        commit = commit_of(self._names(key), row, after, name, ends.fields, self.kept, by=self._processes.me)
        (kind, *rest) = await self._in_order(before, commit, apart=after.entry is None)
        if kind == b"changed":
            if ends.back:
                self._link.later(*ends.back)
            return row_of(rest[0])
        self._known = True
        self._true(key, row, after, name)
        return None

    async def _in_order(self, before: Sequence[Command], commit: Command, *, apart: bool) -> Any:
        """What leads to a response is there before it. `apart`: and without it nothing may be done."""
        if before and (apart or self._link.is_cluster):
            await self._link.write(*before)
            before = ()
        return (await self._link.write(*before, commit))[-1]

    def _true(self, key: str, row: Row, after: State, name: bytes) -> None:
        """A write is done: what it made is true from here on."""
        before = row.state
        if after.entry is not None:
            self._rows[key] = settled(row, after, name)
            if len(self._rows) > _REMEMBERED:
                self._rows.popitem(last=False)
        later = list(self._hints.after(key, row.order, before, after, kept_ms=self.kept.of(after)[0]))
        later += self._news(key, before, after)
        if later:
            self._link.later(*later)
        gone = after.entry is None or not after.entry.kept
        if gone and before.entry is None:
            return
        end = after.entry.end if after.entry is not None else None
        frames = tuple((event.number, event.frame) for event in after.events)
        self._logs.hear(key, Said(self._processes.me, before.tail, end=end, gone=gone), frames)

    def _news(self, key: str, before: State, after: State) -> list[Command]:
        """Whoever held it is to know that another has ended or taken it, or sealed credentials of its owner."""
        if before.hold in (None, self._processes.me) or before.entry is None:
            return []
        was, now = before.entry.response, after.entry.response if after.entry is not None else None
        ended = (now is None or now.ended) and not was.ended
        sealed = now is not None and not now.ended and now.seal != was.seal
        if after.hold != before.hold or ended or sealed:
            return self._processes.tell(before.hold or "", [key])
        return []

    def _name(self) -> bytes:
        return f"{self._random}{next(self._counts) % 2**32:08x}".encode()


def _is_written(before: State, after: State) -> bool:
    return bool(
        after.events
        or after.body
        or after.entry is not before.entry
        or after.attempt is not before.attempt
        or after.hold != before.hold
        or after.removed_at != before.removed_at
    )
