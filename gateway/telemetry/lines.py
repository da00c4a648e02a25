"""The way of a log line out of the process, without anybody waiting for whoever reads it.

Rule: no vendor, no knowledge of what a line says. Used by `logs.py` alone.
"""

import contextlib
import math
import queue
import threading
from typing import Final, TextIO

_QUEUE_LINES: Final = 10_000
_REPEAT_S: Final = 60.0


class Seldom:
    """Lets one line of a kind through per minute."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, int]] = {}

    def kept_back(self, kind: str, at: float) -> int | None:
        """How many were kept back since the last one; None: keep this one back, too."""
        last, kept_back = self._last.get(kind, (-math.inf, 0))
        if 0 <= at - last < _REPEAT_S:
            self._last[kind] = (last, kept_back + 1)
            return None
        self._last[kind] = (at, 0)
        return kept_back


class Lines:
    """The stream behind a bounded queue and a thread: `write` never waits for whoever reads the stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._queue: queue.Queue[str | None] = queue.Queue(_QUEUE_LINES)
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name="log-lines", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Queue some text; where there is no room it is lost, and counted."""
        try:
            self._queue.put_nowait(text)
        except queue.Full:
            self._lost += 1

    def flush(self) -> None:
        """Nothing to do: the thread flushes when it has caught up."""

    def take_lost(self) -> int:
        """How many texts were lost since last asked, once there is room again."""
        if not self._lost or self._queue.full():
            return 0
        lost, self._lost = self._lost, 0
        return lost

    def close(self, timeout_s: float) -> None:
        """Write what is queued, for at most about `timeout_s`."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=timeout_s)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (text := self._queue.get()) is not None:
            with contextlib.suppress(OSError, ValueError):  # a closed stream: there is nobody left to tell
                self._stream.write(text)
                if self._queue.empty():
                    self._stream.flush()
