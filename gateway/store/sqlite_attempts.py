"""Attempts in the SQLite file: a row for each create that another may still join. Most rows live for seconds.

That one is answered is known in memory only, and `GIVEN_S` later its row goes: if the process is killed before, its
client may not have the answer, and the row is as good as it was. Only the modules of `sqlite` call this; what takes a
connection, in the writer thread.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

from gateway.domain.attempt import GIVEN_S, Attempt, Fate
from gateway.store.port import ATTEMPT_S

INSERT = "INSERT OR REPLACE INTO attempt VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)"
DELETE = "DELETE FROM attempt WHERE rid = ?1"
_FIELDS = ("name", "fingerprint", "at", "keyed", "retry", "fate")
COLUMNS = ", ".join(f"attempt.{field}" for field in _FIELDS)
"""What `read` takes, of a record joined with its attempt."""
WIDTH = len(_FIELDS)
_SETTLED_AT_ONCE = 100
"""So that creates get in between."""


def row_of(rid: int, attempt: Attempt) -> tuple[Any, ...]:
    """What `INSERT` takes."""
    return (rid, *(getattr(attempt, field) for field in _FIELDS))


def read(name: str | None, fingerprint: str, at: float, keyed: int, retry: int, fate: str) -> Attempt | None:
    """The attempt, if the record has one."""
    return None if name is None else Attempt(name, fingerprint, at, bool(keyed), retry, Fate(fate))


def written(before: Attempt | None, after: Attempt | None) -> bool:
    """Whether the file is told of this change."""
    return after is not before and (after is None or after.fate is not Fate.ANSWERED)


def settle(db: sqlite3.Connection, rids: Sequence[int]) -> None:
    """Forget what was answered, but for what turned out not to have arrived."""
    some = ",".join(map(str, rids))
    db.execute(f"DELETE FROM attempt WHERE rid IN ({some}) AND fate = ?", (Fate.WAITING,))


def forget(db: sqlite3.Connection, now: float, limit: int) -> int:
    """Forget attempts that have not moved for `ATTEMPT_S`; how many."""
    sql = "DELETE FROM attempt WHERE rid IN (SELECT rid FROM attempt WHERE at <= ? LIMIT ?)"
    return db.execute(sql, (now - ATTEMPT_S, limit)).rowcount


class Answered:
    """What was answered, until that is settled. `ask` has a job done in the writer thread."""

    def __init__(self, ask: Callable[..., "asyncio.Future[None]"], clock: Callable[[], float]) -> None:
        self._ask = ask
        self._clock = clock
        self._attempts: dict[int, Attempt] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def newest(self, rid: int, stored: Attempt | None) -> Attempt | None:
        """The attempt of a record whose row has `stored`."""
        return self._attempts.get(rid, stored)

    def note(self, rid: int, attempt: Attempt | None) -> None:
        """This is the record's attempt now."""
        self._attempts.pop(rid, None)
        if attempt is not None and attempt.fate is Fate.ANSWERED:
            self._attempts[rid] = attempt
            self._begin()

    def stop(self) -> None:
        """The store is being closed."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self, after_s: float = GIVEN_S) -> None:
        if self._timer is None and not self._stopped:
            self._timer = asyncio.get_running_loop().call_later(after_s, self._settle)

    def _settle(self) -> None:
        until = self._clock() - GIVEN_S
        over = ((rid, attempt) for rid, attempt in self._attempts.items() if attempt.at <= until)
        given = dict(islice(over, _SETTLED_AT_ONCE))
        self._ask(settle, tuple(given)).add_done_callback(partial(self._settled, given))

    def _settled(self, given: dict[int, Attempt], job: "asyncio.Future[None]") -> None:
        self._timer, done = None, job.exception() is None
        if done:
            for rid, attempt in given.items():
                if self._attempts.get(rid) is attempt:
                    del self._attempts[rid]
        if self._attempts:
            self._begin(0.0 if done and len(given) == _SETTLED_AT_ONCE else GIVEN_S)
