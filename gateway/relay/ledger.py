"""Where what upstream says becomes true: the one hand that writes live responses into the store, and tells of it.

The order is always: write, then apply, then emit. A fold that was made before a write is made again if the response
changed during it, so that two writers of one response (pump and poller) never undo each other. Called by the relay.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence

from gateway.domain.errors import StoreUnavailable
from gateway.domain.events import TERMINAL_EVENT, Event
from gateway.domain.facts import Appended, Created, Ended, Fact, Observed, PickedUp, StoreFailed
from gateway.domain.headers import Headers, kept_with_snapshot, request_id
from gateway.domain.lifecycle import Outcome, observe, receive, with_terminal_event
from gateway.domain.response import Body, Change, Ending, Response, Stuck, difference
from gateway.domain.snapshot import Snapshot
from gateway.domain.stuck import turned
from gateway.relay.live import Ends, Live
from gateway.store.port import Closed, Fenced, Gap, Store
from gateway.telemetry.observers import Telemetry

_STORE_RETRY_S = 0.5


class Ledger:
    """Writes events, changes and endings. `on_end` is told of every live response that ended.

    `on_taken` is told of each that another process holds by now: nothing of it is written here any more. A response
    without an epoch is not held here: then only its end is written, its counts, and the newest body.
    """

    def __init__(
        self,
        store: Store,
        telemetry: Telemetry,
        clock: Callable[[], float],
        on_end: Callable[[Live], None],
        on_taken: Callable[[Live], None],
    ) -> None:
        self._store = store
        self._telemetry = telemetry
        self._clock = clock
        self._on_end = on_end
        self._on_taken = on_taken
        self._ends = Ends()

    async def receive(self, live: Live, events: Sequence[Event]) -> None:
        """Log a batch of events and fold it in. Raises what the store's `append` raises; nothing is folded then."""
        at, base, began = self._clock(), live.response, time.perf_counter()
        # What the store has forgotten is logged again, and not folded in again.
        known = sum(event.number <= live.reached for event in events) if events[0].number <= live.reached else 0
        fresh = events[known:]
        step = receive(base, fresh, at)
        if step.outcome is not None:
            body = self._body(live, step.body, at)
            facts = (*self._created(live, step.body, at, step.response), *step.facts)
            await self.end(live, step.outcome, events[: known + step.events], facts=facts, body=body, source="stream")
            return
        if not await self._log(live, events, base, step.response):
            return
        if live.response is not base:
            step = receive(live.response, fresh, at)
        turns = _become(live, step.response if fresh else live.response.but(tail=events[-1].number), at)
        live.reached = max(live.reached, events[-1].number)
        live.heard_at = at
        appended = _appended(live, events, at, began)
        live.logged_bytes += appended.bytes
        self._telemetry.emit((appended, *self._created(live, step.body, at), *step.facts, *turns))
        if step.body is not None:
            live.body = self._body(live, step.body, at)
            live.changed()
        if step.body is not None or turns:
            await self.note_if_it_can(live)

    async def _log(self, live: Live, events: Sequence[Event], base: Response, after: Response) -> bool:
        """Append a batch; False where the response is over, or not this process's any more."""
        while live.epoch is not None:
            try:
                if base.response_id is None and after.response_id is not None:
                    # First, so that whoever read the id in the log can ask for it, and the next process go on.
                    named = Change({"response_id": after.response_id, "pumped": after.pumped})
                    await self._store.change(live.key, named, epoch=live.epoch)
                live.batches.append((events[-1].number, live.arrived_at))
                await self._store.append(live.key, events, tail=base.tail, epoch=live.epoch)
                break
            except Fenced:
                self._on_taken(live)
            except Closed:
                if not await self.missed(live):
                    break
        return live.in_hand

    async def observe(self, live: Live, snapshot: Snapshot, headers: Headers, *, source: str) -> bool:
        """Fold a response object in; whether its status or output changed.

        While a pump reads the stream, its terminal event is the end, not a snapshot that overtook it; but a cancelled
        response has no such event.
        """
        at, before = self._clock(), live.response
        live.heard_at = at
        if live.connected and snapshot.status in TERMINAL_EVENT:
            return False
        step = observe(before, snapshot, at)
        body = Body(snapshot.raw, tuple(kept_with_snapshot(headers)), at)
        live.body = body if step.body is not None else live.body
        after, named = step.response, request_id(headers)
        if named not in (None, before.upstream_request_id):
            after = after.but(upstream_request_id=named)
        facts = (*self._created(live, step.body, at, after), *step.facts)
        if step.outcome is not None:
            outcome = step.outcome if after is step.response else step.outcome.but(response=after)
            await self._end_observed(live, outcome, facts, body, source)
            return True
        if live.epoch is None and not before.ended:
            # Its holder folds this in, when it next asks; the body is for everybody.
            await self._store.change(live.key, Change(), epoch=None, body=body)
            return after.status is not before.status
        turns = _become(live, after, at)
        self._telemetry.emit((*facts, *turns))
        changed = after.status is not before.status or after.fingerprint != before.fingerprint
        if changed or turns or after.response_id != before.response_id:
            await self.note(live)
        # Other processes are asked about it too, and need not ask upstream so soon after.
        elif self._store.shared and not await self._store.change(live.key, Change(), epoch=None, body=body):
            await self.missed(live)
        if after.status is not before.status:
            live.changed()
        return changed

    async def end(
        self,
        live: Live,
        outcome: Outcome,
        events: Sequence[Event] = (),
        *,
        source: str,
        facts: Sequence[Fact] = (),
        body: Body | None = None,
    ) -> bool:
        """The one ending write; True for whoever made it. Facts are emitted only then."""
        at, began = self._clock(), time.perf_counter()
        outcome = self._whole(live, outcome, source)
        held, tail = live.in_hand, live.response.tail if events else -1  # an end alone continues whatever there is
        try:
            done = await self._store.finish(live.key, outcome, events, tail=tail, epoch=live.epoch, body=body)
            if not done and await self.missed(live):
                done = await self._store.finish(live.key, outcome, events, tail=tail, epoch=live.epoch, body=body)
        except Fenced:
            live.uncounted(outcome.counts)
            self._on_taken(live)
            return False
        except Exception:
            live.uncounted(outcome.counts)
            raise
        if done:
            # Judged now: somebody else's end may have been written before this one was.
            late = live.response.ended
            tail = events[-1].number if events and not late else live.response.tail
            logged = live.response.logged or bool(events)
            ended = outcome.response.but(counts=live.response.counts, tail=tail, logged=logged)
            turns = _become(live, ended, self._clock())
            live.body = body or live.body
            logged_now = (_appended(live, events, at, began),) if events and not late else ()
            told = Ended(self._clock(), live.response, late, source, again=self._ends.known(ended))
            self._telemetry.emit((*logged_now, *facts, *turns, told))
            self._over(live)
        else:
            live.uncounted(outcome.counts)
            if not held:
                found = await self._store.get(live.key)
                self._telemetry.emit(_become(live, found or live.response, self._clock()))
                self._over(live)
        await self.note_if_it_can(live)
        return done

    async def missed(self, live: Live) -> bool:
        """The store does not have what is in hand, or has its end: whether it is in hand still.

        What it has forgotten is written anew from memory; its log then lacks what upstream is asked for again (`Gap`).
        What was deleted, has ended elsewhere, or is held by another process by now is in hand no more.
        """
        if not live.in_hand:
            return False
        mine = live.response.but(counts=live.saved.counts, tail=-1)
        try:
            found = await self._store.create(mine, live.attempt)
        except Closed:
            found = None
        if not live.in_hand:
            return False
        if found is None or found.ended:
            self.learn(live, found)
        elif found.epoch != live.epoch:
            self._on_taken(live)
        elif found == mine:
            self._telemetry.emit([StoreFailed(self._clock(), "keep", "It had forgotten a response that runs.")])
            await self._store.change(live.key, Change(), epoch=None, body=_written(live.body))
        return live.in_hand

    def learn(self, live: Live, ended: Response | None) -> None:
        """Another process has ended it, or deleted it (None)."""
        at = self._clock()
        gone = live.response.but(ending=Ending.DELETED, ended_at=at, stuck=None, stuck_at=None)
        self._telemetry.emit(_become(live, ended or gone, at))
        self._over(live)

    def _over(self, live: Live) -> None:
        self._ends.note(live.response)
        live.saved = live.response
        live.changed()
        self._on_end(live)

    def _whole(self, live: Live, outcome: Outcome, source: str) -> Outcome:
        """The ending with all that is known of it: what is due is made of nothing else."""
        known = live.response
        ended = outcome.response.but(
            counts=known.counts,
            token_open=known.token_open,
            ended_by=source,
            attended=live.asking > 0,
            seal=None,  # nobody asks upstream about it any more
        )
        due = self._telemetry.due(ended, late=known.ended)
        told = outcome.code, outcome.message
        return Outcome(ended, outcome.body, outcome.closes_log, *told, counts=live.take_counts(), due=due)

    async def _end_observed(self, live: Live, outcome: Outcome, facts: Sequence[Fact], body: Body, source: str) -> None:
        """An end that a response object showed. A log that grew meanwhile is continued where it ends now."""
        late = live.response.ended
        while True:
            end, events = (outcome, ()) if late else with_terminal_event(outcome, live.reached)
            try:
                await self.end(live, end, events, facts=facts, body=body, source=source)
                return
            except Gap as gap:
                live.response = live.response.but(tail=gap.tail)
                outcome = outcome.but(response=outcome.response.but(tail=gap.tail))

    async def end_surely(self, live: Live, outcome: Outcome, *, source: str) -> None:
        """The same, over a store that is down for a while."""
        while live.in_hand:
            try:
                await self.end(live, outcome, source=source)
            except StoreUnavailable as error:
                self._telemetry.emit([StoreFailed(self._clock(), "finish", error.message)])
                await asyncio.sleep(_STORE_RETRY_S)

    async def note(self, live: Live) -> None:
        """Write down what the store does not have yet: first, as it was, what may have been written already."""
        while live.unsure:
            await self._note(live, *live.unsure.pop(0))
        value = live.response
        change = Change(difference(live.saved, value).fields, live.take_counts(), name=secrets.token_hex(8))
        if change.empty:
            live.saved = value
        else:
            await self._note(live, value, change)

    async def _note(self, live: Live, value: Response, change: Change) -> None:
        body = _written(live.body) if live.epoch is not None else None
        try:
            there = await self._store.change(live.key, change, epoch=live.epoch, body=body)
        except Fenced:
            live.uncounted(change.counts)
            self._on_taken(live)
        except Exception:
            # Not where this task is cancelled: then the write is on its way, and would be counted twice.
            live.unsure.append((value, change))
            raise
        else:
            if there or not live.in_hand:
                live.saved = value
            else:
                live.uncounted(change.counts)
                await self.missed(live)

    async def refused(self, live: Live, credential: Headers | None) -> None:
        """Upstream refused this credential. Where there is no other, whoever hears from the owner may have it."""
        live.refused(credential)
        if live.waits_for_owner:
            await self.note_if_it_can(live)

    async def note_if_it_can(self, live: Live) -> None:
        """The same after a write that is made and must not look as if it had failed; the rest is written later."""
        try:
            await self.note(live)
        except StoreUnavailable as error:
            self._telemetry.emit([StoreFailed(self._clock(), "change", error.message)])

    def judge(self, live: Live, reason: Stuck | None, at: float) -> None:
        """It is stuck for this reason from now on, or for none. Told at once, for a store that is down; then noted."""
        if reason is not None:
            live.count(stucks=1)
        stuck_at = at if reason is not None else None
        self._telemetry.emit(_become(live, live.response.but(stuck=reason, stuck_at=stuck_at), at))

    async def drop(self, live: Live) -> None:
        """Upstream refused the create: there is no response."""
        self._telemetry.emit(_become(live, live.response.but(stuck=None, stuck_at=None), self._clock()))
        self._on_end(live)
        await self._store.delete(live.key)

    async def picked_up(self, key: str, by: Observed) -> None:
        """A client has learnt that a background response ended: told once per response, whoever else learns it."""
        response = await self._store.get(key)
        if response is None or not response.terminal or not response.mode.background or response.counts.pickups:
            return
        at = self._clock()
        first = Change(counts={"pickups": 1}, once="pickups")
        if await self._store.change(key, first, epoch=None):
            self._telemetry.emit([PickedUp(at, response, by, max(0.0, at - response.status_at))])

    async def note_co_owner(self, response: Response, owner: str) -> None:
        """Somebody else has proven to own this response too."""
        await self._store.change(response.key, Change(co_owner=owner), epoch=None)

    def _created(
        self, live: Live, body: bytes | None, at: float, response: Response | None = None
    ) -> tuple[Created, ...]:
        """Upstream's first answer is the response's creation."""
        if live.created or body is None:
            return ()
        live.created = True
        return (Created(at, response or live.response),)

    def _body(self, live: Live, raw: bytes | None, at: float) -> Body | None:
        headers = live.body.headers if live.body else (("Content-Type", "application/json"),)
        return live.body if raw is None else Body(raw, headers, at)


def _become(live: Live, after: Response, at: float) -> tuple[Fact, ...]:
    """The one place where a live response's value changes in whether it is stuck: what there is to tell of that."""
    facts, live.response = turned(live.response, after, at), after
    return facts


def _appended(live: Live, events: Sequence[Event], at: float, began: float) -> Appended:
    size = sum(len(event.frame) for event in events)
    return Appended(at, live.response, len(events), size, time.perf_counter() - began)


def _written(body: Body | None) -> Body | None:
    return body if body is not None and body.bytes else None
