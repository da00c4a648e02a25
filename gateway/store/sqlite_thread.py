"""The thread that has the SQLite connection, and how writes become commits. Only `sqlite` calls this.

Theory of operation. What is to be decided is decided in the event loop, by `rules`; the thread only writes and reads.
While it commits, writes gather. When it is done, all that gathered is decided in order, each against what the ones
before it will have made, and becomes the next commit. Once that is done every one of them becomes true, for readers and
for callers; if it fails none does, and all their callers get `StoreUnavailable`. So no write builds on another that may
still fail without it, and nothing is readable before its acknowledgement. Reads are answered in the order of asking,
between commits.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from gateway.domain.errors import StoreUnavailable
from gateway.store import sqlite_attempts, sqlite_commit
from gateway.store.encoding import encode_entry
from gateway.store.job_thread import JobThread
from gateway.store.port import Durability
from gateway.store.rules import State
from gateway.store.sqlite_checkpoints import Checkpoints
from gateway.store.sqlite_file import StoreFile, open_file
from gateway.store.tail import Tail

_T = TypeVar("_T")
Rule = Callable[[State], tuple[State, _T]]
CLOSED = "The store is closed."


class Held:
    """A response in memory: what is true of it, and its log's recent end. One object for each, while it is in use."""

    __slots__ = ("__weakref__", "key", "log", "rid", "state")

    def __init__(self, key: str, rid: int, state: State, log: Tail) -> None:
        self.key = key
        self.rid = rid
        self.state = state
        self.log = log


class SqliteThread:
    """One connection in one thread. `settle` is told of every response's new state once it is committed."""

    def __init__(self, settle: Callable[[Held, State], None]) -> None:
        self._settle = settle
        self._thread: JobThread
        self._file: StoreFile
        self._checkpoints: Checkpoints
        self._queue: list[tuple[Held, Rule[Any], asyncio.Future[Any]]] = []
        self._committing = False
        self._open = False

    async def open(self, path: Path, durability: Durability) -> bytes:
        """Open the file; the secret in it. Raises Unusable."""
        self._thread = JobThread("store")
        try:
            self._file = await self._thread.do(open_file, path, durability)
        except BaseException:
            self._thread.end()
            raise
        self._checkpoints = Checkpoints(
            path, durability, lambda told, job: self._thread.tell(told, job, self._file.connection)
        )
        self._open = True
        return self._file.owner_key

    async def close(self) -> None:
        """Commit what is queued, and close the file. Every call from now on raises StoreUnavailable."""
        if not self._open:
            return
        last = self.write(Held("", 0, State(), Tail()), lambda state: (state, None))
        self._open = False
        with suppress(StoreUnavailable):
            await last
        await self._checkpoints.close()
        try:
            await self._thread.do(self._file.close)
        finally:
            self._thread.end()

    def check(self) -> None:
        """Raises StoreUnavailable if it is closed."""
        if not self._open:
            raise StoreUnavailable(CLOSED)

    def ask(self, job: Callable[..., _T], *args: Any) -> "asyncio.Future[_T]":
        """What `job(connection, *args)` returns, once the thread has come to it; StoreUnavailable, whatever failed."""
        self.check()
        return self._run(job, *args)

    def write(self, held: Held, rule: Rule[_T]) -> "asyncio.Future[_T]":
        """What the rule answers, once what it decided is committed; or what it raised."""
        self.check()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_T] = loop.create_future()
        self._queue.append((held, rule, done))
        if not self._committing:
            self._committing = True
            loop.call_soon(self._commit)
        return done

    def _run(self, job: Callable[..., _T], *args: Any) -> "asyncio.Future[_T]":
        return self._thread.do(_explained, job, self._file.connection, *args)

    def _commit(self) -> None:
        """Decide all that is queued, and hand it to the thread."""
        queue, self._queue = self._queue, []
        group: dict[Held, tuple[State, bytes | None]] = {}
        answers: list[tuple[asyncio.Future[Any], Any]] = []
        for held, rule, done in queue:
            before, row = group.get(held, (held.state, None))
            try:
                after, answer = rule(before)
                if after.entry is not None and after.entry is not before.entry:
                    row = encode_entry(after.entry)
            except Exception as error:
                answers.append((done, error))
            else:
                group[held] = after, row
                answers.append((done, answer))
        states = {held: after for held, (after, _) in group.items()}
        writes = [
            sqlite_commit.Write(held.rid, held.state, after, row)
            for held, (after, row) in group.items()
            if after.events
            or after.body
            or after.entry is not held.state.entry
            or sqlite_attempts.written(held.state.attempt, after.attempt)
        ]
        if writes:
            committed = partial(self._tell, states, answers)
            self._thread.tell(committed, _explained, sqlite_commit.commit, self._file.connection, writes)
        else:
            self._tell(states, answers)

    def _tell(
        self,
        states: dict[Held, State],
        answers: Sequence[tuple["asyncio.Future[Any]", Any]],
        _: None = None,
        failure: BaseException | None = None,
    ) -> None:
        """Make it true and tell the callers, or tell them that it failed; then go on with what has gathered."""
        if failure is None:
            self._checkpoints.written()
            for held, after in states.items():
                self._settle(held, after)
        for done, answer in answers:
            if done.done():
                continue
            if failure is not None:
                done.set_exception(StoreUnavailable(str(failure)))
            elif isinstance(answer, Exception):
                done.set_exception(answer)
            else:
                done.set_result(answer)
        self._committing = bool(self._queue)
        if self._committing:
            asyncio.get_running_loop().call_soon(self._commit)


def _explained(job: Callable[..., _T], db: sqlite3.Connection, *args: Any) -> _T:
    try:
        return job(db, *args)
    except StoreUnavailable:
        raise
    except Exception as error:
        raise StoreUnavailable(f"The store failed: {error}.") from error
