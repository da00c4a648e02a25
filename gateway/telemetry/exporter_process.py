"""The way to `exporter`, the process that exports: starting it, telling it, and starting another one when it has ended.

What is put while there is none, or what it had, is dropped and counted; ends that it had were not taken, and stay due.

Rule: nothing here waits for that process but who sends ends, and a stop, no longer than its limit.
"""

import asyncio
import contextlib
import logging
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import structs

from gateway import child
from gateway.domain.encoding import decode, encode
from gateway.telemetry.export import Options
from gateway.telemetry.generation import End
from gateway.telemetry.messages import (
    SAID,
    Answered,
    Dropped,
    Exported,
    Flush,
    Flushed,
    Logged,
    Put,
    Said,
    Send,
    Sent,
)
from gateway.telemetry.span import Finished

_log = logging.getLogger(__name__)
_GATHERED_S: Final = 0.05
_UNREAD_BYTES: Final = 2**22
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
_EXIT_S: Final = 0.5


class ExporterProcess:
    """Exports from a process of their own: see `Exports`. `on_exported` and `on_dropped` are told how many spans."""

    def __init__(
        self, options: Options, on_exported: Callable[[int], None], on_dropped: Callable[[str, int], None]
    ) -> None:
        self._options = structs.replace(options, environ=dict(options.environ))
        self._on_exported, self._on_dropped = on_exported, on_dropped
        self._process: Process | None = None
        self._line: asyncio.StreamWriter | None = None
        self._watching: asyncio.Task[None] | None = None
        self._gathered: list[Finished] = []
        self._timer: asyncio.TimerHandle | None = None
        self._under_way = self._numbers = 0
        self._batches: dict[int, asyncio.Future[bool]] = {}
        self._flushed: asyncio.Event | None = None
        self.failing = self._given_up = self._closed = False

    async def open(self) -> None:
        """Start the process. One that cannot be started is logged, and tried again."""
        self._watching = asyncio.create_task(self._watch(await self._start()), name="exporter")

    def put(self, finished: Finished) -> None:
        """Queue a span, or drop it where there is no room."""
        if self._flushed is not None:
            self._on_dropped("shutdown", 1)
        elif self._line is not None and self._line.transport.get_write_buffer_size() > _UNREAD_BYTES:
            self._on_dropped("queue_full", 1)
        else:
            self._gathered.append(finished)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_GATHERED_S, self._hand_over)

    def send(self, ends: Sequence[End], again: bool) -> "asyncio.Future[bool]":
        """Export what ends finish; whether the collector took it."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self._line is None or self._closed:
            answer.set_result(False)
        else:
            self._numbers += 1
            self._batches[self._numbers] = answer
            self._tell(Send(self._numbers, ends, again))
        return answer

    async def flush(self, timeout_s: float) -> None:
        """Export what is queued, for at most `timeout_s`; what is left is dropped and counted."""
        if self._flushed is not None:
            return
        self._flushed = asyncio.Event()
        self._hand_over()
        if self._line is not None:
            self._tell(Flush(timeout_s))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._flushed.wait()
        self._give_up("shutdown")
        self._given_up = True

    async def close(self, timeout_s: float) -> None:
        """The same, and the process is ended."""
        await self.flush(timeout_s)
        self._closed = True
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EXIT_S):
                    await self._process.wait()
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    def _hand_over(self) -> None:
        self._timer = None
        gathered, self._gathered = self._gathered, []
        if not gathered:
            return
        if self._line is None:
            self._on_dropped("export_failed", len(gathered))
            return
        self._under_way += len(gathered)
        self._tell(Put(gathered))

    def _tell(self, message: Put | Send | Flush) -> None:
        assert self._line is not None
        self._line.write(child.framed(encode(message)))

    async def _start(self) -> asyncio.StreamReader | None:
        try:
            self._process, heard, self._line = await child.start("gateway.telemetry.exporter", silent=True)
        except OSError as error:
            _log.warning("the process that exports spans cannot be started: %s", error)
            return None
        self._line.write(child.framed(encode(self._options)))
        return heard

    async def _watch(self, heard: asyncio.StreamReader | None) -> None:
        """Hear what each process says until it has ended, and start the next one."""
        pause_s = _FIRST_PAUSE_S
        while True:
            if heard is not None:
                with contextlib.suppress(EOFError):
                    while True:
                        self._take(decode(SAID, await child.heard(heard)))
                        pause_s = _FIRST_PAUSE_S
                self._lost()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            heard = await self._start()

    def _lost(self) -> None:
        if self._line is not None and not self._closed:
            _log.warning("the process that exports spans has ended; another one is started")
            self._line.close()
            self.failing = True
        self._line = None
        self._give_up("export_failed")
        for number in tuple(self._batches):
            self._answered(number, taken=False)
        if self._flushed is not None:
            self._flushed.set()

    def _answered(self, number: int, *, taken: bool) -> None:
        answer = self._batches.pop(number)
        if not answer.done():
            answer.set_result(taken)

    def _give_up(self, reason: str) -> None:
        """What is under way is lost."""
        if self._under_way and not self._given_up:
            self._on_dropped(reason, self._under_way)
        self._under_way = 0

    def _take(self, said: Said) -> None:
        self.failing = said.failing
        match said.what:
            case Sent(spans):
                self._on_exported(spans)
            case Answered(number, taken):
                self._answered(number, taken=taken)
            case Logged(logger, level, message):
                logging.getLogger(logger).log(level, "%s", message)
            case Flushed() if self._flushed is not None:
                self._flushed.set()
            case Exported(spans) if not self._given_up:
                self._under_way -= spans
                self._on_exported(spans)
            case Dropped(reason, spans) if not self._given_up:
                self._under_way -= spans
                self._on_dropped(reason, spans)
