"""What is written to the SQLite file: one commit is one statement. Only `sqlite_thread` calls this, in its thread.

Theory of operation. With each call of SQLite, Python gives the interpreter's lock away and waits for it again; beside a
busy event loop that takes longer than the writing does. So all that a commit writes, to whichever tables, are rows of a
single insert into a view, and by its first column a trigger takes each row to where it belongs. Alone, a statement is a
transaction. View and triggers are temporary, which makes them this connection's: the file knows nothing of them.

Source: "CREATE TRIGGER" (INSTEAD OF triggers, TEMP triggers) in SQLite's documentation.
"""

import re
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.domain.encoding import encode
from gateway.domain.events import Event
from gateway.store import sqlite_attempts, sqlite_due
from gateway.store.port import PAGE_BYTES
from gateway.store.rules import Entry, State, aliases

_BATCH = "INSERT INTO batch(rid, first, last, crc, numbers, data) VALUES(?1, ?2, ?3, ?4, ?5, ?6)"
_CHANGING = ("live", "status", "stuck", "ended_at", "content_ended_at", "crc", "data")
_CHANGED = ", ".join(f"{column} = excluded.{column}" for column in _CHANGING)
_RECORD = f"""
INSERT INTO record VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT(rid) DO UPDATE SET {_CHANGED}
"""
_RECORD_GONE = "DELETE FROM record WHERE rid = ?1; DELETE FROM attempt WHERE rid = ?1"
_ALIAS = "INSERT OR REPLACE INTO alias VALUES(?1, ?2, ?3, ?4)"
_ALIAS_GONE = "DELETE FROM alias WHERE route = ?1 AND response_id = ?2 AND owner = ?3 AND rid = ?4"
_BODY = "INSERT OR REPLACE INTO body VALUES(?1, ?2, ?3, ?4, ?5)"
_CONTENT_GONE = "DELETE FROM body WHERE rid = ?1; INSERT OR IGNORE INTO doomed VALUES(?1)"
_TOMBSTONE = "INSERT OR REPLACE INTO tombstone VALUES(?1, ?2, ?3)"
_TRIGGERS: Final = (
    _BATCH,
    _RECORD,
    _RECORD_GONE,
    _ALIAS,
    _ALIAS_GONE,
    _BODY,
    _CONTENT_GONE,
    _TOMBSTONE,
    sqlite_attempts.INSERT,
    sqlite_attempts.DELETE,
    sqlite_due.INSERT,
)
_NUMBERS: Final = {sql: number for number, sql in enumerate(_TRIGGERS, start=1)}
_COLUMNS: Final = tuple(f"c{number}" for number in range(10))
_NOTHING: Final = (0, *(None for _ in _COLUMNS[1:]))
# A statement keeps a copy of what was bound to it last: so many rows and bytes, or one row that has more.
_ROWS: Final = 32
_BYTES: Final = PAGE_BYTES

_Row = tuple[Any, ...]
"""The number of a trigger, and what it takes as ?1, ?2, ..."""


class Write(Struct, frozen=True):
    """What one commit does to one response. `row` is the encoded entry, where it changed."""

    rid: int
    before: State
    after: State
    row: bytes | None


def prepare(db: sqlite3.Connection) -> None:
    """Give the connection what `commit` needs."""
    columns = ", ".join(f"NULL AS {column}" for column in _COLUMNS)
    db.execute(f"CREATE TEMP VIEW written AS SELECT {columns}")
    for sql, number in _NUMBERS.items():
        does = re.sub(r"\?(\d)", r"new.c\1", sql)
        when = f"INSTEAD OF INSERT ON written WHEN new.c0 = {number}"
        db.execute(f"CREATE TEMP TRIGGER written_{number} {when} BEGIN {does}; END")


def commit(db: sqlite3.Connection, writes: Iterable[Write]) -> None:
    """All of it or, raising sqlite3.Error, nothing."""
    parts = list(_parts(chain.from_iterable(_rows(write) for write in writes)))
    if len(parts) == 1:
        _insert(db, parts[0])
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        for part in parts:
            _insert(db, part)
        db.execute("COMMIT")
    except BaseException:
        # A full disk has rolled back by itself.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _parts(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
    part: list[_Row] = []
    room = _BYTES
    for row in rows:
        size = len(row[-1]) if isinstance(row[-1], bytes) else 0
        if part and (size > room or len(part) == _ROWS):
            yield part
            part, room = [], _BYTES
        part.append(row)
        room -= size
    if part:
        yield part


def _insert(db: sqlite3.Connection, rows: list[_Row]) -> None:
    """In one of few lengths, so that there are few statements to prepare."""
    length = 1 << (len(rows) - 1).bit_length()
    values = [value for row in rows for value in (*row, *_NOTHING[len(row) :])]
    values += _NOTHING * (length - len(rows))
    db.execute(_statement(length), values)


@cache
def _statement(length: int) -> str:
    row = f"({','.join('?' * len(_COLUMNS))})"
    return f"INSERT INTO written VALUES {','.join([row] * length)}"


def _rows(write: Write) -> Iterator[_Row]:
    for sql, row in _steps(write):
        yield _NUMBERS[sql], *row


def _steps(write: Write) -> Iterator[tuple[str, _Row]]:
    entry, before = write.after.entry, write.before.entry
    if entry is not None:
        yield from _written(write, entry)
    elif before is not None:
        yield from _removed(write, before)
    for row in sqlite_due.rows_of(write.rid, write.after.ends):
        yield sqlite_due.INSERT, row


def _removed(write: Write, entry: Entry) -> Iterator[tuple[str, _Row]]:
    response = entry.response
    yield _RECORD_GONE, (write.rid,)
    yield _CONTENT_GONE, (write.rid,)
    for name in aliases(entry):
        yield _ALIAS_GONE, (*name, write.rid)
    if response.response_id is not None:
        yield _TOMBSTONE, (response.route, response.response_id, write.after.removed_at)


def _written(write: Write, entry: Entry) -> Iterator[tuple[str, _Row]]:
    rid, after, before = write.rid, write.after, write.before.entry
    if after.events:
        for row in _batch_rows(rid, after.events):
            yield _BATCH, row
    if write.row is not None:
        response = entry.response
        content_ended_at = response.ended_at if entry.kept and not response.stored else None
        stuck = response.stuck is not None
        columns = (not response.ended, response.status, stuck, response.ended_at, content_ended_at)
        yield _RECORD, (rid, response.key, *columns, zlib.crc32(write.row), write.row)
        had, has = aliases(before), aliases(entry)
        for name in had - has:
            yield _ALIAS_GONE, (*name, rid)
        for name in has - had:
            yield _ALIAS, (*name, rid)
    if not entry.kept and before is not None and before.kept:
        yield _CONTENT_GONE, (rid,)
    elif after.body is not None:
        body, headers = after.body, encode(after.body.headers)
        yield _BODY, (rid, body.at, zlib.crc32(body.bytes, zlib.crc32(headers)), headers, body.bytes)
    if sqlite_attempts.written(write.before.attempt, attempt := after.attempt):
        if attempt is not None:
            yield sqlite_attempts.INSERT, sqlite_attempts.row_of(rid, attempt)
        else:
            yield sqlite_attempts.DELETE, (rid,)


def _batch_rows(rid: int, events: Sequence[Event]) -> Iterator[tuple[Any, ...]]:
    """One row, or several where it would be larger than the page that is read from it."""
    start, size = 0, 0
    for stop, event in enumerate(events):
        if size and size + len(event.frame) > PAGE_BYTES:
            yield _batch_row(rid, events[start:stop])
            start, size = stop, 0
        size += len(event.frame)
    yield _batch_row(rid, events[start:])


def _batch_row(rid: int, events: Sequence[Event]) -> tuple[Any, ...]:
    positions, lengths = [event.number for event in events], [len(event.frame) for event in events]
    numbers = msgspec.msgpack.encode((positions, lengths))
    data = b"".join([event.frame for event in events])
    return rid, positions[0], positions[-1], zlib.crc32(data, zlib.crc32(numbers)), numbers, data
