"""The way of a log line out of the process, without anybody waiting for whoever reads it.

Rule: no vendor, no knowledge of what a line says. Used by `logs.py` alone.
"""

import contextlib
import math
import threading
from collections import deque
from dataclasses import dataclass
from typing import Final, TextIO

_QUEUE_LINES: Final = 10_000
_REPEAT_S: Final = 60.0
_GATHER_S: Final = 0.05


@dataclass(slots=True)
class _Minute:
    began: float = -math.inf
    written: int = 0
    kept_back: int = 0


class Seldom:
    """Lets so many lines of a kind through per minute; kinds come from a bounded set."""

    def __init__(self) -> None:
        self._minutes: dict[str, _Minute] = {}

    def kept_back(self, kind: str, at: float, most: int = 1) -> int | None:
        """How many were kept back in the minute before; None: keep this one back, too."""
        minute = self._minutes.setdefault(kind, _Minute())
        if not 0 <= at - minute.began < _REPEAT_S:
            self._minutes[kind] = _Minute(at, 1)
            return minute.kept_back
        if minute.written < most:
            minute.written += 1
            return 0
        minute.kept_back += 1
        return None


class Lines:
    """The stream behind a bounded queue and a thread: `write` never waits for whoever reads the stream.

    The thread is woken for what comes within `_GATHER_S`, not for each line: a wake-up costs more than a line does.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._queue: deque[str] = deque()
        self._in_hand = self._lost = 0
        self._wake, self._waking, self._closed = threading.Event(), False, threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-lines", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Queue some text; where there is no room it is lost, and counted."""
        if self._full:
            self._lost += 1
            return
        self._queue.append(text)
        # The thread clears this before it looks: what is added after its look wakes it again.
        if not self._waking:
            self._waking = True
            self._wake.set()

    def flush(self) -> None:
        """Nothing to do: the thread flushes what it has written."""

    def take_lost(self) -> int:
        """How many texts were lost since last asked, once there is room again."""
        if not self._lost or self._full:
            return 0
        lost, self._lost = self._lost, 0
        return lost

    def close(self, timeout_s: float) -> None:
        """Write what is queued, for at most about `timeout_s`."""
        self._closed.set()
        self._wake.set()
        self._thread.join(timeout_s)

    @property
    def _full(self) -> bool:
        return len(self._queue) + self._in_hand >= _QUEUE_LINES

    def _run(self) -> None:
        closing = False
        while not closing:
            self._wake.wait()
            self._wake.clear()
            closing = self._closed.wait(_GATHER_S)
            self._waking = False
            texts = [self._queue.popleft() for _ in range(len(self._queue))]
            self._in_hand = len(texts)
            with contextlib.suppress(OSError, ValueError):  # a closed stream: there is nobody left to tell
                self._stream.write("".join(texts))
                self._stream.flush()
            self._in_hand = 0
