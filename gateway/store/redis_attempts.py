"""What was answered a moment ago. Only `redis` calls this.

An answer whose connection, or process, is gone within `GIVEN_S` may not have reached its client, and is joined by the
next try. So that an attempt was answered is known to this process at once, and written down when that time is over: of
a process that is killed before, the others know it as one that waits.
"""

import asyncio
from collections.abc import Awaitable, Callable

from msgspec import structs

from gateway.domain.attempt import GIVEN_S, Attempt
from gateway.domain.errors import StoreUnavailable
from gateway.store.redis_link import Link
from gateway.store.rules import State


class Answered:
    """Attempts that were answered, until that is written. `write` does it; `clock` gives unix seconds."""

    def __init__(
        self, link: Link, write: Callable[[str, Attempt], Awaitable[None]], clock: Callable[[], float]
    ) -> None:
        self._link, self._write, self._clock = link, write, clock
        self._attempts: dict[str, Attempt] = {}
        self._writing = False

    def note(self, key: str, attempt: Attempt) -> None:
        """The attempt of this response was answered."""
        known = self._attempts.get(key)
        if known is None or known.retry <= attempt.retry:
            self._attempts[key] = attempt
        if not self._writing:
            self._writing = True
            self._link.spawn(self._write_down())

    def lost(self, key: str, attempt: Attempt) -> None:
        """What was answered did not arrive, if it is this try of it."""
        known = self._attempts.get(key)
        if known is not None and known.retry <= attempt.retry:
            del self._attempts[key]

    def seen(self, key: str, state: State) -> State:
        """A response as this process knows it."""
        known = self._attempts.get(key)
        if known is None or state.attempt is None or state.attempt.retry > known.retry:
            return state
        return structs.replace(state, attempt=state.attempt.now(known.fate, known.at))

    async def _write_down(self) -> None:
        try:
            while self._attempts:
                await asyncio.sleep(GIVEN_S)
                until = self._clock() - GIVEN_S
                given = {key: attempt for key, attempt in self._attempts.items() if attempt.at <= until}
                done = await asyncio.gather(*[self._written(key, attempt) for key, attempt in given.items()])
                for (key, attempt), is_written in zip(given.items(), done, strict=True):
                    if is_written and self._attempts.get(key) is attempt:
                        del self._attempts[key]
        finally:
            self._writing = False

    async def _written(self, key: str, attempt: Attempt) -> bool:
        try:
            await self._write(key, attempt)
        except StoreUnavailable:
            return False
        return True
