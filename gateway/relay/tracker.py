"""The tracker: which responses this process holds, and the only place where tasks are started.

Theory of operation. A response in hand is a `Live`. At most one task works for it: its creation or its pump; a response
without a task is in the poller's schedule. A task ends when the response has ended or the poller has taken it, and a
response leaves the tracker when the store's ending write was made, whoever made it. What time does to responses is the
clockwork's, which runs here.

What no process holds, after a restart or the death of another, is taken up (`leases`). What needs upstream's answer
waits for a credential: the route's, a sealed one, or the next request of an owner (`heard_from`). A live response that
another process holds is a guest here, for as long as clients ask this one about it: it is read from the store.
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
from gateway.domain.errors import StoreUnavailable, UpstreamError
from gateway.domain.facts import Observed, StoreFailed
from gateway.domain.headers import Headers
from gateway.domain.lifecycle import died_with_the_process
from gateway.domain.response import Response
from gateway.domain.websocket import Conversation
from gateway.relay.attempts import Attempts, Begun
from gateway.relay.clockwork import Clockwork
from gateway.relay.creation import Creation
from gateway.relay.credentials import Credentials
from gateway.relay.leases import Leases
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
_LOOK_EVERY_S = 0.5
# For what the store is still to be told at a stop; without it the next process finds out.
_STOP_S = 10.0
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
        self._credentials = Credentials(route, settings.all_sealing_keys)
        self._store = store
        self._telemetry = telemetry
        self._clock = clock
        self._tasks: set[asyncio.Task[Any]] = set()
        self._followers: dict[asyncio.Task[Any], str] = {}
        self.live: dict[str, Live] = {}
        self.conversations: set[Conversation] = set()
        self.guests: dict[str, Live] = {}
        self.ledger = Ledger(store, telemetry, clock, self._forget, lambda live: self.leases.taken(live))
        self.poller = Poller(settings, route, upstream, store, self.ledger, telemetry, clock, self.spawn)
        self.leases: Leases = Leases(
            settings, self._credentials, store, self.ledger, self.poller, telemetry, clock, self
        )
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
            self.guests,
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
            (self.leases.keep, "leases"),
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
        try:
            recorded = await self.attempts.record(self._credentials.seal(response, credential), attempt)
        except StoreUnavailable:
            self.leases.unsure = True  # it may be recorded all the same
            raise
        if recorded.key != response.key:
            await self.heard_from(recorded, credential)
            return await self.attempts.join(recorded, attempt, request_id=response.request_id)
        live = Live(recorded, recorded.epoch, credential, credentials=self._credentials)
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
        """The response in hand. One that is not: a guest while it lives, else for a single write (a late end)."""
        live = self.live.get(response.key)
        if live is not None:
            return live
        # Whether it is stuck is for its holder to tell.
        response = response.but(stuck=None, stuck_at=None)
        if response.ended:
            return Live(response)
        guest = self.guests.get(response.key) or Live(response, credentials=self._credentials)
        guest.response = guest.saved = response
        if self._store.shared and len(self.guests) < self._settings.max_live:
            self.guests[guest.key] = guest
        return guest

    async def heard_from(self, response: Response, credential: Headers) -> Live | None:
        """An owner made a request: its credential is the newest. None where there is nothing to do for the response."""
        credential = self._route.credential or credential  # empty where upstream asks for none
        live = self.live.get(response.key)
        if live is None:
            if response.ended or not self._store.shared:
                return None
            taken = await self.leases.claim(response, credential) if response.waiting else None
            if taken is not None:
                return taken
            live = self.held(response)
        waited, seal = live.credential is None, live.response.seal
        live.heard(credential, self._clock())
        if waited and live.credential is not None:
            self._take_up(live)
        if live.response.seal != seal:
            await self._clockwork.write(live)
        return live

    async def change(self, live: Live) -> None:
        """Wait until a response has changed, or may have: of what another process holds the store is asked."""
        if live.in_hand or live.response.ended:
            await live.change()
            return
        await asyncio.sleep(_LOOK_EVERY_S)
        with contextlib.suppress(StoreUnavailable):  # it may be back before the wait is over
            live.response = await self._store.get(live.key) or live.response
            live.body = await self._store.body(live.key) or live.body
        asked_at = live.body.at if live.body is not None else 0.0
        overdue = abs(self._clock() - asked_at) > self._settings.poll_waiting_s
        if overdue and not live.response.pumped and not live.response.ended and live.credential is not None:
            with contextlib.suppress(UpstreamError, StoreUnavailable):
                await self.poller.poll(live)

    @asynccontextmanager
    async def reading(self, key: str) -> AsyncIterator[None]:
        """While this is open, a client waits for the answer or follows the log: the response does not linger."""
        live, task = self.live.get(key) or self.guests.get(key), _this_task()
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
        if live := self.live.get(key) or self.guests.get(key):
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
        """Take up what no process holds. Raises `StoreUnavailable`."""
        await self.leases.begin()

    async def stop(self) -> None:
        """End every task and write down what is not yet. Responses that run upstream stay live in the store."""
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):
                await asyncio.gather(*map(self._write_last, tuple(self.live.values())))
        with contextlib.suppress(StoreUnavailable):
            await self.leases.resign()

    async def _write_last(self, live: Live) -> None:
        if ending := died_with_the_process(live.response, self._clock()):
            with contextlib.suppress(StoreUnavailable):
                await self.ledger.end(live, ending, source="shutdown")
        await self._clockwork.write(live)

    def cut_background_readers(self) -> None:
        """Shutdown: readers of what goes on upstream come back later; held polls are answered."""
        for task, key in tuple(self._followers.items()):
            live = self.live.get(key) or self.guests.get(key)
            if live is not None and live.response.mode.background:
                task.cancel()
        for live in self.live.values():
            live.changed()

    def take_up(self, live: Live, *, spread_s: float = 0.0) -> str:
        """Go on with a response that nobody held: pumped, polled, or waits_for_owner."""
        live.wait()
        if live.waits_for_owner:
            return "waits_for_owner"
        self._take_up(live, spread_s=spread_s)
        return live.response.mode_now

    def _take_up(self, live: Live, *, spread_s: float = 0.0) -> None:
        live.changed()
        if live.task is not None or not live.in_hand:
            return
        if live.response.pumped and not live.response.own_numbers:
            live.response = live.response.but(pumped=True)
            live.task = self.spawn(self._working(live, self._pump.run(live, None)), f"response {live.key}")
        else:
            self.poller.take(live, spread_s=spread_s)

    def let_go(self, live: Live) -> None:
        """Another process has it now, or may have it: it is a guest here, for whoever still waits for it."""
        live.epoch = None
        live.response = live.response.but(stuck=None, stuck_at=None)
        self._forget(live)
        live.changed()

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
        for held in (self.live, self.guests):
            if held.get(live.key) is live:
                del held[live.key]
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
