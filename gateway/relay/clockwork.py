"""What time alone makes happen: the walk over all live responses, the purge, and the probes of loop and store.

Theory of operation. Everything that time does to a response happens in one walk over all of them (`walk`): stuck and
recovered, what is done about it, given up, a foreground stream that nobody follows any more, changes not yet written
down, and the count of them all. The walk stops for a moment every few responses, so that thousands hold nobody up; a
response that comes or goes meanwhile is counted or not. Run by the tracker, which owns the tasks.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any

from gateway.config import Settings
from gateway.domain.errors import GatewayError, StoreUnavailable
from gateway.domain.facts import LoopLagged, Purged, StoreFailed, StoreMeasured
from gateway.domain.lifecycle import Outcome, give_up
from gateway.domain.models import ByModel
from gateway.domain.response import Ending, Stuck
from gateway.domain.stuck import STANDS_STILL, Contact, Patience, forgotten_at, judge
from gateway.domain.websocket import Conversation
from gateway.relay.ledger import Ledger
from gateway.relay.live import Live
from gateway.relay.poller import Poller
from gateway.relay.survey import Survey
from gateway.store.port import Store
from gateway.store.purge import purge
from gateway.telemetry.observers import Telemetry

_SLICE = 100
_WRITE_EVERY_S = 5.0  # what a crash may cost: when it last moved, and some counts
_WRITTEN_AT_ONCE = 50
_GUEST_S = 60.0
_PROBE_EVERY_S = 0.25
_MEASURE_EVERY_S = 15.0  # a usual pause between scrapes
# What the response itself is in; the way to upstream may open again.
_ABANDONED_FOR = STANDS_STILL | {Stuck.LOST, Stuck.EXPIRED}


class Clockwork:
    """Acts on the live responses by the clock. `live` are the tracker's, `conversations` those of WebSockets.

    `guests` are those that clients ask this process about, while another holds them.
    `followers` says how many clients read.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        ledger: Ledger,
        poller: Poller,
        telemetry: Telemetry,
        clock: Callable[[], float],
        live: Mapping[str, Live],
        guests: dict[str, Live],
        conversations: Collection[Conversation],
        followers: Callable[[], int],
        spawn: Callable[[Coroutine[Any, Any, Any], str], object],
    ) -> None:
        self._settings = settings
        self._store = store
        self._ledger = ledger
        self._poller = poller
        self._telemetry = telemetry
        self._clock = clock
        self._live = live
        self._guests = guests
        self._conversations = conversations
        self._followers = followers
        self._spawn = spawn
        self._patience = Patience(
            ByModel(settings.patience_by_model, settings.patience_s),
            ByModel(settings.patience_polled_by_model, settings.patience_polled_s),
            settings.patience_s,
            settings.upstream_keeps_s,
        )
        limits = (settings.patience_s, settings.patience_polled_s, settings.upstream_keeps_s, settings.give_up_after_s)
        self._walk_every_s = min(max(min(*limits, settings.linger_s or 1.0) / 10, 0.05), 2.0)

    async def walk(self) -> None:
        """Walk over all live responses, again and again."""
        while True:
            await asyncio.sleep(self._walk_every_s)
            held, survey, unwritten = tuple(self._live.values()), Survey(), list[Live]()
            for start in range(0, len(held), _SLICE):
                now = self._clock()
                for live in held[start : start + _SLICE]:
                    if live.response.ended:
                        continue
                    contact = live.contact(now)
                    outcome = self._look(live, contact, now, unwritten)
                    if outcome is not None and not await self._read_elsewhere(live):
                        await self._abandon(live, outcome)
                        continue
                    expires_at = None if contact.answered else forgotten_at(live.response, contact, self._patience)
                    survey.add(live.response, expires_at)
                await asyncio.sleep(0)
            for conversation in tuple(self._conversations):
                self._telemetry.emit(conversation.look(self._clock(), self._patience))
                for response in conversation.live:
                    survey.add(response, None)
            self._telemetry.emit([survey.done(self._clock(), followers=self._followers())])
            unwritten += self._look_at_guests()
            # Some at a time: the writes of thousands, decided in one go, would hold the event loop up.
            for start in range(0, len(unwritten), _WRITTEN_AT_ONCE):
                await asyncio.gather(*map(self.write, unwritten[start : start + _WRITTEN_AT_ONCE]))

    async def purge(self) -> None:
        """Delete what is past its time, again and again."""
        while True:
            await asyncio.sleep(self._settings.purge_interval_s)
            try:
                await self.purge_once()
            except StoreUnavailable as error:
                self._failed("purge", error)

    async def purge_once(self) -> int:
        """Delete what is past its time: how many records that touched. Raises `StoreUnavailable`."""
        touched = await purge(self._store, self._settings, self._clock())
        self._telemetry.emit([Purged(self._clock(), touched)])
        return touched

    async def probe(self) -> None:
        """Measure how much later than due the event loop runs things, again and again."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _PROBE_EVERY_S
            await asyncio.sleep(_PROBE_EVERY_S)
            self._telemetry.emit([LoopLagged(self._clock(), max(0.0, loop.time() - due))])

    async def measure(self) -> None:
        """Measure how much room the store takes and has left, again and again."""
        while True:
            try:
                space = await self._store.space()
                measured = StoreMeasured(self._clock(), space.bytes, space.free_bytes, space.capacity_bytes)
                self._telemetry.emit([measured])
            except StoreUnavailable as error:
                self._failed("space", error)
            await asyncio.sleep(_MEASURE_EVERY_S)

    async def write(self, live: Live) -> None:
        """Write down what the store does not have yet of a response."""
        live.written_at = time.monotonic()
        try:
            await self._ledger.note(live)
        except StoreUnavailable as error:
            self._failed("change", error)

    def _look(self, live: Live, contact: Contact, now: float, unwritten: list[Live]) -> Outcome | None:
        """Judge a response; the end that it has come to, if it has."""
        reason = judge(live.response, now, contact, self._patience)
        turned = reason is not live.response.stuck
        if turned:
            self._ledger.judge(live, reason, now)
            self._cancel_if_wanted(live, reason)
        outcome = self._given_up(live, reason, now)
        if turned or (live.saved is not live.response and time.monotonic() - live.written_at > _WRITE_EVERY_S):
            unwritten.append(live)
        return outcome

    def _look_at_guests(self) -> list[Live]:
        """Guests of whom something is to be written; one that nobody asked about for a while is let go."""
        unwritten = []
        for guest in tuple(self._guests.values()):
            if guest.unsaved or guest.saved is not guest.response:
                unwritten.append(guest)
            elif not guest.readers and not guest.holds and time.monotonic() - guest.written_at > _GUEST_S:
                del self._guests[guest.key]
        return unwritten

    async def _read_elsewhere(self, live: Live) -> bool:
        """Whether a foreground response that nobody follows here has readers at another process."""
        if not self._store.shared or live.response.mode.background or live.alone_since is None:
            return False
        with contextlib.suppress(StoreUnavailable):
            found = await self._store.get(live.key)
            return found is not None and found.counts.attaches > found.counts.disconnects
        return True

    def _given_up(self, live: Live, reason: Stuck | None, now: float) -> Outcome | None:
        response, settings = live.response, self._settings
        linger_s = settings.linger_s if live.linger_s is None else live.linger_s
        if now - response.expected_at > settings.give_up_after_s:
            message = "The response did not end in give_up_after_s; the gateway does not track it any more."
        elif self._abandons(live, reason):
            message = f"The response was stuck ({reason}); as on_stuck says, the gateway does not track it any more."
        elif not response.mode.background and live.alone_for(time.monotonic()) >= linger_s:
            message = f"Nobody followed this foreground response for {linger_s:g} s, so it was stopped."
        else:
            return None
        return give_up(response, Ending.ABANDONED, now, code="response_abandoned", message=message)

    def _abandons(self, live: Live, reason: Stuck | None) -> bool:
        """As on_stuck says. In the foreground that is how to cancel: upstream stops when its connection closes."""
        if self._settings.on_stuck == "cancel":
            return reason in STANDS_STILL and not live.response.mode.background
        return self._settings.on_stuck == "abandon" and reason in _ABANDONED_FOR

    def _cancel_if_wanted(self, live: Live, reason: Stuck | None) -> None:
        if self._settings.on_stuck == "cancel" and reason in STANDS_STILL and live.response.mode.background:
            self._spawn(self._cancel(live), "cancel")

    async def _cancel(self, live: Live) -> None:
        try:
            await self._poller.cancel(live)
        except StoreUnavailable as error:
            self._failed("cancel", error)
        except GatewayError:
            return  # it stays stuck, now because upstream does not answer

    async def _abandon(self, live: Live, outcome: Outcome) -> None:
        try:
            await self._ledger.end(live, outcome, source="expiry")
        except StoreUnavailable as error:
            self._failed("finish", error)

    def _failed(self, operation: str, error: StoreUnavailable) -> None:
        self._telemetry.emit([StoreFailed(self._clock(), operation, error.message)])
