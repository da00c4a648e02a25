"""The ends that are due, in the SQLite file: rows of their own, which outlive the record of a response that is deleted.

A row's number is twice that of its record, and one more for an end that came late: so each has its own, without another
count to keep. Only `sqlite` and `sqlite_rows` call this, in the writer thread.
"""

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from gateway.domain.encoding import decode, encode
from gateway.domain.response import Response
from gateway.store.encoding import damaged
from gateway.store.port import Due

INSERT = "INSERT OR REPLACE INTO due VALUES(?1, ?2, ?3, ?4)"
_response = msgspec.json.Decoder(Response)


def rows_of(rid: int, ends: Sequence[tuple[Response, bool]]) -> Iterator[tuple[Any, ...]]:
    """What `INSERT` takes for the ends of one record."""
    for response, late in ends:
        data = encode(response)
        yield 2 * rid + late, response.ended_at, zlib.crc32(data), data


def last_rid(db: sqlite3.Connection) -> int:
    """The largest number of a record that something is due of."""
    found: int = db.execute("SELECT coalesce(max(number) / 2, 0) FROM due").fetchone()[0]
    return found


def due(db: sqlite3.Connection, after: int, limit: int) -> list[Due]:
    """The first ends that are due, beyond a number. One that is damaged is named once, and holds up no other."""
    sql = "SELECT number, crc, data FROM due WHERE number > ? ORDER BY number LIMIT ?"
    found = []
    for number, crc, data in db.execute(sql, (after, limit)).fetchall():
        try:
            response = decode(_response, data) if zlib.crc32(data) == crc else None
        except msgspec.ValidationError:
            response = None
        if response is None:
            settle(db, (number,))
            raise damaged("end", f"record {number // 2}")
        found.append(Due(number, response, bool(number % 2)))
    return found


def amend(db: sqlite3.Connection, due: Due) -> None:
    """Keep another value of an end that is due."""
    data = encode(due.response)
    db.execute("UPDATE due SET crc = ?, data = ? WHERE number = ?", (zlib.crc32(data), data, due.number))


def settle(db: sqlite3.Connection, numbers: Sequence[int]) -> None:
    """These ends are not due any more."""
    db.execute(f"DELETE FROM due WHERE number IN ({','.join('?' * len(numbers))})", numbers)


def owed(db: sqlite3.Connection) -> int:
    """How many ends are due."""
    found: int = db.execute("SELECT count(*) FROM due").fetchone()[0]
    return found


def forget(db: sqlite3.Connection, until: float, limit: int) -> int:
    """Forget ends of that time or before, if they are among the first; how many."""
    # Without an index by time, which every end would have to be put into and taken from.
    sql = "DELETE FROM due WHERE number IN (SELECT number FROM due ORDER BY number LIMIT ?) AND at <= ?"
    return db.execute(sql, (limit, until)).rowcount
