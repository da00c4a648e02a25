"""Attempts of creates: which of them are one, what a second one is answered, and what has become of their clients.

Theory of operation. An attempt is recorded before upstream is called. One that is marked as sent again is given the
record that it repeats, if the store has it, and with it the first answer: that of the call which is still under way,
the one that was kept, or what the store makes of it. The edge says what became of each client; the store keeps that,
so that an answer which was given is joined by no retry.

Two things look like a retry of what runs, and are none. A create that upstream refused is sent again, while an equal
one of the same owner runs: it repeats nothing (`Refusals`). And a record may be left of a client that went while it
was being written: it was never sent. One thing that is none cannot be told from one: a create whose first try never
arrived here, sent again while an equal one still waits for its answer; it gets that answer. An `Idempotency-Key` of its
own keeps it apart.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from gateway.config import Settings
from gateway.domain.attempt import Attempt, Fate, sent_again
from gateway.domain.errors import GatewayError, OutcomeUnknown, Overloaded, StoreUnavailable, UpstreamError
from gateway.domain.facts import Joined, StoreFailed
from gateway.domain.headers import Headers
from gateway.domain.mode import Mode
from gateway.domain.response import Body, Response
from gateway.relay.answers import Answered, Answers
from gateway.relay.creation import Head
from gateway.relay.live import Live
from gateway.relay.poller import retry_after_s
from gateway.store.port import Store
from gateway.telemetry.observers import Telemetry

_REFUSALS = 10_000
_LOOK_EVERY_S = 0.25
_BACKOFF_S = 15.0  # SDKs wait for 8 s at the most, where they are not told for how long

Spawn = Callable[[Coroutine[Any, Any, None], str], object]


class Begun(NamedTuple):
    """A create in hand: the response, the answer to come, and whose try it is. `joined`: another has begun it."""

    live: Live
    answer: Answered
    attempt: Attempt
    joined: bool = False


class Refusals:
    """Creates that came to nothing and will be sent again: which retries that explains. `clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: OrderedDict[tuple[str, int], deque[float]] = OrderedDict()
        self._noted = 0

    def note(self, attempt: Attempt, status: int, headers: Headers) -> None:
        """This attempt was answered so, and is over."""
        if attempt.keyed or not sent_again(status, headers):
            return
        until = self._clock() + _BACKOFF_S + retry_after_s(headers)
        self._until.setdefault((attempt.name, attempt.retry + 1), deque()).append(until)
        self._noted += 1
        while self._noted > _REFUSALS:
            self._noted -= len(self._until.popitem(last=False)[1])

    def explain(self, attempt: Attempt) -> bool:
        """Whether this is the next try of one that was refused; of each, one is."""
        now, what, explained = self._clock(), (attempt.name, attempt.retry), False
        waiting = self._until.pop(what, deque())
        while waiting and not explained:
            self._noted -= 1
            explained = waiting.popleft() > now
        if waiting:
            self._until[what] = waiting
        return explained


class Attempts:
    """One object serves all. `live` are the tracker's responses, `spawn` starts its tasks."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        live: dict[str, Live],
        telemetry: Telemetry,
        clock: Callable[[], float],
        spawn: Spawn,
    ) -> None:
        self._settings = settings
        self._store = store
        self._live = live
        self._telemetry = telemetry
        self._clock = clock
        self._spawn = spawn
        self._refusals = Refusals()
        self.answers = Answers()
        self.recording: set[str] = set()
        """Keys of what is being recorded: it is not in hand yet, and may be in the store already."""

    async def record(self, response: Response, attempt: Attempt) -> Response:
        """Record an attempt, or find the record of what it repeats, which has another key.

        Raises `Overloaded`, `IdempotencyKeyReused`, `StoreUnavailable`.
        """
        join = attempt.repeats and not self._refusals.explain(attempt)
        if not join:
            self._find_room(attempt)
        while True:
            recorded = await self._record(response, attempt, join=join)
            if recorded.key == response.key:
                break
            if recorded.key in self._live:
                return recorded
            recorded = await self._store.get(recorded.key) or recorded
            if recorded.ended or await self._elsewhere(recorded):
                return recorded
            # Its client left while it was recorded: it was never sent, and is about to be deleted.
            await self._store.delete(recorded.key)
        try:
            self._find_room(attempt)
        except Overloaded:
            self._unmake(response)
            raise
        return recorded

    async def _elsewhere(self, recorded: Response) -> bool:
        """Whether another process holds it, or held it until it died: then it is taken up, or ended, in a moment."""
        lease = await self._store.claim(recorded.key)
        if lease is not None and lease.epoch != recorded.epoch:
            await self._store.release(recorded.key, epoch=lease.epoch)
        return lease is None or lease.epoch != recorded.epoch

    async def _record(self, response: Response, attempt: Attempt, *, join: bool) -> Response:
        self.recording.add(response.key)
        try:
            return await self._store.create(response, attempt, join=join)
        except asyncio.CancelledError:
            # The client has left; whether the record is there by now cannot be known.
            self._unmake(response)
            raise
        finally:
            self.recording.discard(response.key)

    def _find_room(self, attempt: Attempt) -> None:
        if len(self._live) < self._settings.max_live:
            return
        error = Overloaded(
            "The gateway tracks as many responses as max_live allows; try again.", headers={"Retry-After": "5"}
        )
        self._refusals.note(attempt, error.status, list(error.headers.items()))
        raise error

    def begin(self, live: Live, attempt: Attempt) -> Begun:
        """This attempt is sent upstream."""
        live.attempt = attempt
        return Begun(live, self.answers.expect(live.key), attempt)

    async def join(self, recorded: Response, attempt: Attempt, *, request_id: str | None) -> Begun:
        """This attempt, made by a request of that name, repeats the one of this record, and gets its answer."""
        live = self._live.get(recorded.key) or Live(recorded)
        live.attempt = attempt
        live.count(joined=1)
        self._telemetry.emit([Joined(self._clock(), live.response, attempt.by, attempt.retry, request_id)])
        answer = self.answers.get(live.key)
        if answer is None:
            answer = asyncio.get_running_loop().create_future()
            try:
                answer.set_result(await self._stored(live))
            except GatewayError as error:
                answer.set_exception(error)
        return Begun(live, answer, attempt, joined=True)

    async def _stored(self, live: Live) -> Head:
        """What the store makes of the answer. Of what another process holds, that may be yet to come."""
        response, until = live.response, time.monotonic() + self._settings.upstream_headers_s
        while not live.in_hand and not _answered(response) and time.monotonic() < until:
            await asyncio.sleep(_LOOK_EVERY_S)
            found = await self._store.get(live.key)
            if found is None:
                raise UpstreamError("Upstream refused the create that this one repeats; send it again.")
            response = found
        return _head(response, live.body or await self._store.body(live.key))

    def in_hand(self, attempt: Attempt) -> bool:
        """While the store is down: whether a live response may be what this attempt repeats."""
        return attempt.repeats and any(
            live.attempt is not None and live.attempt.name == attempt.name for live in self._live.values()
        )

    def refused(self, live: Live, status: int, headers: Headers) -> None:
        """Upstream, or the way to it, refused the create: there is nothing to join."""
        if live.attempt is not None:
            self._refusals.note(live.attempt, status, headers)
        live.attempt = None
        self.answers.drop(live.key)

    def mark(self, begun: Begun, fate: Fate) -> None:
        """What has become of the client of an attempt; written down by a task."""
        newest, attempt = begun.live.attempt, begun.attempt
        if newest is None or newest.retry > attempt.retry or attempt.keyed:
            return
        if fate is Fate.ANSWERED:
            self.answers.given(begun.live.key)
        else:
            self.answers.lost(begun.live.key)
        begun.live.attempt = attempt.now(fate, self._clock())
        self._spawn(self._mark(begun.live.key, begun.live.attempt), "attempt")

    async def _mark(self, key: str, attempt: Attempt) -> None:
        try:
            await self._store.mark(key, attempt)
        except StoreUnavailable as error:
            self._telemetry.emit([StoreFailed(self._clock(), "mark", error.message)])

    def _unmake(self, response: Response) -> None:
        self._spawn(self._delete(response.key), f"response {response.key}")

    async def _delete(self, key: str) -> None:
        try:
            await self._store.delete(key)
        except StoreUnavailable as error:
            self._telemetry.emit([StoreFailed(self._clock(), "delete", error.message)])


def _answered(response: Response) -> bool:
    """Whether the store has what the create is answered with."""
    if response.ended or response.pumped or response.tail >= 0:
        return True
    return response.mode.background and response.response_id is not None


def _head(response: Response, body: Body | None) -> Head:
    """What a create is answered that this process has no answer of any more: the response as it is now.

    Raises `OutcomeUnknown`.
    """
    headers = list(body.headers) if body else []
    if response.mode is not Mode.BACKGROUND and (response.tail >= 0 or response.pumped):
        others = [(name, value) for name, value in headers if name.lower() != "content-type"]
        return Head(200, "OK", [("Content-Type", "text/event-stream; charset=utf-8"), *others], follow=True)
    if body is not None and body.bytes:
        return Head(200, "OK", headers, body=body.bytes)
    if response.response_id is not None:
        raise OutcomeUnknown(f"The answer to this create is not kept any more; it made {response.response_id}.")
    message = response.error_message or "What came of this create is not known."
    raise OutcomeUnknown(f"{message} Sent again, it might be paid for twice.")
