"""The first answer of each create, for whoever sends it again: in memory, bounded, and gone soon after it was given.

What is not here any more is answered from the store: the same response, as it is then. Called by `attempts`.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from gateway.domain.attempt import GIVEN_S, JOIN_S
from gateway.relay.creation import Head

KEPT_BYTES = 64 * 2**20
"""All kept answers together, the oldest go first."""
_HEAD_BYTES = 2048

Answered = asyncio.Future[Head]
"""What a create is answered, or the error that it is answered with."""


class _Kept(NamedTuple):
    answer: Answered
    at: float
    bytes: int


class Answers:
    """Answers by the key of their response. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._awaited: dict[str, Answered] = {}
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._given: dict[str, float] = {}
        self._bytes = 0

    def expect(self, key: str) -> Answered:
        """The answer that upstream is asked for."""
        self._tidy()
        answer = self._awaited[key] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(partial(self._arrived, key))
        return answer

    def get(self, key: str) -> Answered | None:
        """The answer of this response, if it is awaited or kept."""
        self._tidy()
        kept = self._kept.get(key)
        return self._awaited.get(key) or (kept.answer if kept else None)

    def keep(self, key: str, head: Head) -> None:
        """This is what the client is answered, in place of what upstream answered."""
        answer: Answered = asyncio.get_running_loop().create_future()
        answer.set_result(head)
        if key in self._kept:
            self._keep(key, answer)

    def given(self, key: str) -> None:
        """Its client has it: it is let go, unless the connection turns out to be broken."""
        self._given.pop(key, None)
        self._given[key] = self._clock()

    def lost(self, key: str) -> None:
        """Its client has gone without it: it is kept."""
        self._given.pop(key, None)

    def drop(self, key: str) -> None:
        """There is nothing to give any more."""
        self._awaited.pop(key, None)
        self._given.pop(key, None)
        if kept := self._kept.pop(key, None):
            self._bytes -= kept.bytes

    def _arrived(self, key: str, answer: Answered) -> None:
        # Of a client that has left nobody may ask for the error: then it is not unheard of.
        failed = answer.cancelled() or answer.exception() is not None
        if self._awaited.pop(key, None) is not None and (failed or answer.result().rest is None):
            self._keep(key, answer)

    def _keep(self, key: str, answer: Answered) -> None:
        self.drop(key)
        body = b"" if answer.cancelled() or answer.exception() else answer.result().body
        self._kept[key] = kept = _Kept(answer, self._clock(), len(body) + _HEAD_BYTES)
        self._bytes += kept.bytes
        while self._bytes > KEPT_BYTES:
            self.drop(next(iter(self._kept)))

    def _tidy(self) -> None:
        """Let go of what was given, and of what nobody can join any more."""
        now = self._clock()
        while self._given and now - next(iter(self._given.values())) > GIVEN_S:
            self.drop(next(iter(self._given)))
        while self._kept and now - next(iter(self._kept.values())).at > JOIN_S:
            self.drop(next(iter(self._kept)))
