"""The way to Redis: commands go out in pipelines, answers come back, and whatever fails is `StoreUnavailable`.

Theory of operation. A line sends one pipeline at a time; what is asked while that is under way gathers and is the next
one. So load makes batches by itself, the order of asking is the order of doing, and a caller that is cancelled leaves
no connection in the middle of an answer. Writes and reads have lines of their own: no append waits behind a page.

A pipeline whose connection broke is sent again by the library, and so every command must be one that may be done
twice. Only the modules of `redis` call this; besides the tracker it is the only place that starts tasks, as somebody
has to read what a server says of its own accord.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from redis.asyncio import RedisCluster
from redis.exceptions import (
    BusyLoadingError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from gateway.domain.errors import StoreUnavailable
from gateway.store.redis_client import hang_up
from gateway.store.redis_scripts import Script

Value = bytes | str | int | float
CLOSED = "The store is closed."
_READERS = 2
_MOST_AT_ONCE = 1000
_MOST_QUEUED = 100_000
_CANCELLED_S = 0.1


@dataclass(frozen=True, slots=True)
class Call:
    """A script with its keys and values."""

    script: Script
    keys: tuple[bytes, ...]
    values: tuple[Value, ...]

    def command(self, *, whole: bool) -> tuple[Value, ...]:
        """By its hash, or as a whole for a server that does not know it."""
        how = ("EVAL", self.script.text) if whole else ("EVALSHA", self.script.sha)
        return (*how, len(self.keys), *self.keys, *self.values)


Command = tuple[Value, ...] | Call
Asked = tuple[Sequence[Command], "asyncio.Future[list[Any]]"]


def text(value: str) -> bytes:
    """A name as bytes, also one that came from a line that is no UTF-8."""
    return value.encode("utf-8", "surrogatepass")


class Link:
    """A client of redis-py, and the lines over it. No answer takes longer than twice `timeout_s`."""

    def __init__(self, client: Any, *, timeout_s: float) -> None:
        self.client = client
        self.timeout_s = timeout_s
        self.is_cluster = isinstance(client, RedisCluster)
        self._writes = _Line(self)
        reads = [_Line(self) for _ in range(_READERS)]
        self._lines = (self._writes, *reads)
        self._next_reads = cycle(reads)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = self._over = False

    def write(self, *commands: Command) -> "asyncio.Future[list[Any]]":
        """The answers to commands that are done in this order; StoreUnavailable if one of them failed."""
        self.check()
        return self._writes.ask(commands)

    def read(self, *commands: Command) -> "asyncio.Future[list[Any]]":
        """The same for what only reads."""
        self.check()
        return next(self._next_reads).ask(commands)

    def later(self, *commands: Command) -> None:
        """Commands that nobody waits for: what they change, Redis is right without."""
        if not self._over:
            self._writes.ask(commands)

    async def everywhere(self, *commands: tuple[str, ...]) -> list[list[Any]]:
        """The answers of each server. Raises StoreUnavailable."""
        self.check()
        try:
            async with asyncio.timeout(self.timeout_s):
                if not self.is_cluster:
                    return [[await self.client.execute_command(*command) for command in commands]]
                await self.client.initialize()
                nodes = self.client.get_primaries()
                return [
                    [await self.client.execute_command(*command, target_nodes=node) for command in commands]
                    for node in nodes
                ]
        except (RedisError, OSError, TimeoutError) as error:
            raise _unavailable(error) from error

    def place_of(self, key: bytes) -> str:
        """The server that has a key, in a cluster. Raises StoreUnavailable if none has."""
        if not self.is_cluster:
            return ""
        try:
            name: str = self.client.get_node_from_key(key).name
        except RedisError as error:
            raise _unavailable(error) from error
        return name

    async def moved(self, moved: MovedError) -> None:
        """What a cluster said of one of its slots."""
        await self.client.nodes_manager.move_slot(moved)

    @contextlib.asynccontextmanager
    async def connection(self, place: str) -> AsyncIterator[Any]:
        """A connection of its own to a server, which is hung up in the end. Raises RedisError, OSError."""
        if self.is_cluster:
            node = self.client.get_node(node_name=place)
            if node is None:
                raise ConnectionError(f"{place} is not in the cluster any more")
            connection = node.connection_class(**node.connection_kwargs)
        else:
            connection = self.client.connection_pool.make_connection()
        try:
            await connection.connect()
            yield connection
        finally:
            await connection.disconnect(nowait=True)

    def check(self) -> None:
        """Raises StoreUnavailable once it is closed."""
        if self._closed:
            raise StoreUnavailable(CLOSED)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that goes on until the link is closed."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self) -> None:
        """Nothing more is asked from now on; what was asked is answered."""
        self._closed = True
        while any(line.busy for line in self._lines):
            await asyncio.wait({line.task for line in self._lines if line.task is not None})
        self._over = True

    async def close(self) -> None:
        """End all work, and hang up."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            # Again, as the library may take it for an error of the connection that it is making.
            await asyncio.wait(self._tasks, timeout=_CANCELLED_S)
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(self.timeout_s):
                await hang_up(self.client)


class _Line:
    """One pipeline at a time."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._queue: list[Asked] = []
        self.task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        return self.task is not None

    def ask(self, commands: Sequence[Command]) -> "asyncio.Future[list[Any]]":
        if len(self._queue) >= _MOST_QUEUED:
            raise StoreUnavailable("Too much waits for the store.")
        done: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_looked_at)
        self._queue.append((commands, done))
        if self.task is None:
            self.task = asyncio.get_running_loop().create_task(self._work())
        return done

    async def _work(self) -> None:
        try:
            while self._queue:
                some, self._queue = self._queue[:_MOST_AT_ONCE], self._queue[_MOST_AT_ONCE:]
                await self._send(some)
        finally:
            self.task = None

    async def _send(self, asked: Sequence[Asked]) -> None:
        commands = [command for some, _ in asked for command in some]
        try:
            async with asyncio.timeout(self._link.timeout_s):
                answers = await self._answers(commands)
        except Exception as error:  # whatever it is, somebody waits
            for _, done in asked:
                if not done.done():
                    done.set_exception(_unavailable(error))
            return
        start = 0
        for some, done in asked:
            mine = answers[start : start + len(some)]
            start += len(some)
            if done.done():
                continue  # whoever asked has gone
            failed = next((answer for answer in mine if isinstance(answer, Exception)), None)
            if failed is None:
                done.set_result(mine)
            else:
                done.set_exception(_unavailable(failed))

    async def _answers(self, commands: Sequence[Command]) -> list[Any]:
        answers = await self._pipeline(_spelt(command, whole=False) for command in commands)
        unknown = [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            again = await self._pipeline(_spelt(commands[place], whole=True) for place in unknown)
            for place, answer in zip(unknown, again, strict=True):
                answers[place] = answer
        return answers

    async def _pipeline(self, commands: Iterable[tuple[Value, ...]]) -> list[Any]:
        client = self._link.client
        pipeline = client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        if any(map(_is_read_only, answers)):
            # What has become a replica is left: the name may lead to another server by now.
            await (client.aclose() if self._link.is_cluster else client.connection_pool.disconnect(False))
        return answers


def _looked_at(done: "asyncio.Future[list[Any]]") -> None:
    """Whoever asked may have gone, or never wanted to know."""
    if not done.cancelled():
        done.exception()


def _spelt(command: Command, *, whole: bool) -> tuple[Value, ...]:
    return command.command(whole=whole) if isinstance(command, Call) else command


def _unavailable(error: Exception) -> StoreUnavailable:
    """One line that says what is wrong."""
    said = str(error)
    if isinstance(error, OutOfMemoryError) or "OOM command" in said:
        why = "Redis has no memory left: raise its maxmemory, or keep responses for a shorter time."
    elif isinstance(error, BusyLoadingError):
        why = "Redis is still loading its data."
    elif _is_read_only(error):
        why = "This Redis is a replica, which cannot be written."
    elif isinstance(error, ResponseError):
        why = f"Redis refused a command: {_line(error)}."
    elif isinstance(error, TimeoutError | asyncio.TimeoutError):
        why = "Redis does not answer."
    else:
        why = f"Redis cannot be reached: {_line(error)}."
    unavailable = StoreUnavailable(why)
    unavailable.__cause__ = error
    return unavailable


def _is_read_only(answer: object) -> bool:
    """An older Redis says it of a script in the text of another error."""
    return isinstance(answer, ReadOnlyError) or (isinstance(answer, ResponseError) and "READONLY" in str(answer))


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
