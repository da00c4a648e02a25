"""The lines on which servers say what was written: one to each server that has logs which are read here.

On one server these are Redis' usual channels. In a cluster they are sharded: the server that has a log's slot says what
is written to it, and to nobody else. A line that breaks is made again with all its channels; in a cluster, and where a
slot has moved, its channels are lost instead, and whoever wants them asks where they are now. Only `redis_logs` calls
this.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from redis.exceptions import ConnectionError, MovedError, RedisError

from gateway.store.redis_link import Link

_PATROL_S = 5.0
_AGAIN_S = 0.2


class Ears:
    """Told of: `message(channel, bytes)`; `confirmed(channel)`, from when on none is missed; `lost(channel)`.

    `cuts`: how often a line broke.
    """

    def __init__(
        self,
        link: Link,
        message: Callable[[bytes, bytes], None],
        confirmed: Callable[[bytes], None],
        lost: Callable[[bytes], None],
        patrol: Callable[[], None],
    ) -> None:
        self.link, self.message, self.confirmed, self.lost, self.patrol = link, message, confirmed, lost, patrol
        self.sharded = "S" if link.is_cluster else ""
        self._lines: dict[str, _Line] = {}
        self._places: dict[bytes, _Line] = {}
        self.cuts = 0

    def open(self) -> None:
        """Be ready, where it is known for what."""
        if not self.link.is_cluster:
            self._line("")

    async def listen(self, channel: bytes) -> None:
        """Subscribe to a channel, where it is now; whether that is so is told by `confirmed`."""
        line = self._line(self.link.place_of(channel))
        before = self._places.get(channel)
        if before is not None and before is not line:
            before.channels.discard(channel)
        self._places[channel] = line
        line.channels.add(channel)
        await line.say("SUBSCRIBE", channel)

    def forget(self, channel: bytes) -> None:
        """Nobody wants it any more."""
        line = self._places.pop(channel, None)
        if line is not None:
            line.channels.discard(channel)
            line.unwanted.append(channel)

    def gone(self, channel: bytes) -> None:
        """It is not heard where it was."""
        line = self._places.pop(channel, None)
        if line is not None:
            line.channels.discard(channel)
            self.lost(channel)

    def _line(self, place: str) -> "_Line":
        line = self._lines.get(place)
        if line is None:
            line = self._lines[place] = _Line(self, place)
            self.link.spawn(line.work())
        return line


class _Line:
    """A connection to one server, and the channels on it."""

    def __init__(self, ears: Ears, place: str) -> None:
        self.channels: set[bytes] = set()
        self.unwanted: list[bytes] = []
        self._ears, self._place = ears, place
        self._connection: Any = None

    async def say(self, command: str, *channels: bytes) -> None:
        """Send it, if there is a connection; else the next one begins with all channels."""
        if self._connection is None:
            return
        with contextlib.suppress(RedisError, OSError):  # the one that reads finds out
            for channel in channels:  # in a cluster, those of one command have to be in one slot
                await self._connection.send_command(f"{self._ears.sharded}{command}", channel, check_health=False)

    async def work(self) -> None:
        """For ever: a connection, all channels on it, and what it says."""
        while True:
            try:
                async with self._ears.link.connection(self._place) as connection:
                    self._connection = connection
                    await self.say("SUBSCRIBE", *self.channels)
                    await self._hear_all(connection)
            except MovedError as moved:
                await self._ears.link.moved(moved)
            except (RedisError, OSError, TimeoutError):
                pass  # readers ask Redis themselves, and say if they cannot
            finally:
                self._connection = None
                self._ears.cuts += 1
            if self._ears.sharded:
                for channel in tuple(self.channels):
                    self._ears.gone(channel)
            await asyncio.sleep(_AGAIN_S)

    async def _hear_all(self, connection: Any) -> None:
        patrol_at, silent = time.monotonic() + _PATROL_S, False
        while True:
            answer = await connection.read_response(timeout=_PATROL_S, disconnect_on_error=False, push_request=True)
            if answer is not None:
                silent = False
                self._apply(answer)
            elif silent:
                raise ConnectionError("the line is dead")
            else:
                silent = True
                await connection.send_command("PING", check_health=False)
            if time.monotonic() >= patrol_at:
                patrol_at = time.monotonic() + _PATROL_S
                self._ears.patrol()
            if self.unwanted:
                channels, self.unwanted = self.unwanted, []
                await self.say("UNSUBSCRIBE", *channels)
                # Somebody may have come meanwhile.
                await self.say("SUBSCRIBE", *[channel for channel in channels if channel in self.channels])

    def _apply(self, answer: Any) -> None:
        kind, channel, *rest = answer if isinstance(answer, list) else (answer, b"")
        if channel not in self.channels:
            return
        if kind in (b"message", b"smessage"):
            self._ears.message(channel, rest[0])
        elif kind in (b"subscribe", b"ssubscribe"):
            self._ears.confirmed(channel)
        elif kind == b"sunsubscribe":  # without being asked: its slot has moved
            self._ears.gone(channel)
