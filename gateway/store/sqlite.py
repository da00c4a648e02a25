"""The embedded store: one process, one SQLite file. How it writes is told in `sqlite_thread`.

In memory are every live response with its log's recent end, the last few that ended, and whatever somebody holds;
memory is never behind the file, so what is in memory is not read.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

from gateway.domain.attempt import Attempt
from gateway.domain.errors import StoreUnavailable
from gateway.domain.events import Event
from gateway.domain.lifecycle import Outcome
from gateway.domain.response import Body, Change, Response
from gateway.store import rules, sqlite_attempts, sqlite_due, sqlite_file, sqlite_rows
from gateway.store.port import PAGE_BYTES, Closed, Due, Durability, Lease, Page, Pulse, Query, Space, Unusable
from gateway.store.rules import State
from gateway.store.sqlite_rows import Row
from gateway.store.sqlite_thread import CLOSED, Held, Rule, SqliteThread
from gateway.store.tail import Frames, Tail

_T = TypeVar("_T")
_ME = "this process"

_RECENTLY_ENDED = 64
_PURGED_PER_COMMIT = 20
_PURGED_PER_CALL = 200
_GONE = "the log is not in the store any more"


class SqliteStore:
    """A file. `durability`: `process` or `fsync`; `clock` gives unix seconds; `cache_bytes` of each log in memory."""

    shared, warnings = False, ()

    def __init__(
        self,
        path: Path | str,
        *,
        durability: Durability = "process",
        clock: Callable[[], float] = time.time,
        cache_bytes: int = 2**20,
    ) -> None:
        self.durability = durability
        self.owner_key = b""
        self._path = Path(path)
        self._clock = clock
        self._cache_bytes = cache_bytes
        self._thread = SqliteThread(self._settle)
        self._rids = count(1)
        self._known: WeakValueDictionary[str, Held] = WeakValueDictionary()
        self._live: dict[str, Held] = {}
        self._live_names: dict[rules.Alias, Held] = {}
        self._recent: deque[Held] = deque(maxlen=_RECENTLY_ENDED)
        self._reading: dict[tuple[int, int, int], asyncio.Future[Frames]] = {}
        self._recording: dict[str, set[asyncio.Future[None]]] = {}
        self._answered = sqlite_attempts.Answered(self._thread.ask, clock)

    async def open(self) -> None:
        """Open the file and take up every live record; leases of before are void. Raises Unusable."""
        self.owner_key = await self._thread.open(self._path, self.durability)
        try:
            self._rids = count(await self._thread.ask(sqlite_rows.next_rid))
            rows = await self._thread.ask(sqlite_rows.live_rows)
        except StoreUnavailable as error:
            await self._thread.close()
            raise Unusable(f"{self._path}: {error} Put a backup in its place, or move it away") from error
        for row in rows:
            held = self._from(row)
            self._enlist(held, State(), held.state)

    async def close(self) -> None:
        """Write what is queued, then release readers and the file; every call from now on fails."""
        self._answered.stop()
        await self._thread.close()
        for held in tuple(self._known.values()):
            held.log.stop(StoreUnavailable, CLOSED)

    async def create(self, response: Response, attempt: Attempt | None = None, *, join: bool = False) -> Response:
        """See the port."""
        rule = partial(rules.create, response=response, attempt=attempt, holder=_ME)
        if attempt is None:
            return await self._thread.write(self._new(response.key), rule)
        async with self._turn(attempt.name, wait=join):
            if join and (joined := await self._joined(attempt)) is not None:
                return joined
            return await self._thread.write(self._new(response.key), rule)

    async def mark(self, key: str, attempt: Attempt) -> None:
        """See the port."""
        await self._write(key, partial(rules.mark, attempt=attempt))

    async def change(self, key: str, change: Change, *, epoch: int | None, body: Body | None = None) -> bool:
        """See the port."""
        return await self._write(key, partial(rules.change, change=change, epoch=epoch, body=body))

    async def append(self, key: str, events: Sequence[Event], *, tail: int, epoch: int) -> int:
        """See the port."""
        return await self._write(key, partial(rules.append, events=events, tail=tail, epoch=epoch))

    async def finish(
        self,
        key: str,
        outcome: Outcome,
        events: Sequence[Event] = (),
        *,
        tail: int,
        epoch: int | None,
        body: Body | None = None,
    ) -> bool:
        """See the port."""
        rule = partial(rules.finish, outcome=outcome, events=events, tail=tail, epoch=epoch, body=body)
        return await self._write(key, rule)

    async def get(self, key: str) -> Response | None:
        """See the port."""
        return rules.record((await self._held(key)).state)

    async def find(self, response_id: str, *, route: str, owner: str | None) -> Response | None:
        """See the port."""
        held = self._live_names.get((route, response_id, owner)) if owner is not None else None
        if held is None:
            row = await self._thread.ask(sqlite_rows.named_row, route, response_id, owner)
            if row is None:
                return None
            held = self._from(row)
        return rules.record(held.state)

    async def buried(self, response_id: str, *, route: str) -> bool:
        """See the port."""
        return await self._thread.ask(sqlite_rows.is_buried, route, response_id)

    async def body(self, key: str) -> Body | None:
        """See the port."""
        held = await self._held(key)
        return await self._thread.ask(sqlite_rows.body_of, held.rid, key)

    async def read(self, key: str, *, after: int, wait: float = 0, limit: int = PAGE_BYTES) -> Page:
        """See the port."""
        held = await self._held(key)
        if held.state.entry is None:
            raise Closed("the response is not in the store")
        return await held.log.read(after, wait_s=wait, limit=limit)

    async def renew(self, ttl_s: float) -> Pulse:
        """There is no other process: the file is this one's."""
        self._thread.check()
        return Pulse()

    async def claim(self, key: str) -> Lease | None:
        """See the port."""
        return await self._write(key, partial(rules.claim, key=key, holder=_ME, living=True))

    async def release(self, key: str, *, epoch: int) -> None:
        """See the port."""
        await self._write(key, partial(rules.release, epoch=epoch))

    async def orphans(self, in_hand: Collection[str] | None = None) -> AsyncIterator[Response]:
        """See the port."""
        for response in self._alive(lambda held: rules.orphaned(held.state, in_hand)):
            yield response

    async def turn(self, key: str, every_s: float) -> bool:
        """It always is."""
        self._thread.check()
        return True

    async def live(self) -> AsyncIterator[Response]:
        """See the port."""
        for response in self._alive(lambda held: True):
            yield response

    async def list(self, query: Query) -> Sequence[Response]:
        """See the port."""
        rows = await self._thread.ask(sqlite_rows.listed_rows, query)
        return [response for row in rows if (response := rules.record(self._state_of(row))) is not None]

    async def due(self, *, after: int = -1, limit: int) -> Sequence[Due]:
        """See the port."""
        return await self._thread.ask(sqlite_due.due, after, limit)

    async def amend(self, due: Due) -> None:
        """See the port."""
        await self._thread.ask(sqlite_due.amend, due)

    async def settle(self, numbers: Sequence[int]) -> None:
        """See the port."""
        await self._thread.ask(sqlite_due.settle, numbers)

    async def owed(self) -> int:
        """See the port."""
        return await self._thread.ask(sqlite_due.owed)

    async def delete(self, key: str) -> None:
        """See the port."""
        if await self._write(key, partial(rules.remove, now=self._clock())):
            # It is gone already; events that cannot be deleted now are deleted by the next purge.
            with suppress(StoreUnavailable):
                await self._sweep()

    async def purge(self, now: float, *, retention_s: float, resume_window_s: float, tombstone_s: float) -> int:
        """See the port. In small commits, so that other writes get in between."""
        rule = partial(rules.expire, now=now, retention_s=retention_s, resume_window_s=resume_window_s)
        ended_by, content_ended_by = now - retention_s, now - resume_window_s
        rows = await self._thread.ask(sqlite_rows.expired_rows, ended_by, content_ended_by, _PURGED_PER_CALL)
        expired = [self._from(row) for row in rows]
        touched = 0
        for start in range(0, len(expired), _PURGED_PER_COMMIT):
            some = expired[start : start + _PURGED_PER_COMMIT]
            touched += sum(await asyncio.gather(*[self._thread.write(held, rule) for held in some]))
        await self._sweep()
        for forget, at in (
            (sqlite_due.forget, ended_by),
            (sqlite_attempts.forget, now),
            (sqlite_rows.forget_tombstones, now - tombstone_s),
        ):
            touched += await self._thread.ask(forget, at, _PURGED_PER_CALL)
        return touched

    async def space(self) -> Space:
        """Bytes of the file and its write-ahead log, and of the disk that they are on."""
        self._thread.check()
        return await asyncio.to_thread(sqlite_file.space_of, self._path)

    async def probe(self) -> None:
        """See the port."""
        await self._thread.ask(sqlite_file.probe)

    @asynccontextmanager
    async def _turn(self, name: str, *, wait: bool) -> AsyncIterator[None]:
        """While an attempt is being recorded. Who may join waits: what is queued cannot be found yet."""
        others = self._recording.setdefault(name, set())
        earlier, mine = tuple(others), asyncio.get_running_loop().create_future()
        others.add(mine)
        try:
            if wait and earlier:
                await asyncio.wait(earlier)
            yield
        finally:
            mine.set_result(None)
            others.discard(mine)
            if not others:
                del self._recording[name]

    async def _joined(self, attempt: Attempt) -> Response | None:
        """The record that an attempt joins."""
        now = self._clock()
        known = [self._from(row) for row in await self._thread.ask(sqlite_rows.attempt_rows, attempt.name)]
        for held in sorted(known, key=lambda held: rules.nearest(held.state)):
            joined = await self._thread.write(held, partial(rules.join, attempt=attempt, now=now))
            if joined is not None:
                return joined
        return None

    def _alive(self, wanted: Callable[[Held], bool]) -> Iterator[Response]:
        self._thread.check()
        for held in tuple(self._live.values()):
            response = rules.record(held.state) if wanted(held) else None
            if response is not None and not response.ended:
                yield response

    async def _sweep(self) -> None:
        while await self._thread.ask(sqlite_rows.sweep):
            pass

    async def _write(self, key: str, rule: Rule[_T]) -> _T:
        return await self._thread.write(await self._held(key), rule)

    def _settle(self, held: Held, after: State) -> None:
        """A commit is done: what it made is true from here on."""
        before, held.state = held.state, after.written
        if after.attempt is not before.attempt:
            self._answered.note(held.rid, after.attempt)
        if after.entry is not before.entry:
            self._enlist(held, before, after)
        if after.entry is not None and after.entry.kept:
            held.log.publish([(event.number, event.frame) for event in after.events], after.entry.end)
        elif before.entry is not None:
            held.log.stop(Closed, _GONE)
        if after.entry is None:
            self._known.pop(held.key, None)

    async def _held(self, key: str) -> Held:
        """The response; without an entry if there is none. Whoever holds it sees every later change of it."""
        self._thread.check()
        held = self._known.get(key)
        if held is None and (row := await self._thread.ask(sqlite_rows.row_of, key)) is not None:
            held = self._from(row)
        return held or self._new(key)

    def _new(self, key: str) -> Held:
        """A response that is not in the file."""
        return self._known.get(key) or self._remember(key, next(self._rids), State())

    def _from(self, row: Row) -> Held:
        return self._known.get(row.key) or self._remember(row.key, row.rid, self._state_of(row))

    def _state_of(self, row: Row) -> State:
        held = self._known.get(row.key)
        attempt = self._answered.newest(row.rid, row.attempt)
        return held.state if held is not None else State(row.entry, row.tail, attempt=attempt)

    def _remember(self, key: str, rid: int, state: State) -> Held:
        entry, older = state.entry, partial(self._older, key, rid)
        end = entry.end if entry is not None else None
        held = Held(key, rid, state, Tail(last=state.tail, end=end, limit_bytes=self._cache_bytes, older=older))
        if entry is not None and not entry.kept:
            held.log.stop(Closed, _GONE)
        self._known[key] = held
        self._recent.append(held)
        return held

    def _enlist(self, held: Held, before: State, after: State) -> None:
        """Keep every live response in memory, under all its names."""
        live = after.entry if after.entry is not None and not after.entry.response.ended else None
        if live is not None:
            self._live[held.key] = held
        elif self._live.pop(held.key, None) is not None:
            self._recent.append(held)
        had, has = rules.aliases(before.entry), rules.aliases(live)
        for name in had - has:
            if self._live_names.get(name) is held:
                del self._live_names[name]
        for name in has - had:
            self._live_names[name] = held

    async def _older(self, key: str, rid: int, after: int, limit: int) -> Frames:
        """Frames from the file; all who ask for the same while it is read share one answer."""
        place = rid, after, limit
        reading = self._reading.get(place)
        if reading is None:
            reading = self._reading[place] = self._thread.ask(sqlite_rows.frames_of, rid, key, after, limit)
            reading.add_done_callback(lambda _: self._reading.pop(place))
        return await asyncio.shield(reading)
