"""Attempts in the SQLite file: a row for each create that another may still join. Most rows live for seconds.

One that is answered keeps its row until `GIVEN_S` are over: if the process is killed before, its client may not have
the answer. Only `sqlite` and `sqlite_rows` call this, in the writer thread.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any

from gateway.domain.attempt import GIVEN_S, Attempt, Fate

INSERT = "INSERT OR REPLACE INTO attempt VALUES(?,?,?,?,?,?,?)"
DELETE = "DELETE FROM attempt WHERE rid=?"
REOPEN = f"UPDATE attempt SET fate='{Fate.LEFT}' WHERE fate='{Fate.ANSWERED}'"
"""When the file is opened: what the last process had just answered is not known to have arrived."""
_FIELDS = ("name", "fingerprint", "at", "keyed", "retry", "fate")
COLUMNS = ", ".join(f"attempt.{field}" for field in _FIELDS)
"""What `read` takes, of a record joined with its attempt."""
WIDTH = len(_FIELDS)


def row_of(rid: int, attempt: Attempt) -> tuple[Any, ...]:
    """What `INSERT` takes."""
    return (rid, *(getattr(attempt, field) for field in _FIELDS))


def read(name: str | None, fingerprint: str, at: float, keyed: int, retry: int, fate: str) -> Attempt | None:
    """The attempt, if the record has one."""
    return None if name is None else Attempt(name, fingerprint, at, bool(keyed), retry, Fate(fate))


def settle(db: sqlite3.Connection, until: float) -> bool:
    """Forget what was answered by then; whether more was answered since."""
    db.execute("DELETE FROM attempt WHERE fate = ? AND at <= ?", (Fate.ANSWERED, until))
    return db.execute("SELECT 1 FROM attempt WHERE fate = ? LIMIT 1", (Fate.ANSWERED,)).fetchone() is not None


def forget(db: sqlite3.Connection, until: float, limit: int) -> int:
    """Forget attempts that have not moved since then; how many."""
    sql = "DELETE FROM attempt WHERE rid IN (SELECT rid FROM attempt WHERE at <= ? LIMIT ?)"
    return db.execute(sql, (until, limit)).rowcount


class Settling:
    """Forgets what was answered, when `GIVEN_S` are over. `ask` has a job done in the writer thread."""

    def __init__(self, ask: Callable[..., "asyncio.Future[bool]"], clock: Callable[[], float]) -> None:
        self._ask = ask
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def begin(self) -> None:
        """Something was answered."""
        if self._timer is None and not self._stopped:
            self._timer = asyncio.get_running_loop().call_later(GIVEN_S, self._settle)

    def stop(self) -> None:
        """The store is being closed."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _settle(self) -> None:
        self._ask(settle, self._clock() - GIVEN_S).add_done_callback(self._settled)

    def _settled(self, job: "asyncio.Future[bool]") -> None:
        self._timer = None
        if job.exception() is not None or job.result():
            self.begin()
