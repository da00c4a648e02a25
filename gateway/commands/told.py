"""What a serving process is told from outside: to stop, and to stop at once.

It is told by signals and, where it is one of several workers, over the line that its supervisor (`workers`) has put in
place of its stdin: names of signals come in, a line each, and word goes out once it listens. When the line ends, the
supervisor is gone.
"""

import asyncio
import contextlib
import signal
import socket
from collections import Counter

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LISTENING = b"listening\n"


class Line:
    """A worker's end of the line, and which one it is, counted from 1."""

    def __init__(self, worker: int, end: socket.socket) -> None:
        self.worker = worker
        self.end = end

    def say_listening(self) -> None:
        """It serves clients from now on."""
        with contextlib.suppress(OSError):
            self.end.send(LISTENING)


class Told:
    """Which signals came, in order. The first one is to stop by, a second one cancels the task that made this.

    A terminal or a service manager sends one signal to supervisor and workers alike, and the supervisor passes its own
    on. So they are counted by where they came from: what comes from both is one.
    """

    def __init__(self, line: Line | None = None) -> None:
        self.signals: list[signal.Signals] = []
        self._came: Counter[str] = Counter()
        self._stop = asyncio.Event()
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        for which in SIGNALS:
            self._loop.add_signal_handler(which, self._take, which, "itself")
        if line is not None:
            line.end.setblocking(False)
            self._loop.add_reader(line.end, self._hear, line.end)

    async def to_stop(self) -> signal.Signals:
        """Wait for the first one."""
        await self._stop.wait()
        return self.signals[0]

    def _hear(self, end: socket.socket) -> None:
        words = b""
        with contextlib.suppress(ConnectionError):
            words = end.recv(1024)
        for name in words.decode().split():
            self._take(signal.Signals[name], "supervisor")
        if not words:
            self._loop.remove_reader(end)
            if not self.signals:
                self._take(signal.SIGTERM, "supervisor")

    def _take(self, which: signal.Signals, came_from: str) -> None:
        self._came[came_from] += 1
        if self._came[came_from] <= len(self.signals):
            return
        self.signals.append(which)
        self._stop.set()
        if len(self.signals) > 1 and self._task is not None:
            self._task.cancel()
