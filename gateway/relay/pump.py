"""The pump: copies one response's events from upstream into the log, over as many upstream connections as it takes.

Theory of operation. A network chunk decodes to frames, frames get positions, and what a chunk brought is one append.
The pump knows no client: it reads at upstream's speed and stops for two things only, the end and a full buffer while
the store is down. When upstream's stream breaks, or ends without a terminal event, a background response is attached to
again after the last number; upstream decides what it still has. Where it refuses, or where numbers are the gateway's
own, the poller goes on and the log ends with an event made from the final object. A foreground response is gone with
its connection: its readers get the nested error. Nothing here ends a stream cleanly without a terminal event.

A log that is shorter than it was has been forgotten in part, or as a whole (`Gap`). Then what is missing is asked of
upstream again, in the same way; in the foreground it is written again from memory, as far as that goes back.

A repeated number is compared with the log before it is dropped (`_judged`): a second delivery, or a numbering that
restarted. Started by the tracker, as that response's task.
"""

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.config import Settings
from gateway.domain.errors import GatewayError, StoreUnavailable, UpstreamError
from gateway.domain.events import ERROR, Event, Numbering, same_event, skipped
from gateway.domain.facts import Contradicted, NumbersSkipped, Reattached, StoreFailed, UpstreamCut
from gateway.domain.headers import asking
from gateway.domain.lifecycle import failed_by_error_event, give_up
from gateway.domain.response import Ending
from gateway.domain.sse import Decoder, EventTooLarge, Frame
from gateway.relay.ledger import Ledger
from gateway.relay.live import Live
from gateway.relay.poller import Poller, retry_after_s
from gateway.relay.routing import Route, retrieve_url
from gateway.relay.upstream import Answer, Call, Upstream
from gateway.store.port import Closed, Gap, Store
from gateway.telemetry.observers import Telemetry

_STORE_RETRY_S = 0.5
_FIRST_RETRY_S = 0.2
_DRAIN_S = 0.5
_REMEMBERED_BYTES = 128 * 2**10  # seconds of a stream: what a failover may forget
# A log may not grow for ever: what comes after is seen by polling, and the terminal event still brings all output.
_LOG_FULL = "log_limit"
_GAP = "gap"
# What another attempt may change; 401 and 403 wait for a newer credential; anything else is upstream's word.
_TRY_AGAIN = frozenset({408, 409, 429, *range(500, 600)})
_UNAUTHORISED = frozenset({401, 403})


class Pump:
    """Reads streams of upstream. One object serves all; a response's state is in its `Live` and its `Numbering`."""

    def __init__(
        self,
        settings: Settings,
        route: Route,
        upstream: Upstream,
        store: Store,
        ledger: Ledger,
        poller: Poller,
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._route = route
        self._upstream = upstream
        self._store = store
        self._ledger = ledger
        self._poller = poller
        self._telemetry = telemetry
        self._clock = clock

    async def run(self, live: Live, answer: Answer | None) -> None:
        """Read until the response has ended or the poller has it. `answer`: an open stream; None: attach first."""
        response = live.response
        numbering = Numbering(tail=response.tail, upstream=response.upstream_number, own=response.own_numbers)
        live.response = live.response.but(pumped=True)
        fruitless = 0
        while live.in_hand:
            if answer is None:
                answer = await self._attach_again(live, numbering, fruitless)
                if answer is None:
                    return
            before = numbering.tail
            reason = await self._copy(live, answer, numbering)
            if not live.in_hand:
                return
            self._telemetry.emit([UpstreamCut(self._clock(), live.response, reason)])
            answer = None
            if not live.response.mode.background or live.response.response_id is None:
                await self._break_off(live, reason)
                return
            if reason == _LOG_FULL:
                self._poller.take(live)
                return
            fruitless = 0 if numbering.tail > before or reason == _GAP else fruitless + 1
            if fruitless:
                await self._look(live)

    async def _copy(self, live: Live, answer: Answer, numbering: Numbering) -> str:
        """Read one upstream connection until it ends; the reason why it did."""
        once = self._store.shared and not live.response.mode.background
        reading = _Reading(Decoder(self._settings.event_limit_bytes), _Memory(numbering.tail) if once else None)
        live.connected = live.reachable = True
        try:
            while live.in_hand:
                chunk = await self._chunk(answer, reading)
                if chunk:
                    live.arrived_at = time.monotonic()
                    reading.frames += reading.decoder.feed(chunk)
                elif chunk is not None:
                    reading.frames += reading.decoder.end()
                await self._log(live, reading, numbering, must=chunk == b"")
                if chunk == b"":
                    return "eof"
                if live.logged_bytes > self._settings.log_limit_bytes:
                    return _LOG_FULL
            await self._drain(answer)
        except UpstreamError as error:
            await self._log(live, reading, numbering, must=True)
            return error.code
        except EventTooLarge:
            return "event_too_large"
        except Gap as gap:
            numbering.tail = gap.tail
            live.response = live.response.but(tail=gap.tail)
            return _GAP
        finally:
            live.connected, live.heard_at = False, self._clock()
            answer.close()
        return "ended"

    async def _chunk(self, answer: Answer, reading: "_Reading") -> bytes | None:
        """The next chunk. While events wait for the store: None every now and then, to try it again."""
        held = reading.held_bytes
        if not held:
            return await answer.chunk()
        if held > self._settings.pump_buffer_bytes:
            await asyncio.sleep(_STORE_RETRY_S)
            return None
        try:
            async with asyncio.timeout(_STORE_RETRY_S):
                return await answer.chunk()
        except TimeoutError:
            return None

    async def _log(self, live: Live, reading: "_Reading", numbering: Numbering, *, must: bool) -> None:
        """Place and append what was read. A store that is down is tried again: here if it `must`, else next time."""
        while live.in_hand:
            try:
                if reading.unlogged:
                    await self._ledger.receive(live, tuple(reading.unlogged))
                    if reading.memory is not None:
                        reading.memory.keep(reading.unlogged)
                    reading.unlogged.clear()
                elif reading.suspect is not None:
                    reading.unlogged = await self._judged(live, reading.suspect, numbering)
                    reading.suspect = None
                elif reading.frames:
                    after = numbering.tail
                    reading.unlogged, reading.suspect = numbering.place(reading.frames)
                    self._note_numbering(live, numbering)
                    if numbering.tail - after > len(reading.unlogged):
                        self._note_skipped(live, after, reading.unlogged)
                else:
                    return
            except Gap as gap:
                forgotten = reading.memory.take(gap.tail) if reading.memory is not None else None
                if forgotten is None:
                    raise
                live.response = live.response.but(tail=gap.tail)
                reading.unlogged[:0] = forgotten
            except StoreUnavailable as error:
                self._telemetry.emit([StoreFailed(self._clock(), "append", error.message)])
                if not must:
                    return
                await asyncio.sleep(_STORE_RETRY_S)

    async def _judged(self, live: Live, event: Event, numbering: Numbering) -> list[Event]:
        """An event under a number that the log has passed: nothing if it is there already, else a position of ours."""
        try:
            page = await self._store.read(live.key, after=event.number - 1, limit=1)
        except Closed:
            return []  # there is nothing to compare it with; the next append finds out why
        if page.frames and page.frames[0][0] == event.number:
            logged = Decoder().feed(page.frames[0][1])
            if logged and same_event(logged[0].data, event.data):
                return []
        placed = numbering.renumber(event)
        self._note_numbering(live, numbering)
        return placed

    def _note_numbering(self, live: Live, numbering: Numbering) -> None:
        if numbering.own and not live.response.own_numbers:
            live.response = live.response.but(own_numbers=True, upstream_number=numbering.upstream)
            detail = f"after {numbering.upstream}"
            self._telemetry.emit([Contradicted(self._clock(), live.response, "own_numbers", detail)])

    def _note_skipped(self, live: Live, after: int, events: Sequence[Event]) -> None:
        at, response = self._clock(), live.response
        self._telemetry.emit(NumbersSkipped(at, response, *gap) for gap in skipped(after, events))

    async def _attach_again(self, live: Live, numbering: Numbering, fruitless: int) -> Answer | None:
        """An open stream after the last number; None where the poller has to go on, or the response has ended."""
        longest = self._settings.upstream_retry_max_s
        pause = min(_FIRST_RETRY_S * 2.0 ** min(fruitless, 16), longest) if fruitless else 0.0
        while live.in_hand:
            await asyncio.sleep(pause)
            if numbering.own:
                break
            while live.waits_for_owner and live.in_hand:
                await live.change()
            if not live.in_hand:
                return None
            pause = min(max(pause, _FIRST_RETRY_S) * 2, longest) * random.uniform(0.8, 1)
            began, credential = self._clock(), live.credential
            answer = await self._ask(live, numbering.tail)
            outcome = "failed"
            if answer is not None and answer.ok and answer.is_event_stream:
                outcome, live.misses, live.missed_since = "resumed", 0, None
            elif answer is not None and answer.status in _UNAUTHORISED:
                await self._ledger.refused(live, credential)
            elif answer is not None and answer.status not in _TRY_AGAIN:
                outcome = "refused"
            elif answer is not None:
                pause = max(pause, retry_after_s(answer.headers))
            live.reachable = answer is not None and answer.status not in _TRY_AGAIN
            live.count(reattaches=1)
            took, status = self._clock() - began, answer.status if answer is not None else 0
            self._telemetry.emit([Reattached(began, live.response, numbering.tail, outcome, took, status)])
            if outcome == "resumed":
                return answer
            if answer is not None:
                answer.close()
            if outcome == "refused":
                break
        self._poller.take(live)
        return None

    async def _ask(self, live: Live, tail: int) -> Answer | None:
        after = tail if tail >= 0 else None
        url = retrieve_url(self._route, live.response, stream=True, stream_after=after)
        headers = asking(live.credential, live.response.beta, "text/event-stream")
        try:
            return await self._upstream.send(Call("GET", url, headers), total_s=self._settings.poll_timeout_s)
        except GatewayError:
            return None

    async def _look(self, live: Live) -> None:
        """A connection brought nothing new: perhaps the response has ended. Ask before attaching again."""
        with contextlib.suppress(GatewayError):
            await self._poller.poll(live)

    async def _break_off(self, live: Live, reason: str) -> None:
        """A response that lived in the connection is gone with it."""
        at = self._clock()
        if live.response.last_event == ERROR:
            outcome = failed_by_error_event(live.response, at)
        else:
            message = f"Upstream's stream broke before its end ({reason}); this response cannot be resumed upstream."
            outcome = give_up(live.response, Ending.UPSTREAM_LOST, at, code="upstream_lost", message=message)
        await self._ledger.end_surely(live, outcome, source="stream")

    async def _drain(self, answer: Answer) -> None:
        """After the terminal event only the end of the body is left: taking it keeps the connection for the next."""
        with contextlib.suppress(TimeoutError, UpstreamError):
            async with asyncio.timeout(_DRAIN_S):
                while await answer.chunk():
                    pass


class _Memory:
    """The newest events of a log: for a store that may forget them, while upstream says each only once."""

    def __init__(self, since: int) -> None:
        self._since = since
        self._events: deque[Event] = deque()
        self._bytes = 0

    def keep(self, events: Sequence[Event]) -> None:
        """These have been logged. The oldest ones go."""
        for event in events:
            self._events.append(Event(event.number, event.type, event.frame, b""))  # nobody reads it again
            self._bytes += len(event.frame)
        while self._bytes > _REMEMBERED_BYTES:
            oldest = self._events.popleft()
            self._since, self._bytes = oldest.number, self._bytes - len(oldest.frame)

    def take(self, tail: int) -> list[Event] | None:
        """All that have been logged after a position, to be logged again; None where some of them have gone."""
        if tail < self._since:
            return None
        taken = deque[Event]()
        while self._events and self._events[-1].number > tail:
            taken.appendleft(self._events.pop())
            self._bytes -= len(taken[0].frame)
        return list(taken)


@dataclass(slots=True)
class _Reading:
    """What one upstream connection has brought that is not in the log yet; and what is, where only `memory` has it."""

    decoder: Decoder
    memory: _Memory | None = None
    frames: deque[Frame] = field(default_factory=deque)
    suspect: Event | None = None
    unlogged: list[Event] = field(default_factory=list)

    @property
    def held_bytes(self) -> int:
        return sum(len(event.frame) for event in self.unlogged) + sum(len(frame.raw) for frame in self.frames)
