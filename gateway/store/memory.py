"""The store in memory: for trying things out and for tests. Nothing in it survives the process.

It is also the shortest reading of the port: `rules` decides, and what it decided is true at once. It is bounded: where
there is no room for a write, responses that have ended go, the oldest first; where all live, it is a full disk.
"""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import TypeVar

from gateway.domain.attempt import Attempt
from gateway.domain.errors import StoreUnavailable
from gateway.domain.events import Event
from gateway.domain.lifecycle import Outcome
from gateway.domain.response import Body, Change, Response
from gateway.store import rules
from gateway.store.port import ATTEMPT_S, PAGE_BYTES, Closed, Due, Durability, Lease, Page, Pulse, Query, Space
from gateway.store.tail import Tail

_T = TypeVar("_T")
_RECORD_BYTES = 4096  # what a record takes, about, besides events and body
_ME = "this process"


@dataclass(slots=True)
class _Held:
    state: rules.State
    log: Tail
    body: Body | None = None

    @property
    def bytes(self) -> int:
        return _RECORD_BYTES + self.log.bytes + _size(self.body) if self.state.entry is not None else 0


class MemoryStore:
    """Records, logs and bodies in dictionaries. `clock` gives unix seconds, `limit_bytes` bounds all together."""

    shared = False
    warnings: Sequence[str] = ()
    durability: Durability = "memory"

    def __init__(self, clock: Callable[[], float] = time.time, *, limit_bytes: int = 2**30) -> None:
        self.owner_key = secrets.token_bytes(32)
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._names: dict[tuple[str, str], dict[str, str]] = {}
        self._attempts: dict[str, set[str]] = {}
        self._tombstones: dict[tuple[str, str], float] = {}
        self._due: dict[int, Due] = {}
        self._numbers = count()
        self._limit = limit_bytes
        self._bytes = 0
        self._closed = False

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Readers that wait are released; every call from now on fails."""
        self._closed = True
        for held in self._held.values():
            held.log.stop(StoreUnavailable, "The store is closed.")

    async def create(self, response: Response, attempt: Attempt | None = None, *, join: bool = False) -> Response:
        """See the port."""
        self._check()
        if attempt is not None and join and (joined := self._joined(attempt)) is not None:
            return joined
        held = self._held.get(response.key) or _Held(rules.State(), Tail())
        recorded = self._write(held, partial(rules.create, response=response, attempt=attempt, holder=_ME))
        self._held[response.key] = held
        return recorded

    async def mark(self, key: str, attempt: Attempt) -> None:
        """See the port."""
        self._write(self._get(key), partial(rules.mark, attempt=attempt))

    async def change(self, key: str, change: Change, *, epoch: int | None, body: Body | None = None) -> bool:
        """See the port."""
        return self._write(self._get(key), partial(rules.change, change=change, epoch=epoch, body=body))

    async def append(self, key: str, events: Sequence[Event], *, tail: int, epoch: int) -> int:
        """See the port."""
        return self._write(self._get(key), partial(rules.append, events=events, tail=tail, epoch=epoch))

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
        return self._write(self._get(key), rule)

    async def get(self, key: str) -> Response | None:
        """See the port."""
        return rules.record(self._get(key).state)

    async def find(self, response_id: str, *, route: str, owner: str | None) -> Response | None:
        """See the port."""
        self._check()
        keys = self._names.get((route, response_id), {})
        if owner is not None:
            key = keys.get(owner)
        else:
            key = next(iter(keys.values())) if len(set(keys.values())) == 1 else None
        return None if key is None else rules.record(self._get(key).state)

    async def buried(self, response_id: str, *, route: str) -> bool:
        """See the port."""
        self._check()
        return (route, response_id) in self._tombstones

    async def body(self, key: str) -> Body | None:
        """See the port."""
        return self._get(key).body

    async def read(self, key: str, *, after: int, wait: float = 0, limit: int = PAGE_BYTES) -> Page:
        """See the port."""
        held = self._get(key)
        if held.state.entry is None:
            raise Closed("the response is not in the store")
        return await held.log.read(after, wait_s=wait, limit=limit)

    async def renew(self, ttl_s: float) -> Pulse:
        """There is no other process."""
        self._check()
        return Pulse()

    async def claim(self, key: str) -> Lease | None:
        """See the port."""
        return self._write(self._get(key), partial(rules.claim, key=key, holder=_ME, living=True))

    async def release(self, key: str, *, epoch: int) -> None:
        """See the port."""
        self._write(self._get(key), partial(rules.release, epoch=epoch))

    async def orphans(self, in_hand: Collection[str] | None = None) -> AsyncIterator[Response]:
        """See the port."""
        async for response in self.live():
            if rules.orphaned(self._get(response.key).state, in_hand):
                yield response

    async def turn(self, key: str, every_s: float) -> bool:
        """It always is."""
        self._check()
        return True

    async def live(self) -> AsyncIterator[Response]:
        """See the port."""
        self._check()
        for held in tuple(self._held.values()):
            response = rules.record(held.state)
            if response is not None and not response.ended:
                yield response

    async def list(self, query: Query) -> Sequence[Response]:
        """See the port."""
        self._check()
        newest_first = [r for held in reversed(self._held.values()) if (r := rules.record(held.state)) is not None]
        if query.before is not None:
            keys = [response.key for response in newest_first]
            newest_first = newest_first[keys.index(query.before) + 1 :] if query.before in keys else []
        return list(islice((response for response in newest_first if query.matches(response)), query.limit))

    async def due(self, *, after: int = -1, limit: int) -> Sequence[Due]:
        """See the port."""
        self._check()
        return list(islice((due for number, due in self._due.items() if number > after), limit))

    async def amend(self, due: Due) -> None:
        """See the port."""
        self._check()
        if due.number in self._due:
            self._due[due.number] = due

    async def settle(self, numbers: Sequence[int]) -> None:
        """See the port."""
        self._check()
        for number in numbers:
            self._due.pop(number, None)

    async def owed(self) -> int:
        """See the port."""
        self._check()
        return len(self._due)

    async def delete(self, key: str) -> None:
        """See the port."""
        self._write(self._get(key), partial(rules.remove, now=self._clock()))

    async def purge(self, now: float, *, retention_s: float, resume_window_s: float, tombstone_s: float) -> int:
        """See the port."""
        self._check()
        rule = partial(rules.expire, now=now, retention_s=retention_s, resume_window_s=resume_window_s)
        touched = sum(self._write(held, rule) for held in tuple(self._held.values()))
        for name in [name for name, at in self._tombstones.items() if at <= now - tombstone_s]:
            del self._tombstones[name]
            touched += 1
        for due in tuple(self._due.values()):
            if (due.response.ended_at or 0.0) <= now - retention_s:
                del self._due[due.number]
                touched += 1
        for keys in tuple(self._attempts.values()):
            forget = partial(rules.forget_attempt, until=now - ATTEMPT_S)
            touched += sum(self._write(self._held[key], forget) for key in tuple(keys))
        return touched

    async def space(self) -> Space:
        """About what it takes."""
        return Space(self._bytes)

    async def probe(self) -> None:
        """See the port."""
        self._check()

    def _check(self) -> None:
        if self._closed:
            raise StoreUnavailable("The store is closed.")

    def _get(self, key: str) -> _Held:
        self._check()
        return self._held.get(key) or _Held(rules.State(), Tail())

    def _joined(self, attempt: Attempt) -> Response | None:
        """The record that an attempt joins."""
        now = self._clock()
        known = [self._held[key] for key in self._attempts.get(attempt.name, ())]
        for held in sorted(known, key=lambda held: rules.nearest(held.state)):
            joined = self._write(held, partial(rules.join, attempt=attempt, now=now))
            if joined is not None:
                return joined
        return None

    def _write(self, held: _Held, rule: Callable[[rules.State], tuple[rules.State, _T]]) -> _T:
        before, bytes_before = held.state, held.bytes
        state, answer = rule(before)
        self._make_room(held, state)
        self._rename(before, state)
        self._list_attempt(before, state)
        held.state = state.written
        held.body = state.body or held.body
        for response, late in state.ends:
            number = next(self._numbers)
            self._due[number] = Due(number, response, late)
        if state.entry is not None and state.entry.kept:
            held.log.publish([(event.number, event.frame) for event in state.events], state.entry.end)
        elif before.entry is not None:
            held.body = None
            held.log.stop(Closed, "the log is not in the store any more")
        self._bytes += held.bytes - bytes_before
        return answer

    def _make_room(self, held: _Held, state: rules.State) -> None:
        """For what is about to be written: other responses go that have ended. Raises `StoreUnavailable`."""
        new = _RECORD_BYTES if held.state.entry is None and state.entry is not None else 0
        new += sum(len(event.frame) for event in state.events) + max(0, _size(state.body) - _size(held.body))
        if not new or self._bytes + new <= self._limit:
            return
        for other in tuple(self._held.values()):
            if other is not held and other.state.entry is not None and other.state.entry.response.ended:
                self._write(other, partial(rules.remove, now=self._clock()))
                if self._bytes + new <= self._limit:
                    return
        raise StoreUnavailable(f"Memory is full of responses that live: memory_limit_bytes is {self._limit}.")

    def _rename(self, before: rules.State, after: rules.State) -> None:
        """Keep the names under which the record is found; of one that goes, keep a tombstone."""
        entry = after.entry or before.entry
        if entry is None or after.entry is before.entry:
            return
        response = entry.response
        had, has = rules.aliases(before.entry), rules.aliases(after.entry)
        for route, response_id, owner in had - has:
            owners = self._names.get((route, response_id), {})
            if owners.get(owner) == response.key:
                del owners[owner]
                if not owners:
                    del self._names[route, response_id]
        for route, response_id, owner in has - had:
            self._names.setdefault((route, response_id), {})[owner] = response.key
        if after.removed_at is not None:
            del self._held[response.key]
            if response.response_id is not None:
                self._tombstones[response.route, response.response_id] = after.removed_at

    def _list_attempt(self, before: rules.State, after: rules.State) -> None:
        """Keep every open attempt where it is found by its name."""
        attempt, entry = after.attempt or before.attempt, after.entry or before.entry
        if attempt is None or entry is None or after.attempt is before.attempt:
            return
        keys = self._attempts.setdefault(attempt.name, set())
        if after.attempt is not None and attempt.open:
            keys.add(entry.response.key)
        else:
            keys.discard(entry.response.key)
        if not keys:
            del self._attempts[attempt.name]


def _size(body: Body | None) -> int:
    return len(body.bytes) if body else 0
