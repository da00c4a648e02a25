"""The tracker: which responses this process holds, and the only place where tasks are started.

Theory of operation. A response in hand is a `Live`. At most one task works for it: its creation or its pump; a response
without a task is in the poller's schedule. A task ends when the response has ended or the poller has taken it, and a
response leaves the tracker when the store's ending write was made, whoever made it. What time does to responses is the
clockwork's, which runs here.

After a restart `recover` takes up what had not ended. What needs upstream's answer waits for a credential: the route's,
or the next request of an owner (`heard_from`).
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from gateway.config import Settings
from gateway.domain.attempt import Attempt
from gateway.domain.errors import StoreUnavailable
from gateway.domain.facts import Observed, StoreFailed, TakenUp
from gateway.domain.headers import Headers
from gateway.domain.lifecycle import died_with_the_process
from gateway.domain.response import Response
from gateway.domain.websocket import Conversation
from gateway.relay.attempts import Attempts, Begun
from gateway.relay.clockwork import Clockwork
from gateway.relay.creation import Creation
from gateway.relay.ledger import Ledger
from gateway.relay.live import Live
from gateway.relay.poller import Poller
from gateway.relay.pump import Pump
from gateway.relay.routing import Route
from gateway.relay.upstream import Call, Upstream
from gateway.store.port import Store
from gateway.telemetry.observers import Telemetry

T = TypeVar("T")
_AFTER_FAILURE_S = 1.0
_log = logging.getLogger("gateway")


class Tracker:
    """Holds live responses and runs their tasks. `clock` gives unix seconds."""

    def __init__(
        self,
        settings: Settings,
        route: Route,
        upstream: Upstream,
        store: Store,
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._route = route
        self._store = store
        self._telemetry = telemetry
        self._clock = clock
        self._tasks: set[asyncio.Task[Any]] = set()
        self._followers: dict[asyncio.Task[Any], str] = {}
        self.live: dict[str, Live] = {}
        self.conversations: set[Conversation] = set()
        self.ledger = Ledger(store, telemetry, clock, self._forget)
        self.poller = Poller(settings, route, upstream, self.ledger, telemetry, clock, self.spawn)
        self._pump = Pump(settings, route, upstream, store, self.ledger, self.poller, telemetry, clock)
        self.attempts = Attempts(settings, store, self.live, telemetry, clock, self.spawn)
        refused = self.attempts.refused
        self._creation = Creation(settings, upstream, self.ledger, self._pump, self.poller, telemetry, clock, refused)
        self._clockwork = Clockwork(
            settings,
            store,
            self.ledger,
            self.poller,
            telemetry,
            clock,
            self.live,
            self.conversations,
            lambda: self.followers,
            self.spawn,
        )

    def start(self) -> None:
        """Start the tasks that always run."""
        clockwork = self._clockwork
        for work, name in (
            (self.poller.run, "poller"),
            (clockwork.walk, "walk"),
            (clockwork.purge, "purge"),
            (clockwork.probe, "probe"),
            (clockwork.measure, "measure"),
        ):
            self.spawn(self._always(work, name), name)

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
        """Start a task, held until it is done; what it raises unexpectedly is logged."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def create(self, response: Response, attempt: Attempt, call: Call, credential: Headers) -> Begun:
        """Record the attempt, then call upstream in a task; or join the attempt that this one repeats.

        Raises `Overloaded`, `IdempotencyKeyReused`, `StoreUnavailable`: before upstream is called.
        """
        recorded = await self.attempts.record(response, attempt)
        if recorded.key != response.key:
            self.heard_from(recorded.key, credential)
            return await self.attempts.join(recorded, attempt, request_id=response.request_id)
        live = Live(recorded, recorded.epoch, credential)
        self.live[live.key] = live
        begun = self.attempts.begin(live, attempt)
        work = self._creation.run(live, call, begun.answer)
        live.task = self.spawn(self._working(live, work), f"response {live.key}")
        return begun

    async def find(self, response_id: str, owner: str) -> Response | None:
        """An owner's response by upstream's id, at its newest value."""
        found = await self._store.find(response_id, route=self._route.name, owner=owner)
        live = self.live.get(found.key) if found else None
        return live.response if live else found

    def held(self, response: Response) -> Live:
        """The response in hand; one that is not, for a single write (an end that comes late)."""
        return self.live.get(response.key) or Live(response)

    def heard_from(self, key: str, credential: Headers) -> Live | None:
        """An owner made a request: its credential is the newest. The live response, if this process holds it."""
        live = self.live.get(key)
        if live is None:
            return None
        waited = live.credential is None
        live.heard(self._route.credential or credential)  # empty where upstream asks for none
        if waited and live.credential is not None:
            self._take_up(live)
        return live

    @asynccontextmanager
    async def reading(self, key: str) -> AsyncIterator[None]:
        """While this is open, a client waits for the answer or follows the log: the response does not linger."""
        live, task = self.live.get(key), _this_task()
        if live is None:
            yield
            return
        live.readers.add(task)
        live.alone_since = None
        try:
            yield
        finally:
            live.readers.discard(task)
            if not live.readers:
                live.alone_since = time.monotonic()

    @asynccontextmanager
    async def following(self, key: str) -> AsyncIterator[None]:
        """The same for a client that follows the log: with what goes on upstream it may be cut, and comes back."""
        task = _this_task()
        self._followers[task] = key
        try:
            async with self.reading(key):
                yield
        finally:
            del self._followers[task]

    @property
    def followers(self) -> int:
        """How many clients follow a log."""
        return len(self._followers)

    @property
    def tasks(self) -> int:
        """How many tasks are under way."""
        return len(self._tasks)

    def count(self, key: str, **increments: int) -> None:
        """Count what happened to a live response; one that has ended is counted in the metrics alone."""
        if live := self.live.get(key):
            live.count(**increments)

    def picked_up(self, response: Response, by: Observed) -> None:
        """A client was shown that a response has ended, or has read its stream to the end."""
        if response.mode.background and not response.counts.pickups:
            self.spawn(self._pick_up(response.key, by), "pick up")

    async def newest(self, response: Response) -> Response:
        """The newest value of a response."""
        live = self.live.get(response.key)
        if live is not None:
            return live.response
        with contextlib.suppress(StoreUnavailable):
            return await self._store.get(response.key) or response
        return response

    async def purge(self) -> int:
        """Delete what is past its time: how many records that touched. Raises `StoreUnavailable`."""
        return await self._clockwork.purge_once()

    async def recover(self) -> None:
        """Take up what had not ended when the last process stopped."""
        held = [response async for response in self._store.orphans()]
        for response in held:
            lease = await self._store.claim(response.key)
            if lease is None:
                continue
            body = await self._store.body(response.key)
            live = Live(response, lease.epoch, self._route.credential, body=body, created=True)
            self.live[live.key] = live
            if ending := died_with_the_process(response, self._clock()):
                await self.ledger.end(live, ending, source="recovery")
                how = "ended"
            elif live.credential is None:
                how = "waits_for_owner"
            else:
                how = "pumped" if self._resumable(live) else "polled"
                self._take_up(live, spread_s=len(held) / self._settings.poll_budget_per_s)
            self._telemetry.emit([TakenUp(self._clock(), live.response, how)])

    async def stop(self) -> None:
        """End every task and write down what is not yet. Responses that run upstream stay live in the store."""
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        for live in tuple(self.live.values()):
            if ending := died_with_the_process(live.response, self._clock()):
                with contextlib.suppress(StoreUnavailable):
                    await self.ledger.end(live, ending, source="shutdown")
            await self._clockwork.write(live)

    def cut_background_readers(self) -> None:
        """Shutdown: readers of what goes on upstream come back later, to another process; held polls are answered."""
        for task, key in tuple(self._followers.items()):
            live = self.live.get(key)
            if live is not None and live.response.mode.background:
                task.cancel()
        for live in self.live.values():
            live.changed()

    def _take_up(self, live: Live, *, spread_s: float = 0.0) -> None:
        live.changed()
        if live.task is not None:
            return
        if self._resumable(live):
            live.response = live.response.but(pumped=True)
            live.task = self.spawn(self._working(live, self._pump.run(live, None)), f"response {live.key}")
        else:
            self.poller.take(live, spread_s=spread_s)

    def _resumable(self, live: Live) -> bool:
        return live.response.pumped and not live.response.own_numbers

    async def _working(self, live: Live, work: Coroutine[Any, Any, None]) -> None:
        """A response's task: whatever it raises, the response is not left without anybody."""
        try:
            await work
        except Exception:
            _log.exception("the task of a response failed; it is polled now", extra={"response": live.response})
            self.poller.take(live)
        finally:
            live.task = None

    async def _always(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Work that never ends: what nobody foresaw stops it for a moment, not for good."""
        while True:
            try:
                await work()
            except Exception:
                _log.exception("%s failed; it goes on", name)
            await asyncio.sleep(_AFTER_FAILURE_S)

    async def _pick_up(self, key: str, by: Observed) -> None:
        try:
            await self.ledger.picked_up(key, by)
        except StoreUnavailable as error:
            self._telemetry.emit([StoreFailed(self._clock(), "change", error.message)])

    def _forget(self, live: Live) -> None:
        """It has ended. Where somebody else than its own task ended it, that task has nothing left to wait for."""
        self.live.pop(live.key, None)
        if live.task is not None and live.task is not asyncio.current_task():
            live.task.cancel()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and task.get_name() != "poll":
            _log.error("task %s failed", task.get_name(), exc_info=error)


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
