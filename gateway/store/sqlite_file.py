"""The SQLite file: opening it, its schema, and why it cannot be used. Only `sqlite` calls this, in its writer thread.

One process has the file: a lock on a side file (`<file>.lock`, left in place) turns a second one away before it
touches anything, SQLite's own exclusive lock turns away other programs. That one is the process's (`unix-excl`): there
may be several connections, and no shared memory file, without which a full disk could not be opened. What makes a file
unusable is looked for before anything is written to it: its kind and version are in its first hundred bytes from its
first commit on.
"""

import fcntl
import os
import secrets
import shutil
import sqlite3
import struct
from dataclasses import dataclass
from pathlib import Path

from gateway.domain.errors import StoreUnavailable
from gateway.store import sqlite_commit
from gateway.store.port import Durability, Space, Unusable

APPLICATION = 0x52474C47
"""SQLite's application id of these files."""
VERSION = 1

# Copying that many pages of the log inside of a commit is for when `sqlite_checkpoints` cannot keep up.
_LONGEST_LOG = 64_000

# What was added since the first files were made: such a file gets these tables when it is opened, and whoever does not
# know them may still open the file. An end that is due has the number 2 * rid, one that came late 2 * rid + 1; an
# attempt is there while others may join it. Of most responses, which have completed, the indexes of what runs and of
# what did not go as usual have nothing, and nothing has to be written there.
_ADDED = """
CREATE INDEX IF NOT EXISTS record_running ON record(live) WHERE live = 1;
CREATE INDEX IF NOT EXISTS record_unusual ON record(status) WHERE status <> 'completed';
CREATE TABLE IF NOT EXISTS due(number INTEGER PRIMARY KEY, at REAL NOT NULL, crc INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS attempt(
    rid INTEGER PRIMARY KEY, name TEXT NOT NULL, fingerprint TEXT NOT NULL, at REAL NOT NULL, keyed INTEGER NOT NULL,
    retry INTEGER NOT NULL, fate TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS attempt_name ON attempt(name);
"""

_REPLACED = """
DROP INDEX IF EXISTS record_live;
DROP INDEX IF EXISTS record_status;
DROP INDEX IF EXISTS due_at;
"""

# A log is rows of `batch`, one per append, in the order of their arrival: a row goes to the end of the table and of few
# index pages, where a table ordered by response would touch a page per response. `numbers` holds positions and lengths.
# `doomed` names logs whose rows are still to be deleted, a few at a time.
_SCHEMA = f"""
BEGIN EXCLUSIVE;
CREATE TABLE record(
    rid INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, live INTEGER NOT NULL, status TEXT, stuck INTEGER NOT NULL,
    ended_at REAL, content_ended_at REAL, crc INTEGER NOT NULL, data BLOB NOT NULL
);
CREATE INDEX record_ended ON record(ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX record_content ON record(content_ended_at) WHERE content_ended_at IS NOT NULL;
CREATE TABLE alias(
    route TEXT NOT NULL, response_id TEXT NOT NULL, owner TEXT NOT NULL, rid INTEGER NOT NULL,
    PRIMARY KEY(route, response_id, owner)
) WITHOUT ROWID;
CREATE TABLE batch(
    id INTEGER PRIMARY KEY, rid INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    crc INTEGER NOT NULL, numbers BLOB NOT NULL, data BLOB NOT NULL
);
CREATE UNIQUE INDEX batch_of ON batch(rid, first);
CREATE TABLE body(
    rid INTEGER PRIMARY KEY, at REAL NOT NULL, crc INTEGER NOT NULL, headers BLOB NOT NULL, data BLOB NOT NULL
);
CREATE TABLE tombstone(
    route TEXT NOT NULL, response_id TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY(route, response_id)
) WITHOUT ROWID;
CREATE INDEX tombstone_at ON tombstone(at);
CREATE TABLE doomed(rid INTEGER PRIMARY KEY);
{_ADDED}
CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
PRAGMA application_id={APPLICATION};
PRAGMA user_version={VERSION};
"""


@dataclass(frozen=True, slots=True)
class StoreFile:
    """An open file: its connection, for one thread, the secret in it, and the lock beside it."""

    connection: sqlite3.Connection
    owner_key: bytes
    lock: int

    def close(self) -> None:
        """Close the connection, then give the lock back."""
        try:
            self.connection.close()
        finally:
            os.close(self.lock)


def open_file(path: Path, durability: Durability) -> StoreFile:
    """Open the file, or make it. Raises Unusable, and leaves what was there as it was."""
    # By its real name, so that nobody comes in by a link.
    path = Path(os.path.realpath(path))
    lock = _lock(path)
    try:
        is_new = _inspect(path)
        if is_new:
            _make(path)
        connection = connect(path, durability)
        try:
            owner_key = _set_up(connection, path, is_new=is_new)
            sqlite_commit.prepare(connection)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        os.close(lock)
        raise Unusable(_explained(path, error)) from error
    except BaseException:
        os.close(lock)
        raise
    return StoreFile(connection, owner_key, lock)


def connect(path: Path, durability: Durability) -> sqlite3.Connection:
    """One more connection of this process, for one thread. Raises sqlite3.Error."""
    uri = f"{Path(os.path.realpath(path)).as_uri()}?vfs=unix-excl"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0)
    try:
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute(f"PRAGMA synchronous={'FULL' if durability == 'fsync' else 'NORMAL'}")
        connection.execute(f"PRAGMA wal_autocheckpoint={_LONGEST_LOG}")
    except BaseException:
        connection.close()
        raise
    return connection


def _lock(path: Path) -> int:
    if os.path.isdir(path):
        raise Unusable(f"{path} is a directory: name a file in it")
    if not os.path.isdir(path.parent):
        raise Unusable(f"the directory {path.parent} does not exist: create it, or store elsewhere")
    try:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unusable(
            f"cannot write in {path.parent} ({error.strerror}): give this user the right to, or store elsewhere"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise Unusable(f"{path} is in use by another gateway: stop it, or store elsewhere") from error
    return lock


def _make(path: Path) -> None:
    """An empty file, for this user alone, as what people are answered will be in it; SQLite's other files follow it."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise Unusable(f"{path} cannot be written ({error.strerror}): give this user the right to") from error


def _inspect(path: Path) -> bool:
    """Whether the file is still to be made; judged by its own bytes, before SQLite may touch it."""
    if not path.exists() or path.stat().st_size == 0:
        return True
    if not os.access(path, os.R_OK | os.W_OK):
        raise Unusable(f"{path} cannot be read and written: give this user the right to")
    with path.open("rb") as file:
        head = file.read(100)
    if len(head) < 100 or not head.startswith(b"SQLite format 3\0"):
        raise Unusable(f"{path} is not an SQLite database: move it away, or store elsewhere")
    (version,) = struct.unpack_from(">i", head, 60)
    (application,) = struct.unpack_from(">i", head, 68)
    if application != APPLICATION:
        raise Unusable(f"{path} belongs to another program: store elsewhere")
    if version > VERSION:
        raise Unusable(
            f"{path} is of a newer version ({version}; known is {VERSION}): run that version, or store elsewhere"
        )
    return False


def _set_up(connection: sqlite3.Connection, path: Path, *, is_new: bool) -> bytes:
    if is_new:
        _create(connection)
    else:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise Unusable(_damaged(path, found))
        connection.executescript(_ADDED + _REPLACED)
    connection.execute("PRAGMA journal_mode=WAL")
    return bytes(connection.execute("SELECT value FROM meta WHERE name='owner_key'").fetchone()[0])


def _create(connection: sqlite3.Connection) -> None:
    # In one transaction, and before WAL is on: a crash leaves an empty file or a whole one, with its version in front.
    connection.executescript(_SCHEMA)
    connection.execute("INSERT INTO meta VALUES('owner_key', ?)", (secrets.token_bytes(32),))
    connection.execute("COMMIT")


def probe(db: sqlite3.Connection) -> None:
    """Write something that nobody reads."""
    db.execute("INSERT OR REPLACE INTO meta VALUES('probe', ?)", (secrets.token_bytes(8),))


def space_of(path: Path) -> Space:
    """Room of the file with its write-ahead log, and on its disk. Raises StoreUnavailable."""
    files = (path, Path(f"{path}-wal"))
    try:
        taken = sum(file.stat().st_size for file in files if file.exists())
        disk = shutil.disk_usage(path.parent)
    except OSError as error:
        raise StoreUnavailable(f"The store's disk cannot be asked: {error.strerror}.") from error
    return Space(taken, disk.free, disk.total)


def _explained(path: Path, error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorname", "")
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return _damaged(path, str(error))
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"{path} is in use by another program: stop it, or store elsewhere"
    if code.startswith("SQLITE_FULL"):
        return f"no room for {path}: free some, or store elsewhere"
    return f"{path} cannot be opened ({error}): check the disk and this user's rights"


def _damaged(path: Path, how: str) -> str:
    how = " ".join(how.replace("*** in database main ***", "").split())
    return f"{path} is damaged ({how}): put a backup in its place, or move it away"
