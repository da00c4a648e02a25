"""The simulator's state: its clock, its responses, what is broken at the moment. Used by its handlers."""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

from gateway.simulator.plan import Plan
from gateway.simulator.scenarios import Ask, Cut, Refusal, Scenario
from gateway.simulator.seen import SeenLog

Outage = int | Literal["drop"] | None
"""Every request is answered with this status, or loses its connection; None: all is well."""

MAX_RESPONSES = 20_000
STREAM_WINDOW_S = 300.0
"""After this age a response can no longer be streamed (simulated seconds since it was created)."""
UNSTORED_WINDOW_S = 600.0
"""How long after its end a background response with `store: false` can be retrieved."""
_LOOK_S = 1.0
"""How often a silent connection is looked at: whether its client is still there."""


@dataclass(slots=True, eq=False)
class Connection:
    """A request that is being answered with a response's events, or waits for its end; `order` is to cut it."""

    request: web.Request
    order: Cut | None = None

    @property
    def gone(self) -> bool:
        """Whether the client has closed it."""
        return self.request.transport is None or self.request.transport.is_closing()


@dataclass(slots=True, eq=False)
class Record:
    """A response, whose it is, and the little that happens to it."""

    plan: Plan
    owner: str
    cancelled_s: float | None = None
    stopped: bool = False
    """A foreground response whose client has gone: generation ended with the connection, upstream knows no such id."""
    cuts_made: int = 0
    connections: set[Connection] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def reaches(self, age_s: float) -> bool:
        """Whether what comes at this age comes, or was cancelled before."""
        return self.cancelled_s is None or not self.plan.scenario.cancel_sticks or age_s <= self.cancelled_s

    def wake(self) -> None:
        """Have everyone who waits for this response look again."""
        self.changed.set()
        self.changed.clear()


@dataclass(slots=True, eq=False)
class Kept:
    """What is kept that is no response: its object as it is shown, whose it is, and what is listed under it."""

    shown: dict[str, Any]
    owner: str
    items: list[dict[str, Any]] = field(default_factory=list)


class Interrupted(Exception):
    """A connection that gets no more: it is to be cut (`how`), or its client has gone (`how` is None)."""

    def __init__(self, how: Cut | None) -> None:
        super().__init__(how)
        self.how = how


class World:
    """All that a simulator holds. `clock` gives unix seconds, `speed` is how many simulated ones pass in a real one."""

    def __init__(
        self, *, seed: int, speed: float, clock: Callable[[], float], keys: frozenset[str], scenario: str
    ) -> None:
        self.seed = seed
        self.speed = speed
        self.keys = keys
        self.default_scenario = scenario
        self.outage: Outage = None
        self.seen = SeenLog()
        self.records: dict[str, Record] = {}
        self.kept: dict[str, Kept] = {}
        self.sockets: set[web.WebSocketResponse] = set()
        self._clock = clock
        self._skipped_s = 0.0
        self._created = 0
        self._requests = 0
        self._refused: dict[str, int] = {}

    def now(self) -> float:
        """Unix seconds: real ones, moved on by what was skipped."""
        return self._clock() + self._skipped_s

    def skip(self, simulated_s: float) -> None:
        """Make it so much later for every response, and wake whoever waits. With 0: look at the clock again."""
        self._skipped_s += simulated_s / self.speed
        for record in self.records.values():
            record.wake()

    def age(self, record: Record) -> float:
        """A response's age in simulated seconds."""
        return (self.now() - record.plan.created) * self.speed

    def create(self, request: dict[str, Any], scenario: Scenario, owner: str) -> Record:
        """A new response. Its text follows from seed and ordinal, its id from the time too: no two runs share one."""
        self._created += 1
        now = self.now()
        seed = f"{self.seed}:{self._created}"
        response_id = f"resp_{hashlib.sha256(f'{seed}:{now!r}'.encode()).hexdigest()[:48]}"
        record = Record(Plan(response_id, now, scenario, request, seed, self.speed), owner)
        self.records[response_id] = record
        if len(self.records) > MAX_RESPONSES:
            del self.records[next(iter(self.records))]
        return record

    def find(self, response_id: str, owner: str) -> Record | None:
        """The response of that id if it is this owner's and upstream would still know it."""
        record = self.records.get(response_id)
        if record is None or record.owner != owner or record.stopped:
            return None
        plan = record.plan
        if plan.background:
            return record if plan.stored or self.age(record) < plan.end_s + UNSTORED_WINDOW_S else None
        return record if plan.stored else None

    def status(self, record: Record) -> str:
        """A response's status at this moment."""
        return record.plan.status_at(self.age(record), record.cancelled_s)

    def forget(self, response_id: str) -> bool:
        """Lose a response, as upstream does after its retention. True if it was there."""
        record = self.records.pop(response_id, None)
        if record is not None:
            record.wake()
        return record is not None

    def cut(self, response_id: str | None = None, how: Cut = "reset") -> int:
        """Cut the open connections of a response, or of all. Returns how many there are."""
        count = 0
        for record in self.records.values():
            if record.connections and response_id in (None, record.plan.id):
                count += len(record.connections)
                for connection in record.connections:
                    connection.order = how
                record.wake()
        return count

    def connections(self, response_id: str | None = None) -> int:
        """How many connections carry a response, or any."""
        return sum(len(record.connections) for record in self.records.values() if response_id in (None, record.plan.id))

    def set_outage(self, how: Outage) -> None:
        """Begin an outage, or end it (None). `drop` resets what is open as well."""
        self.outage = how
        if how == "drop":
            self.cut()

    async def close(self) -> None:
        """The server stops: end every wait."""
        self.cut()
        for socket in list(self.sockets):
            await socket.close(code=1001)

    async def wait(self, record: Record, age_s: float, connection: Connection) -> None:
        """Return when a response has an age, or as soon as a cancel has made sure that it stays younger.

        Raises Interrupted if the connection is to be cut or the client has gone.
        """
        while record.reaches(age_s):
            if connection.gone:
                raise Interrupted(None)
            if connection.order is not None:
                raise Interrupted(connection.order)
            left_s = (age_s - self.age(record)) / self.speed
            if left_s <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, _LOOK_S)):
                    await record.changed.wait()

    def refuses(self, refusal: Refusal | None, ask: Ask, series: str) -> bool:
        """Whether this request of a series is refused; counts it."""
        if refusal is None or ask not in refusal.on:
            return False
        count = self._refused.pop(series, 0) + 1
        if not refusal.hits(count) and ask == "create":
            return False
        self._refused[series] = count
        if len(self._refused) > MAX_RESPONSES:
            del self._refused[next(iter(self._refused))]
        return refusal.hits(count)

    def request_id(self) -> str:
        """A fresh `x-request-id`."""
        self._requests += 1
        return f"req_{hashlib.sha256(f'{self.seed}:{self._requests}:{self.now()!r}'.encode()).hexdigest()[:32]}"


WORLD: web.AppKey[World] = web.AppKey("world", World)
"""Where a handler finds the simulator that it serves."""
OWNER: web.RequestKey[str] = web.RequestKey("owner", str)
"""The key that a request came with: whose responses it sees. Empty if it had none."""
