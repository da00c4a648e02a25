"""One thread that does one job after the other for an event loop. Only the embedded store uses it.

An executor would do, at several times the cost: per job it takes three locks, two futures and a wake-up of the loop,
which is more than most reads of the store. Here one wake-up brings the results of all jobs that are done by then.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")
Told = Callable[[Any, BaseException | None], None]
"""Is told what a job returned, or None and what it raised."""


class JobThread:
    """The thread; it begins with this object, in a running loop, and lives until `end`."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[tuple[Told, Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._done: deque[tuple[Told, Any, BaseException | None]] = deque()
        self._waking = False
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def do(self, job: Callable[..., _T], *args: Any) -> "asyncio.Future[_T]":
        """What the job returns or raises. Jobs are done in the order of asking."""
        done: asyncio.Future[_T] = self._loop.create_future()
        self.tell(partial(_settle, done), job, *args)
        return done

    def tell(self, told: "Told", job: Callable[..., Any], *args: Any) -> None:
        """Call `told` in the loop with what the job returns, or raises: one turn of the loop before a future would."""
        self._jobs.put((told, job, args))

    def end(self) -> None:
        """End the thread, once what was asked for is done."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (order := self._jobs.get()) is not None:
            self._do(*order)
            del order  # what the job was given is not to outlive it until the next one comes

    def _do(self, told: "Told", job: Callable[..., Any], args: tuple[Any, ...]) -> None:
        result, error = None, None
        try:
            result = job(*args)
        except BaseException as raised:  # whatever it is, somebody waits for it
            error = raised
        self._done.append((told, result, error))
        # The loop clears this before it looks: what is added after its look wakes it again.
        if not self._waking:
            self._waking = True
            with suppress(RuntimeError):  # the loop is closed, nobody waits any more
                self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._waking = False
        try:
            while self._done:
                told, result, error = self._done.popleft()
                told(result, error)
        finally:
            if self._done:  # one could not be told: the others are
                self._loop.call_soon(self._tell)


def _settle(done: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if done.done():
        return  # whoever asked has gone
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
