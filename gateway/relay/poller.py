"""The poller: copies snapshots from upstream into the record, as seldom as possible.

Every live response that no pump feeds has a due time; the scheduler asks for whichever is due first, within a budget
of polls per second. Whoever else wants to know (a client's poll, a held one, a pump in doubt) shares the same GET:
there is one at a time per response, and each one postpones the next. A 429 slows its whole credential, an answer that
refuses the credential makes the response wait for its owner, three 404s over half a minute mean that upstream has
lost it.
"""

import asyncio
import email.utils
import heapq
import itertools
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from gateway.config import Settings
from gateway.domain.errors import GatewayError, StoreUnavailable, UpstreamError
from gateway.domain.facts import Cancelled, PollOutcome, StoreFailed, UpstreamPolled
from gateway.domain.headers import Headers, asking, first
from gateway.domain.lifecycle import lost
from gateway.domain.snapshot import read_snapshot
from gateway.relay.ledger import Ledger
from gateway.relay.live import Live
from gateway.relay.routing import Route, cancel_url, retrieve_url
from gateway.relay.upstream import Call, Upstream
from gateway.store.port import Store
from gateway.telemetry.observers import Telemetry

_MAX_RETRY_AFTER_S = 300.0
_UNAUTHORISED = frozenset({401, 403})
_TOO_MANY = 429
_LOOK_AGAIN_S = 0.1
# That it is not there, or that this credential does not see it. Anything else says nothing of the response.
_SAYS_SOMETHING = frozenset({401, 403, 404})


@dataclass(frozen=True, slots=True)
class Polled:
    """What an upstream GET gave: status, headers and body as they came."""

    status: int
    headers: Headers
    body: bytes
    outcome: PollOutcome


_Payer = frozenset[tuple[str, str]]
Spawn = Callable[[Coroutine[Any, Any, Polled], str], "asyncio.Task[Polled]"]


class Poller:
    """Asks upstream about responses. `spawn` starts a task (the tracker's)."""

    def __init__(
        self,
        settings: Settings,
        route: Route,
        upstream: Upstream,
        store: Store,
        ledger: Ledger,
        telemetry: Telemetry,
        clock: Callable[[], float],
        spawn: Spawn,
    ) -> None:
        self._settings = settings
        self._route = route
        self._upstream = upstream
        self._store = store
        self._ledger = ledger
        self._telemetry = telemetry
        self._clock = clock
        self._spawn = spawn
        self._queue: list[tuple[float, int, Live]] = []
        self._order = itertools.count()
        self._earlier = asyncio.Event()
        self._slots = asyncio.Semaphore(settings.poll_concurrency)
        self._next_slot = self._next_asking = 0.0
        self._sharers = 1
        self._slow_until: dict[_Payer, float] = {}

    def take(self, live: Live, *, spread_s: float = 0.0) -> None:
        """From now on this response is polled; `spread_s`: the first time at random within it (a recovery)."""
        if not live.in_hand:
            return
        live.response = live.response.but(pumped=False)
        live.changed()
        self._schedule(live, random.uniform(0, spread_s) if spread_s else self._interval(live))

    def hurry(self, live: Live) -> None:
        """A client waits for the next change: ask sooner than the schedule says."""
        if not live.connected:
            self._schedule(live, min(self._settings.poll_waiting_s, max(0.0, live.due - time.monotonic())))

    async def run(self) -> None:
        """The scheduler: never ends."""
        while True:
            self._earlier.clear()
            if not self._queue:
                await self._earlier.wait()
                continue
            due, _, live = self._queue[0]
            if live.due != due or not live.in_hand or live.response.pumped or live.credential is None:
                heapq.heappop(self._queue)
                continue
            now = time.monotonic()
            slow_until = self._slow_until.get(_payer(live.credential), 0.0)
            if due <= now < slow_until:
                heapq.heappop(self._queue)
                self._schedule(live, slow_until - now)
                continue
            if (pause := max(due, self._next_slot, self._next_asking - self._pace_s) - now) > 0:
                await self._wait(pause)
                continue
            heapq.heappop(self._queue)
            await self._slots.acquire()
            self._next_slot = max(self._next_slot, time.monotonic()) + self._pace_s
            self._start(live, lag=time.monotonic() - due).add_done_callback(lambda _: self._slots.release())

    def shared_by(self, processes: int) -> None:
        """The budget is for all processes together: each takes its part."""
        self._sharers = processes

    def pause(self, seconds: float) -> None:
        """Ask nothing by the schedule for so long."""
        self._next_slot = max(self._next_slot, time.monotonic() + seconds)

    async def poll(self, live: Live) -> tuple[Polled, bool]:
        """Ask upstream now, or share the asking under way: (its answer, whether it was shared).

        Raises the `UpstreamError` where there was no answer.
        """
        shared = live.polling is not None
        return await asyncio.shield(self._start(live)), shared

    async def cancel(self, live: Live) -> Polled:
        """Ask upstream to cancel, as an owner would, and learn from the answer: an operator's cancel.

        Raises the `UpstreamError` where there was no answer, and `StoreUnavailable`.
        """
        began, at = time.monotonic(), self._clock()
        credential = live.credential
        call = Call(
            "POST", cancel_url(self._route, live.response), asking(credential, live.response.beta, "application/json")
        )
        status, headers, body = await self._fetch(call)
        self._telemetry.emit([Cancelled(at, live.response, status, time.monotonic() - began)])
        outcome: PollOutcome = "error"
        if 200 <= status < 300:
            outcome = await self._told(live, body, headers, source="cancel")
        elif status in _UNAUTHORISED:
            await self._ledger.refused(live, credential)
        return Polled(status, headers, body, outcome)

    def slowed(self, live: Live) -> bool:
        """Upstream has asked this credential for patience."""
        return self._slow_until.get(_payer(live.credential), 0.0) > time.monotonic()

    def _start(self, live: Live, lag: float | None = None) -> "asyncio.Task[Polled]":
        if live.polling is None:
            live.polling = self._spawn(self._ask(live, lag), "poll")
            live.polling.add_done_callback(lambda _: _done(live))
        return live.polling

    async def _ask(self, live: Live, lag: float | None) -> Polled:
        """Upstream's answer: asked for now, or by another process a moment ago."""
        known = live.body.at if live.body is not None else 0.0
        try:
            while not await self._store.turn(live.key, self._settings.poll_max_age_s):
                body = await self._store.body(live.key)
                if body is not None and body.at != known:
                    headers = list(body.headers)
                    return Polled(200, headers, body.bytes, await self._told(live, body.bytes, headers, source="poll"))
                await asyncio.sleep(_LOOK_AGAIN_S)
        except StoreUnavailable as error:
            self._telemetry.emit([StoreFailed(self._clock(), "poll", error.message)])
            raise
        finally:
            self._schedule(live, self._interval(live))
        if lag is not None:
            await self._in_line()
        return await self._get(live, lag)

    @property
    def _pace_s(self) -> float:
        """Between two polls of the schedule."""
        return self._sharers / self._settings.poll_budget_per_s

    async def _in_line(self) -> None:
        """What a slow store has held up comes one after the other all the same; no more is begun meanwhile."""
        now = time.monotonic()
        turn = max(self._next_asking, now)
        self._next_asking = turn + self._pace_s
        await asyncio.sleep(turn - now)

    async def _get(self, live: Live, lag: float | None) -> Polled:
        began, at, before = time.monotonic(), self._clock(), live.response.status
        outcome: PollOutcome = "error"
        status, credential = 0, live.credential
        live.count(upstream_polls=1)
        retry_after = 0.0
        try:
            call = Call(
                "GET",
                retrieve_url(self._route, live.response),
                asking(credential, live.response.beta, "application/json"),
            )
            status, headers, body = await self._fetch(call)
            live.reachable = 200 <= status < 300 or status in _SAYS_SOMETHING
            retry_after = retry_after_s(headers)
            if 200 <= status < 300:
                live.misses, live.missed_since = 0, None
                outcome = await self._told(live, body, headers, source="poll")
            else:
                await self._denied(live, status, credential)
            return Polled(status, headers, body, outcome)
        except UpstreamError:
            live.reachable = False
            raise
        except StoreUnavailable as error:
            self._telemetry.emit([StoreFailed(self._clock(), "poll", error.message)])
            raise
        finally:
            if status == _TOO_MANY:
                self._slow(live, credential, retry_after)
            took, news = time.monotonic() - began, live.response.status is not before
            polled = UpstreamPolled(at, live.response, outcome, status, took, lag, news=news, failures=live.failures)
            self._telemetry.emit([polled])
            live.failures = live.failures + 1 if outcome == "error" else 0
            self._schedule(live, max(self._interval(live), retry_after))

    async def _fetch(self, call: Call) -> tuple[int, Headers, bytes]:
        total_s = self._settings.poll_timeout_s
        try:
            async with asyncio.timeout(total_s):
                answer = await self._upstream.send(call)
                try:
                    body = await answer.peek(self._settings.event_limit_bytes)
                finally:
                    answer.close()
        except TimeoutError as error:
            raise UpstreamError(f"Upstream did not answer a poll within {total_s:g} s.") from error
        if body is None:
            raise UpstreamError("Upstream's answer to a poll is larger than event_limit_bytes.")
        return answer.status, answer.headers, body

    async def _told(self, live: Live, body: bytes, headers: Headers, *, source: str) -> PollOutcome:
        snapshot = read_snapshot(body)
        if snapshot is None:
            return "error"
        changed = await self._ledger.observe(live, snapshot, headers, source=source)
        if live.response.terminal:
            return "terminal"
        return "changed" if changed else "unchanged"

    async def _denied(self, live: Live, status: int, credential: Headers | None) -> None:
        if status in _UNAUTHORISED:
            await self._ledger.refused(live, credential)
        if status != 404:
            return
        now = time.monotonic()
        live.missed_since = live.missed_since or now
        live.misses += 1
        if live.misses < self._settings.lost_after_polls or now - live.missed_since < self._settings.lost_after_s:
            return
        await self._ledger.end(live, lost(live.response, self._clock()), source="poll")

    def _schedule(self, live: Live, delay_s: float) -> None:
        if not live.in_hand or live.response.pumped:
            return
        live.due = time.monotonic() + delay_s
        heapq.heappush(self._queue, (live.due, next(self._order), live))
        if self._queue[0][2] is live:
            self._earlier.set()

    def _interval(self, live: Live) -> float:
        schedule = self._settings.poll_schedule_s
        interval = schedule[min(live.response.counts.upstream_polls, len(schedule) - 1)]
        if live.holds:
            interval = min(interval, self._settings.poll_waiting_s)
        return interval * random.uniform(1 - self._settings.poll_jitter, 1 + self._settings.poll_jitter)

    def _slow(self, live: Live, credential: Headers | None, retry_after: float) -> None:
        now = time.monotonic()
        self._slow_until = {payer: until for payer, until in self._slow_until.items() if until > now}
        self._slow_until[_payer(credential)] = now + max(retry_after, self._interval(live))

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._earlier.wait()
        except TimeoutError:
            return


def retry_after_s(headers: Headers) -> float:
    """How long upstream asks to be left alone, in seconds; 0 if it does not say. Source: RFC 9110, section 10.2.3."""
    if milliseconds := first(headers, "retry-after-ms"):
        seconds = _number(milliseconds) / 1000
    elif text := first(headers, "retry-after"):
        try:
            seconds = float(text)
        except ValueError:
            date = email.utils.parsedate_to_datetime(text) if _is_date(text) else None
            seconds = date.timestamp() - time.time() if date else 0.0
    else:
        return 0.0
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_S)


def _is_date(text: str) -> bool:
    return email.utils.parsedate(text) is not None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _payer(credential: Headers | None) -> _Payer:
    """Whom a 429 slows: everybody whose polls go out with this credential."""
    return frozenset((name.lower(), value) for name, value in credential or ())


def _done(live: Live) -> None:
    task, live.polling = live.polling, None
    if task is not None and not task.cancelled() and isinstance(task.exception(), GatewayError):
        return
