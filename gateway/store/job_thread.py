"""One thread that does one job after the other for an event loop. Only the embedded store uses it.

An executor would do, at several times the cost: per job it takes three locks, two futures and a wake-up of the loop,
which is more than most reads of the store. Here one wake-up brings the results of all jobs that are done by then.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")


class JobThread:
    """The thread; it begins with this object, in a running loop, and lives until `end`."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._done: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._waking = False
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def do(self, job: Callable[..., _T], *args: Any) -> "asyncio.Future[_T]":
        """What the job returns or raises. Jobs are done in the order of asking."""
        done: asyncio.Future[_T] = self._loop.create_future()
        self._jobs.put((done, job, args))
        return done

    def end(self) -> None:
        """End the thread, once what was asked for is done."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (order := self._jobs.get()) is not None:
            self._do(*order)
            del order  # what the job was given is not to outlive it until the next one comes

    def _do(self, done: "asyncio.Future[Any]", job: Callable[..., Any], args: tuple[Any, ...]) -> None:
        result, error = None, None
        try:
            result = job(*args)
        except BaseException as raised:  # whatever it is, somebody waits for it
            error = raised
        self._done.append((done, result, error))
        # The loop clears this before it looks: what is added after its look wakes it again.
        if not self._waking:
            self._waking = True
            with suppress(RuntimeError):  # the loop is closed, nobody waits any more
                self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._waking = False
        while self._done:
            done, result, error = self._done.popleft()
            if done.done():
                continue  # whoever asked has gone
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)
