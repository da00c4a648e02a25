"""Leases: which live responses this process holds, and how they change hands between the processes of one store.

Theory of operation. A process lives for as long as it says so (`beat`). What no living process holds is an orphan: its
holder was killed, or cut off for too long, or has let go of it; or it is what this process's predecessor left. So a
restart and a takeover are one thing: whoever claims an orphan takes it up where its record and its log end. One that
waits for its owner goes to whoever hears from the owner, whoever holds it. There may be thousands: they are claimed
some at a time, and in between this process says that it lives, or others would take what it has just claimed.

What this process holds no more, because it was away for too long or because another has ended it, it learns with its
next heartbeat, or earlier by a write that is refused; then it lets go. Nothing that it still believes gets written: its
epoch is old.

When the store was away, for this process or for all, what was agreed with it may be lost, on either side: whether a
claim was answered, what others told, what a failover forgot. So once it is back, all that is in hand is looked at: what
the store has forgotten is written anew, and is found by others again, and what the store says this process holds, and
it does not, is taken up. This also now and then, as a failover may be over before anybody has noticed. After a failure
nobody adopts from the others for as long as a lease, in which they can say that they live. Run by the tracker.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Protocol, TypeVar

from gateway.config import Settings
from gateway.domain.errors import StoreUnavailable
from gateway.domain.facts import LetGo, StoreFailed, TakenUp
from gateway.domain.headers import Headers
from gateway.domain.lifecycle import Outcome, died_with_the_process
from gateway.domain.response import Response
from gateway.relay.attempts import Attempts
from gateway.relay.credentials import Credentials
from gateway.relay.ledger import Ledger
from gateway.relay.live import Live
from gateway.relay.poller import Poller
from gateway.store.port import Store
from gateway.telemetry.observers import Telemetry

T = TypeVar("T")
_AT_ONCE = 50
_LOOK_BACK = 6  # every so many leases: what no failure told of
_BEATS = 10  # in the time of a lease: one that is late, or lost on its way, ends none


class Hands(Protocol):
    """The tracker's: what is in hand, and what is about to be."""

    live: dict[str, Live]
    attempts: Attempts

    def take_up(self, live: Live, *, spread_s: float = 0.0) -> str:
        """Go on with a response: how it is followed from now on."""

    def let_go(self, live: Live) -> None:
        """Another process has it now, or may have it."""


class Leases:
    """Takes and gives responses. `clock` gives unix seconds. `orphans`: how many nobody held at the last look."""

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials,
        store: Store,
        ledger: Ledger,
        poller: Poller,
        telemetry: Telemetry,
        clock: Callable[[], float],
        hands: Hands,
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._store = store
        self._ledger = ledger
        self._poller = poller
        self._telemetry = telemetry
        self._clock = clock
        self._hands = hands
        self._beat_s = settings.lease_s / _BEATS
        self._leaving, self._adopts_at, self._looks_back_at, self._beats_at = False, 0.0, 0.0, 0.0
        self._news: set[str] = set()
        self.unsure = False
        """What the store has may be other than what this process thinks."""
        self.processes = 1
        self.orphans = 0

    @property
    def away(self) -> bool:
        """The store did not answer the last heartbeat."""
        return self._adopts_at == math.inf

    async def begin(self) -> None:
        """Live, and take up what nobody holds. Raises `StoreUnavailable`."""
        await self._beat()
        if self.processes > 1:
            # Until the others have heard of this process, they use the whole budget of polls.
            self._poller.pause(2 * self._beat_s)
        await self._adopt()

    async def keep(self) -> None:
        """Live on, and take up what others leave, again and again. With a store of one's own nobody leaves anything."""
        while self._store.shared:
            await asyncio.sleep(self._beat_s)
            try:
                await self._beat()
                await self._look_again()
                if not self._leaving and time.monotonic() >= self._adopts_at:
                    await self._adopt()
            except StoreUnavailable as error:
                self.unsure = True
                self._adopts_at = math.inf
                self._telemetry.emit([StoreFailed(self._clock(), "renew", error.message)])
        await asyncio.Event().wait()

    async def claim(self, response: Response, credential: Headers | None, *, spread_s: float = 0.0) -> Live | None:
        """Hold a response and go on with it; None where another process holds it. Raises `StoreUnavailable`."""
        lease = await self._store.claim(response.key)
        if lease is None:
            return None
        try:
            found, body = await asyncio.gather(self._store.get(response.key), self._store.body(response.key))
        except StoreUnavailable:
            self.unsure = True
            raise
        if found is None or found.ended or response.key in self._hands.live:
            return None
        live = Live(found, lease.epoch, credentials=self._credentials, body=body, created=True)
        live.unseal()
        if credential is not None:
            live.heard(credential, self._clock())
        self._hands.live[live.key] = live
        if ending := died_with_the_process(found, self._clock()):
            await self._end(live, ending)
            how = "ended"
        else:
            how = self._hands.take_up(live, spread_s=spread_s)
            await self._ledger.note_if_it_can(live)
        self._telemetry.emit([TakenUp(self._clock(), live.response, how)])
        return live

    async def hand_over(self) -> bool:
        """This process stops: what goes on upstream is left to others, at once; False where it stays in hand."""
        try:
            # What it cannot tell the store for so long, the others do not wait for.
            async with asyncio.timeout(self._settings.lease_s):
                return self._store.shared and await self._hand_all_over()
        except (StoreUnavailable, TimeoutError):
            return False

    async def resign(self) -> None:
        """This process holds nothing any more. Raises `StoreUnavailable`."""
        await self._store.renew(0)

    def taken(self, live: Live) -> None:
        """Another process holds it by now."""
        if live.in_hand:
            self._let_go(live, "taken")

    async def _hand_all_over(self) -> bool:
        await self._beat()
        if self.processes == 1:
            return False
        self._leaving = True
        going_on = [live for live in self._hands.live.values() if died_with_the_process(live.response, 0.0) is None]
        await self._each(going_on, self._hand_over)
        return True

    async def _hand_over(self, live: Live) -> None:
        await self._ledger.note_if_it_can(live)
        epoch = live.epoch
        if not live.in_hand or epoch is None:
            return
        await self._store.release(live.key, epoch=epoch)
        if live.in_hand:
            self._let_go(live, "handed_over")

    async def _end(self, live: Live, ending: Outcome) -> None:
        try:
            await self._ledger.end(live, ending, source="recovery")
        except StoreUnavailable:
            self._hands.let_go(live)
            self.unsure = True
            raise

    async def _beat(self) -> None:
        pulse = await self._store.renew(self._settings.lease_s)
        self._beats_at = time.monotonic() + self._beat_s
        self._news |= self._hands.live.keys() & pulse.news
        self.processes = pulse.processes
        self._poller.shared_by(pulse.processes)
        if self.away or pulse.unsure:
            self._adopts_at = time.monotonic() + self._settings.lease_s
        self.unsure = self.unsure or pulse.unsure or time.monotonic() >= self._looks_back_at

    async def _live_on(self) -> None:
        """Beat, if it is time: in the midst of long work."""
        if time.monotonic() >= self._beats_at:
            await self._beat()

    async def _each(self, all_of_them: Collection[T], work: Callable[[T], Coroutine[Any, Any, object]]) -> None:
        """Do something with each, some at a time."""
        ordered = list(all_of_them)
        for start in range(0, len(ordered), _AT_ONCE):
            await asyncio.gather(*map(work, ordered[start : start + _AT_ONCE]))
            await self._live_on()

    async def _look_again(self) -> None:
        news, self._news = (tuple(self._hands.live) if self.unsure else self._news), set()
        await self._each(news, self._look)

    async def _look(self, key: str) -> None:
        """Perhaps another process has taken it, or ended it, or has heard from its owner."""
        if key not in self._hands.live:
            return
        found = await self._store.get(key)
        live = self._hands.live.get(key)
        if live is None:
            return
        if found is None:
            await self._ledger.missed(live)
        elif found.ended:
            self._ledger.learn(live, found)
        elif found.epoch != live.epoch:
            self.taken(live)
        else:
            waited = live.waits_for_owner
            live.learn(found.seal)
            if waited and not live.waits_for_owner:
                self._hands.take_up(live)
                await self._ledger.note_if_it_can(live)

    async def _adopt(self) -> None:
        unsure, self.unsure = self.unsure, False
        in_hand = None
        if unsure:
            self._looks_back_at = time.monotonic() + _LOOK_BACK * self._settings.lease_s
            in_hand = {*self._hands.live, *self._hands.attempts.recording}
        try:
            found = []
            async for one in self._store.orphans(in_hand):
                found.append(one)
                await self._live_on()
            await self._claim_all(found)
        except StoreUnavailable:
            self.unsure = self.unsure or unsure
            raise

    async def _claim_all(self, found: Collection[Response]) -> None:
        orphans = [one for one in found if one.key not in self._hands.live]
        random.shuffle(orphans)  # each process another part of them first
        spread_s = len(orphans) / self._settings.poll_budget_per_s
        self.orphans = len(orphans)

        async def claim(one: Response) -> None:
            await self.claim(one, None, spread_s=spread_s)
            self.orphans -= 1

        await self._each(orphans, claim)

    def _let_go(self, live: Live, how: str) -> None:
        self._hands.let_go(live)
        self._telemetry.emit([LetGo(self._clock(), live.response, how)])
