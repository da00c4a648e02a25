"""The processes that share a Redis: who lives, by Redis' own clock. Only the modules of `redis` call this.

A process lives until the time that its last heartbeat named. One that has died is known until it owes nothing more.
"""

import secrets
from collections.abc import Sequence

from gateway.store.port import Pulse
from gateway.store.redis_hints import Hints, keys_of
from gateway.store.redis_link import Call, Command, Link
from gateway.store.redis_scripts import LIVING, RENEW

_NEWS_MS = 3_600_000
_MOST_NEWS = 10_000


class Processes:
    """This process among all. `me` names it."""

    def __init__(self, link: Link, hints: Hints) -> None:
        self.me = secrets.token_hex(8)
        self._link, self._hints = link, hints
        self._all = hints.key("processes")

    def known(self, process: str) -> Command:
        """A process is known before it has written anything, so that others find what it leaves behind."""
        return ("ZADD", self._all, "NX", 0, process)

    async def renew(self, ttl_s: float) -> Pulse:
        """Live for so long; what there is to know."""
        renew = Call(RENEW, (self._all,), (self.me, int(ttl_s * 1000)))
        processes, news = await self._link.write(renew, ("LPOP", self._news(self.me), _MOST_NEWS))
        return Pulse(processes, tuple(dict.fromkeys(keys_of(news or ()))))

    async def living(self) -> set[str]:
        """Those that live; this one does."""
        (found,) = await self._link.read(Call(LIVING, (self._all,), ()))
        return {self.me, *keys_of(found)}

    async def dead(self) -> list[str]:
        """Those that have died."""
        found, living = await self._link.read(("ZRANGE", self._all, 0, -1), Call(LIVING, (self._all,), ()))
        return keys_of(sorted(set(found) - set(living) - {self.me.encode()}))

    async def whose_ends(self) -> list[str]:
        """This one and those that have died: what they had to tell, somebody else has."""
        return [self.me, *await self.dead()]

    async def forget(self) -> None:
        """Those that have died, owe nothing and leave nothing behind."""
        dead = await self.dead()
        if dead:
            places = [(self._hints.key("due", process), self._hints.held_by(process)) for process in dead]
            left = await self._link.read(*[("EXISTS", key) for keys in places for key in keys])
            done = [one for one, *some in zip(dead, left[::2], left[1::2], strict=True) if not any(some)]
            if done:
                await self._link.write(("ZREM", self._all, *done))

    def tell(self, process: str, keys: Sequence[str]) -> list[Command]:
        """What another process is to learn with its next heartbeat."""
        news = self._news(process)
        return [("RPUSH", news, *keys), ("LTRIM", news, -_MOST_NEWS, -1), ("PEXPIRE", news, _NEWS_MS)]

    def _news(self, process: str) -> bytes:
        return self._hints.key("news", process)
