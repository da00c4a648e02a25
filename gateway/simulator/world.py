"""The simulator's state: its clock, its responses, what is broken at the moment. Used by its handlers."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

from gateway.simulator.plan import Plan
from gateway.simulator.scenarios import Ask, Cut, Refusal, Scenario
from gateway.simulator.seen import SeenLog

Waited = Literal["due", "cut", "gone"]
Outage = int | Literal["drop"] | None

MAX_RESPONSES = 20_000
STREAM_WINDOW_S = 300.0
"""After this age a response can no longer be streamed (simulated seconds since it was created)."""
UNSTORED_WINDOW_S = 600.0
"""How long after its end a background response with `store: false` can be retrieved."""
_LOOK_S = 1.0
"""How often a silent connection is looked at: whether its client is still there."""


@dataclass(slots=True, eq=False)
class Record:
    """A response, whose it is, and the little that happens to it."""

    plan: Plan
    owner: str
    cancelled_s: float | None = None
    stopped: bool = False
    """A foreground response whose client has gone: generation ended with the connection, upstream knows no such id."""
    cuts_made: int = 0
    asked: dict[Ask, int] = field(default_factory=dict)
    connections: set[web.BaseRequest] = field(default_factory=set)
    """The requests that are being answered with its events, or, in the foreground, wait for its end."""
    cut: Cut | None = None
    """An order to cut the connections of this moment."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Have everyone who waits for this response look again."""
        self.changed.set()
        self.changed.clear()


def is_gone(request: web.BaseRequest) -> bool:
    """Whether the client of a request has closed its connection."""
    return request.transport is None or request.transport.is_closing()


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
        self.closing = False
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
        """A new response. Its text follows from seed and ordinal; its id from the time too, so no two runs share one."""
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
        running = self.age(record) < plan.end_s
        if not plan.background:
            return record if running and not all(map(is_gone, record.connections)) or plan.stored else None
        return record if plan.stored or self.age(record) < plan.end_s + UNSTORED_WINDOW_S else None

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
                record.cut = how
                record.wake()
        return count

    def close(self) -> None:
        """The server stops: end every wait."""
        self.closing = True
        self.cut()

    async def wait(self, record: Record, age_s: float, request: web.BaseRequest) -> Waited:
        """Wait until a response has an age, its connections are to be cut, or the client has gone.

        A cancel, a deletion or a skip ends the wait early as `due`: the caller looks at the record and the age again.
        """
        left_s = (age_s - self.age(record)) / self.speed
        if is_gone(request):
            return "gone"
        if record.cut is not None or self.closing:
            return "cut"
        if left_s > 0:
            try:
                async with asyncio.timeout(min(left_s, _LOOK_S)):
                    await record.changed.wait()
            except TimeoutError:
                pass
        return "due"

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
