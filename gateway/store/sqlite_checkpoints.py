"""The write-ahead log goes into the file beside the writes, not between them. Only `sqlite_thread` calls this.

Theory of operation. By itself SQLite copies the log inside of a commit, once it has a thousand pages, and syncs two
files for that: all writes stand still until the disk has done so. Here a second connection copies in a thread of its
own, while the first goes on writing. But a log begins anew only when nothing of it is left to copy. A moment without
writes is enough for that; where there is none, and the log is long (128 MB), the writer's own connection copies the
rest, and writes wait for the disk once.

Source: "Checkpointing" and "Application-Initiated Checkpoints" in SQLite's documentation of write-ahead logging.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from gateway.store.job_thread import JobThread, Told
from gateway.store.port import Durability
from gateway.store.sqlite_file import connect

_EVERY_S: Final = 1.0
_LONG: Final = 32_000
_FEW: Final = 32
_PASSES: Final = 4

Ask = Callable[[Told, Callable[[sqlite3.Connection], int]], None]
"""Has a job done with a connection, and tells of it."""


class Checkpoints:
    """Copies the log of a file that is open, from the first commit on. `ask_writer`: its other connection's thread."""

    def __init__(self, path: Path, durability: Durability, ask_writer: Ask) -> None:
        self._connect = partial(connect, path, durability)
        self._ask_writer = ask_writer
        self._thread = JobThread("checkpoints")
        self._connection: sqlite3.Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def written(self) -> None:
        """There was a commit: the log is looked at in a moment."""
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._thread.tell, self._copied, self._copy)

    async def close(self) -> None:
        """Finish what is under way, and close the connection; nothing is asked of the writer any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self._thread.do(self._disconnect)
        self._thread.end()

    def _copied(self, pages: int | None, failure: BaseException | None) -> None:
        """A disk that is full keeps its log; the next commit tries again."""
        if pages is not None and pages >= _LONG and not self._closed:
            self._ask_writer(self._ended, _copy)
        else:
            self._ended()

    def _ended(self, *_: object) -> None:
        self._timer = None

    def _copy(self) -> int:
        if self._connection is None:
            self._connection = self._connect()
        return _copy(self._connection)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _copy(db: sqlite3.Connection) -> int:
    """Copy all but a few pages of the log; how many it has."""
    pages = 0
    for _ in range(_PASSES):
        _, pages, copied = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if pages - copied <= _FEW:
            break
    return pages
