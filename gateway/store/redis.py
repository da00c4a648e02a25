"""The shared store: any number of processes on one Redis or Valkey, and nothing else between them.

What a response is, is in its own keys and written by one script at a time (`redis_writing`); logs are streams, and
readers hear of what is new by messages (`redis_logs`); what leads to a response is a hint (`redis_hints`); who lives is
said by heartbeats and Redis' own clock (`redis_processes`).
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import lru_cache, partial

from gateway.config_store import RedisUrl, without_password
from gateway.domain.attempt import Attempt, Fate
from gateway.domain.errors import StoreUnavailable
from gateway.domain.events import Event
from gateway.domain.lifecycle import Outcome
from gateway.domain.response import Body, Change, Response
from gateway.store import rules
from gateway.store.port import PAGE_BYTES, Due, Durability, Lease, Page, Pulse, Query, Space, Unusable
from gateway.store.redis_attempts import Answered
from gateway.store.redis_client import client_of
from gateway.store.redis_due import Dues
from gateway.store.redis_hints import Hints, keys_of
from gateway.store.redis_inspection import inspect
from gateway.store.redis_keeping import Keeping
from gateway.store.redis_link import Call, Link, text
from gateway.store.redis_logs import Logs
from gateway.store.redis_processes import Processes
from gateway.store.redis_rows import Kept, Names, body_of, names_of
from gateway.store.redis_scripts import UNLOCK
from gateway.store.redis_writing import Turns, Writer
from gateway.store.rules import State

_PREFIX = "responses"
_REMEMBERED_NAMES = 4096
_AT_ONCE = 100
_PROBES = 64  # of as many keys each server of a cluster has one
_LOCK_S = 10.0
_LOCK_PAUSE_S, _LOCK_TRIES = 0.02, 500
_BACKSTOP_S = 86400.0
"""What nobody purges goes by itself so long after its time."""


class RedisStore:
    """A Redis at `url`. `clock` gives unix seconds; `cache_bytes` of each log that is read are in memory."""

    shared = True

    def __init__(
        self,
        url: str,
        *,
        clock: Callable[[], float] = time.time,
        cache_bytes: int = 2**20,
        timeout_s: float = 5.0,
        retention_s: float = 604800.0,
        resume_window_s: float = 600.0,
        give_up_after_s: float = 86400.0,
    ) -> None:
        parsed = RedisUrl.parse(url)
        prefix = parsed.option("prefix") or _PREFIX
        self.owner_key = b""
        self.durability: Durability = "process"
        self.warnings: Sequence[str] = ()
        self._clock = clock
        self._url = without_password(url)
        self._link = Link(client_of(parsed, timeout_s=timeout_s), timeout_s=timeout_s)
        self._names: Callable[[str], Names] = lru_cache(_REMEMBERED_NAMES)(
            partial(names_of, prefix, "SPUBLISH" if self._link.is_cluster else "PUBLISH")
        )
        self._hints = Hints(prefix)
        self._processes = Processes(self._link, self._hints)
        self._dues = Dues(self._link, self._hints, self._names, self._processes)
        self._logs = Logs(self._link, self._names, self._processes.me, cache_bytes=cache_bytes)
        kept_s = retention_s, resume_window_s, give_up_after_s + retention_s, 0.0
        kept = Kept(*(int((some_s + _BACKSTOP_S) * 1000) for some_s in kept_s))
        self._writer = Writer(self._link, self._hints, self._names, self._processes, self._dues, self._logs, kept)
        self._keeping = Keeping(self._link, self._hints, self._names, self._processes, self._dues, self._writer)
        self._answered = Answered(self._link, self._mark, clock)
        self._turn = Turns()

    async def open(self) -> None:
        """Reach the server, and see whether it will do. Raises Unusable."""
        place = self._hints.key("owner_key")
        try:
            self.durability, self.warnings = await inspect(self._link)
            _, self.owner_key = await self._link.write(("SET", place, secrets.token_bytes(32), "NX"), ("GET", place))
        except (StoreUnavailable, Unusable) as error:
            await self._link.drain()
            await self._link.close()
            raise Unusable(f"{self._url}: {error}") from error
        self._logs.open()

    async def close(self) -> None:
        """Write what is queued, then release readers and hang up; every call from now on fails."""
        await self._link.drain()
        self._logs.close()
        await self._link.close()

    async def create(self, response: Response, attempt: Attempt | None = None, *, join: bool = False) -> Response:
        """See the port."""
        rule = partial(rules.create, response=response, attempt=attempt, holder=self._processes.me, forgets=True)
        if attempt is None:
            return await self._writer.begin(response.key, rule, response.created_at)
        async with self._turn(attempt.name):
            if not join:
                return await self._writer.begin(response.key, rule, response.created_at)
            async with self._alone(attempt.name):
                if (joined := await self._joined(attempt)) is not None:
                    return joined
                return await self._writer.begin(response.key, rule, response.created_at)

    async def mark(self, key: str, attempt: Attempt) -> None:
        """See the port. That it was answered is written down a moment later."""
        if attempt.fate is Fate.ANSWERED:
            self._link.check()
            self._answered.note(key, attempt)
        else:
            self._answered.lost(key, attempt)
            await self._mark(key, attempt)

    async def change(self, key: str, change: Change, *, epoch: int | None, body: Body | None = None) -> bool:
        """See the port."""
        rule = partial(rules.change, change=change, epoch=epoch, body=body)
        return await self._writer.change(key, rule, change.name)

    async def append(self, key: str, events: Sequence[Event], *, tail: int, epoch: int) -> int:
        """See the port."""
        return await self._writer.append(key, events, tail=tail, epoch=epoch)

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
        return await self._writer.end(key, rule)

    async def get(self, key: str) -> Response | None:
        """See the port."""
        (row,) = await self._writer.read([key])
        return rules.record(row.state)

    async def find(self, response_id: str, *, route: str, owner: str | None) -> Response | None:
        """See the port."""
        name = self._hints.name(route, response_id)
        (found,) = await self._link.read(("HGETALL", name) if owner is None else ("HGET", name, text(owner)))
        keys = keys_of([found] if isinstance(found, bytes) else sorted(set((found or {}).values())))
        rows = [row for row in await self._writer.read(keys) if row.is_named(route, response_id, owner)]
        return rules.record(rows[0].state) if len(rows) == 1 else None

    async def buried(self, response_id: str, *, route: str) -> bool:
        """See the port."""
        stone = self._hints.tombstone(route, response_id)
        (at,) = await self._link.read(("ZSCORE", self._hints.key("tombstones"), stone))
        return at is not None

    async def body(self, key: str) -> Body | None:
        """See the port."""
        (found,) = await self._link.read(("HGETALL", self._names(key).body))
        return body_of(found)

    async def read(self, key: str, *, after: int, wait: float = 0, limit: int = PAGE_BYTES) -> Page:
        """See the port."""
        return await self._logs.read(key, after, wait_s=wait, limit=limit)

    async def renew(self, ttl_s: float) -> Pulse:
        """See the port."""
        pulse = await self._processes.renew(ttl_s)
        return replace(pulse, unsure=self._logs.were_cut())

    async def claim(self, key: str) -> Lease | None:
        """See the port."""
        return await self._writer.claim(key)

    async def release(self, key: str, *, epoch: int) -> None:
        """See the port."""
        await self._writer.write(key, partial(rules.release, epoch=epoch))

    async def orphans(self, in_hand: Collection[str] | None = None) -> AsyncIterator[Response]:
        """See the port."""
        mine = () if in_hand is None else (self._processes.me,)
        if in_hand is not None:
            await self._keeping.find_again(in_hand)
        for process in (None, *mine, *await self._processes.dead()):
            place = self._hints.held_by(process)
            async for key, row in self._keeping.listed(place, but=in_hand or ()):
                response = rules.record(row.state)
                if (response is None or response.ended) and process is not None:
                    self._link.later(("ZREM", place, text(key)))  # it died before it could
                elif response is not None and not response.ended and row.state.hold == process:
                    yield response

    async def turn(self, key: str, every_s: float) -> bool:
        """See the port."""
        turn = ("SET", self._names(key).turn, self._processes.me, "NX", "PX", max(int(every_s * 1000), 1))
        (mine,) = await self._link.write(turn)
        return mine is not None

    async def live(self) -> AsyncIterator[Response]:
        """See the port."""
        async for _, row in self._keeping.listed(self._hints.key("live")):
            if (response := rules.record(row.state)) is not None and not response.ended:
                yield response

    async def list(self, query: Query) -> Sequence[Response]:
        """See the port."""
        shelf, below, found = self._hints.shelf(query), "+inf", list[Response]()
        if query.before is not None:
            (place,) = await self._link.read(("ZSCORE", self._hints.key("all"), text(query.before)))
            if place is None:
                return []
            below = f"({float(place)!r}"
        while len(found) < query.limit:
            asked = ("ZREVRANGEBYSCORE", shelf, below, "-inf", "LIMIT", 0, _AT_ONCE)
            (keys,) = await self._link.read(asked)
            if not keys:
                break
            rows = await self._writer.read(keys_of(keys))
            found += [one for row in rows if (one := rules.record(row.state)) is not None and query.matches(one)]
            (place,) = await self._link.read(("ZSCORE", shelf, keys[-1]))
            below = f"({float(place)!r}"
        return found[: query.limit]

    async def due(self, *, after: int = -1, limit: int) -> Sequence[Due]:
        """See the port."""
        return await self._dues.due(after, limit)

    async def amend(self, due: Due) -> None:
        """See the port."""
        await self._dues.amend(due)

    async def settle(self, numbers: Sequence[int]) -> None:
        """See the port."""
        await self._dues.settle(numbers)

    async def owed(self) -> int:
        """See the port."""
        return await self._dues.owed()

    async def delete(self, key: str) -> None:
        """See the port."""
        await self._writer.write(key, partial(rules.remove, now=self._clock()))

    async def purge(self, now: float, *, retention_s: float, resume_window_s: float, tombstone_s: float) -> int:
        """See the port."""
        limits = {"retention_s": retention_s, "resume_window_s": resume_window_s, "tombstone_s": tombstone_s}
        return await self._keeping.purge(now, **limits)

    async def space(self) -> Space:
        """Bytes of memory that Redis uses, and may use."""
        servers = [memory for (memory,) in await self._link.everywhere(("INFO", "memory"))]
        used = sum(int(memory["used_memory"]) for memory in servers)
        limits = [int(memory.get("maxmemory", 0)) for memory in servers]
        return Space(used, max(sum(limits) - used, 0), sum(limits)) if all(limits) else Space(used)

    async def probe(self) -> None:
        """Write something to each server: one that is full, or a replica, still answers."""
        keys = [self._hints.key("probe", str(number)) for number in range(_PROBES)]
        everywhere = {self._link.place_of(key): key for key in keys}
        await self._link.write(*[("SET", key, "", "PX", 1) for key in everywhere.values()])

    async def _mark(self, key: str, attempt: Attempt) -> None:
        await self._writer.write(key, partial(rules.mark, attempt=attempt))

    async def _joined(self, attempt: Attempt) -> Response | None:
        """The record that an attempt joins."""
        (found,) = await self._link.read(("ZRANGE", self._hints.attempt(attempt.name), 0, -1))
        keys = keys_of(found)
        rows = zip(keys, await self._writer.read(keys), strict=True)
        states = [(key, self._answered.seen(key, row.state)) for key, row in rows]
        now = self._clock()
        for key, _ in sorted(states, key=lambda one: rules.nearest(one[1])):

            def rule(state: State, key: str = key) -> tuple[State, Response | None]:
                after, record = rules.join(self._answered.seen(key, state), attempt, now)
                return (state, None) if record is None else (after, record)

            if (joined := await self._writer.write(key, rule)) is not None:
                return joined
        return None

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        """While no other process records an attempt of this name."""
        lock, mine = self._hints.key("lock", name), secrets.token_hex(8)
        take = ("SET", lock, mine, "NX", "PX", int(_LOCK_S * 1000))
        for _ in range(_LOCK_TRIES):
            if (await self._link.write(take))[0]:
                break
            await asyncio.sleep(_LOCK_PAUSE_S)
        else:
            raise StoreUnavailable("Another process has been recording the same create for too long.")
        try:
            async with asyncio.timeout(_LOCK_S / 2):
                yield
        except TimeoutError:
            raise StoreUnavailable("It took too long to record the create.") from None
        finally:
            self._link.later(Call(UNLOCK, (lock,), (mine,)))
