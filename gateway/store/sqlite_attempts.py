"""Attempts in the SQLite file: a row for each create that another may still join. Most rows live for milliseconds.

Only `sqlite` and `sqlite_rows` call this, in the writer thread.
"""

import sqlite3
from typing import Any

from gateway.domain.attempt import Attempt, Fate

INSERT = "INSERT OR REPLACE INTO attempt VALUES(?,?,?,?,?,?,?)"
DELETE = "DELETE FROM attempt WHERE rid=?"
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


def forget(db: sqlite3.Connection, until: float, limit: int) -> int:
    """Forget attempts that have not moved since then; how many."""
    sql = "DELETE FROM attempt WHERE rid IN (SELECT rid FROM attempt WHERE at <= ? LIMIT ?)"
    return db.execute(sql, (until, limit)).rowcount
