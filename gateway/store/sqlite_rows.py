"""What is read from the SQLite file, and forgotten in it, in its writer thread. Only `sqlite` calls this.

How it is written is in `sqlite_commit`, how values become blobs in `encoding`, what is due in `sqlite_due`.
"""

import sqlite3
import zlib
from collections.abc import Sequence
from contextlib import closing
from typing import Any, NamedTuple

import msgspec

from gateway.domain.attempt import Attempt
from gateway.domain.encoding import decode
from gateway.domain.response import Body, Status
from gateway.store import sqlite_attempts, sqlite_due
from gateway.store.encoding import damaged
from gateway.store.port import Query
from gateway.store.rules import Entry
from gateway.store.tail import Frames

_SWEPT_ROWS = 256
_Headers = tuple[tuple[str, str], ...]
_entry = msgspec.json.Decoder(Entry)
_headers = msgspec.json.Decoder(_Headers)
_numbers = msgspec.msgpack.Decoder(tuple[list[int], list[int]])


class Row(NamedTuple):
    """A record as the file has it."""

    rid: int
    key: str
    entry: Entry
    tail: int
    attempt: Attempt | None


def _select(tail: str = "NULL") -> str:
    """Reads records; `tail` is an expression for the last position of a log, where it is not the record's."""
    columns = f"record.rid, record.key, record.crc, record.data, {tail}, {sqlite_attempts.COLUMNS}"
    return f"SELECT {columns} FROM record LEFT JOIN attempt USING(rid)"


_SELECT = _select()


def _rows(db: sqlite3.Connection, sql: str, values: Sequence[Any]) -> list[Row]:
    return [_row(*found) for found in _found(db, sql, values)]


def _found(db: sqlite3.Connection, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    try:
        return db.execute(sql, values).fetchall()
    except UnicodeEncodeError:
        # A name that is no UTF-8 is nobody's.
        return []


def _row(rid: int, key: str, crc: int, data: bytes, tail: int | None, *of_attempt: Any) -> Row:
    if zlib.crc32(data) != crc:
        raise damaged("record", key)
    entry = decode(_entry, data)
    attempt = sqlite_attempts.read(*of_attempt)
    return Row(rid, key, entry, entry.response.tail if tail is None else tail, attempt)


def live_rows(db: sqlite3.Connection) -> list[Row]:
    """Every record that has not ended, with the tail that its log shows."""
    tail = "SELECT last FROM batch WHERE batch.rid = record.rid ORDER BY first DESC LIMIT 1"
    return _rows(db, f"{_select(f'coalesce(({tail}), -1)')} WHERE live = 1 ORDER BY rid", ())


def next_rid(db: sqlite3.Connection) -> int:
    """A number that no row uses, not even one that is still to be deleted."""
    tables = ("record", "batch", "doomed", "body")
    used: list[int] = [db.execute(f"SELECT coalesce(max(rid), 0) FROM {table}").fetchone()[0] for table in tables]
    return max(*used, sqlite_due.last_rid(db)) + 1


def row_of(db: sqlite3.Connection, key: str) -> Row | None:
    """The record by its key."""
    found = _rows(db, f"{_SELECT} WHERE key = ?", (key,))
    return found[0] if found else None


def named_row(db: sqlite3.Connection, route: str, response_id: str, owner: str | None) -> Row | None:
    """The record by upstream's id: the owner's, or without an owner the only one."""
    mine = "" if owner is None else "AND owner = ?"
    named = f"SELECT DISTINCT rid FROM alias WHERE route = ? AND response_id = ? {mine} LIMIT 2"
    values = (route, response_id) if owner is None else (route, response_id, owner)
    found = _rows(db, f"{_SELECT} WHERE rid IN ({named})", values)
    return found[0] if len(found) == 1 else None


def attempt_rows(db: sqlite3.Connection, name: str) -> list[Row]:
    """The records whose attempt has this name."""
    return _rows(db, f"{_SELECT} WHERE attempt.name = ?", (name,))


def listed_rows(db: sqlite3.Connection, query: Query) -> list[Row]:
    """The records that a query asks for, newest first."""
    terms: list[str] = []
    values: list[Any] = []
    # An index of some rows is used where the words say that none but those are wanted.
    if query.live is not None:
        terms.append(f"live = {query.live:d}")
    if query.stuck is not None:
        terms.append("stuck = 1 AND live = 1" if query.stuck else "stuck = 0")
    if query.status is not None:
        terms.append("status = ?" if query.status == Status.COMPLETED else "status = ? AND status <> 'completed'")
        values.append(query.status)
    if query.before is not None:
        terms.append("rid < (SELECT rid FROM record WHERE key = ?)")
        values.append(query.before)
    where = f"WHERE {' AND '.join(terms)}" if terms else ""
    return _rows(db, f"{_SELECT} {where} ORDER BY rid DESC LIMIT ?", (*values, query.limit))


def is_buried(db: sqlite3.Connection, route: str, response_id: str) -> bool:
    """Whether there is a tombstone."""
    sql = "SELECT 1 FROM tombstone WHERE route = ? AND response_id = ?"
    return bool(_found(db, sql, (route, response_id)))


def body_of(db: sqlite3.Connection, rid: int, key: str) -> Body | None:
    """The newest body."""
    found = db.execute("SELECT at, crc, headers, data FROM body WHERE rid = ?", (rid,)).fetchone()
    if found is None:
        return None
    at, crc, headers, data = found
    if zlib.crc32(data, zlib.crc32(headers)) != crc:
        raise damaged("body", key)
    return Body(data, decode(_headers, headers), at)


_PAGE = """
SELECT crc, numbers, data FROM batch WHERE rid = :rid AND first >= coalesce(
    (SELECT max(first) FROM batch WHERE rid = :rid AND first <= :wanted), 0) ORDER BY first
"""


def frames_of(db: sqlite3.Connection, rid: int, key: str, after: int, limit: int) -> Frames:
    """The frames after a position: at most `limit` bytes, or one frame."""
    frames: list[tuple[int, bytes]] = []
    room = limit
    with closing(db.execute(_PAGE, {"rid": rid, "wanted": after + 1})) as found:
        for crc, numbers, data in found:
            if zlib.crc32(data, zlib.crc32(numbers)) != crc:
                raise damaged("log", key)
            start = 0
            for number, length in zip(*_numbers.decode(numbers), strict=True):
                if number > after:
                    room -= length
                    if frames and room < 0:
                        return tuple(frames)
                    frames.append((number, data[start : start + length]))
                start += length
    return tuple(frames)


def expired_rows(db: sqlite3.Connection, ended_at: float, content_ended_at: float, limit: int) -> list[Row]:
    """Records that ended by `ended_at`, and those whose content goes earlier and ended by `content_ended_at`."""
    whole = f"{_SELECT} WHERE ended_at <= ? LIMIT ?"
    content = f"{_SELECT} WHERE content_ended_at <= ? LIMIT ?"
    return [*_rows(db, whole, (ended_at, limit)), *_rows(db, content, (content_ended_at, limit))]


def forget_tombstones(db: sqlite3.Connection, until: float, limit: int) -> int:
    """Delete tombstones set by then; how many."""
    names = "SELECT route, response_id FROM tombstone WHERE at <= ? LIMIT ?"
    sql = f"DELETE FROM tombstone WHERE (route, response_id) IN ({names})"
    return db.execute(sql, (until, limit)).rowcount


def sweep(db: sqlite3.Connection) -> bool:
    """Delete a few rows of a log that is gone; whether there may be more to delete."""
    found = db.execute("SELECT rid FROM doomed LIMIT 1").fetchone()
    if found is None:
        return False
    some = "DELETE FROM batch WHERE id IN (SELECT id FROM batch WHERE rid = ? LIMIT ?)"
    if db.execute(some, (found[0], _SWEPT_ROWS)).rowcount < _SWEPT_ROWS:
        db.execute("DELETE FROM doomed WHERE rid = ?", found)
    return True
