"""The rules of writing, as pure functions: a response's state and a write give the state after it, and the answer.

For the stores that decide within this process (memory, SQLite); an engine that decides elsewhere says the same in its
own language. A function that raises has changed nothing; a state becomes true only when the store has written it.
"""

from collections.abc import Container, Sequence

from msgspec import Struct
from msgspec.structs import replace

from gateway.domain.attempt import JOIN_S, Attempt, Fate
from gateway.domain.errors import IdempotencyKeyReused
from gateway.domain.events import Event
from gateway.domain.lifecycle import Outcome
from gateway.domain.response import Body, Change, Ending, Response
from gateway.store.port import Closed, End, Fenced, Gap, Lease, Refused

CO_OWNERS = 64
"""A response keeps as many; the oldest goes first, and can prove itself again."""
LAST_POSITION = 2**63 - 1
_ANYBODYS = frozenset({"token_open", "seal"})

Alias = tuple[str, str, str]
"""(route, response id, owner): one name under which a record is found."""


class Entry(Struct, frozen=True, omit_defaults=True):
    """What is kept of a response besides events and body. `kept`: its log and body are still in the store."""

    response: Response
    co_owners: tuple[str, ...] = ()
    end: End | None = None
    kept: bool = True


class State(Struct, frozen=True):
    """One response in the store. Without an `entry` it is not there (yet, or any more: `removed_at`, unix seconds).

    `hold` names the process that holds it. `attempt` is the create's, while another may join it. `events`, `body` and
    `ends` (that are due: response, whether late) are what is being written; `entry.response.tail` may be behind `tail`,
    see `record`.
    """

    entry: Entry | None = None
    tail: int = -1
    hold: str | None = None
    attempt: Attempt | None = None
    events: tuple[Event, ...] = ()
    body: Body | None = None
    ends: tuple[tuple[Response, bool], ...] = ()
    removed_at: float | None = None

    @property
    def written(self) -> "State":
        """The same once what is being written is in the store."""
        being_written = self.events or self.body or self.ends
        return replace(self, events=(), body=None, ends=()) if being_written else self


def record(state: State) -> Response | None:
    """The record as everybody is shown it."""
    if state.entry is None:
        return None
    response = state.entry.response
    if response.tail == state.tail:
        return response
    return response.but(tail=state.tail, logged=True)


def aliases(entry: Entry | None) -> frozenset[Alias]:
    """Every name under which the record is found."""
    if entry is None or entry.response.response_id is None:
        return frozenset()
    response = entry.response
    owners = (response.owner, *entry.co_owners)
    return frozenset((response.route, entry.response.response_id, owner) for owner in owners)


def create(
    state: State, response: Response, attempt: Attempt | None, holder: str, *, forgets: bool = False
) -> tuple[State, Response]:
    """The first write; or again that of what was held before, which a store that `forgets` has not.

    A record that is there already comes back as it is. Raises Closed where it was deleted.
    """
    existing = record(state)
    if existing is not None:
        return state, existing
    if response.epoch and (state.removed_at is not None or not forgets):
        raise Closed("the response was deleted")
    response = response.but(epoch=response.epoch or 1, tail=-1)
    return State(Entry(response), hold=holder, attempt=attempt), response


def repeated(state: State, attempt: Attempt, now: float) -> bool:
    """Whether an attempt repeats this record's: by its key, or as the next try of one whose answer may be lost."""
    known, entry = state.attempt, state.entry
    if known is None or entry is None or known.name != attempt.name or not _joinable(known, entry.response, now):
        return False
    return attempt.keyed or (known.open and known.retry < attempt.retry)


def _joinable(known: Attempt, response: Response, now: float) -> bool:
    if response.ending in (Ending.ABANDONED, Ending.DELETED):
        return False  # it was stopped, or its client does not want it any more: there is no answer to give
    if response.response_id is None and not response.ended:
        return True  # a client waits for as long as upstream takes
    # In the foreground the end is the answer.
    answered_at = 0.0 if response.mode.background else response.ended_at or 0.0
    return now - max(known.at, answered_at) <= JOIN_S


def nearest(state: State) -> tuple[bool, float]:
    """In this order records are joined: first those whose client is known to have gone, the oldest before others."""
    known = state.attempt
    return (known is None or known.fate is not Fate.LEFT, known.at if known else 0.0)


def join(state: State, attempt: Attempt, now: float) -> tuple[State, Response | None]:
    """The record, if the attempt repeats it: the next try waits for its answer from now on."""
    known = state.attempt
    if known is None or not repeated(state, attempt, now):
        return state, None
    if known.fingerprint != attempt.fingerprint:
        raise IdempotencyKeyReused("This Idempotency-Key was sent with another request; use a new key for a new one.")
    known = replace(known.now(Fate.WAITING, now), retry=max(known.retry, attempt.retry))
    return replace(state, attempt=known), record(state)


def mark(state: State, attempt: Attempt) -> tuple[State, None]:
    """What has become of an attempt, unless a later try has joined it."""
    known = state.attempt or attempt
    if state.entry is None or known.retry > attempt.retry:
        return state, None
    return replace(state, attempt=known.now(attempt.fate, attempt.at)), None


def forget_attempt(state: State, until: float) -> tuple[State, bool]:
    """An attempt that has not moved since then is joined by nobody any more."""
    if state.attempt is None or state.attempt.at > until:
        return state, False
    return replace(state, attempt=None), True


def change(state: State, change: Change, *, epoch: int | None, body: Body | None) -> tuple[State, bool]:
    """Fields, counts, co-owner and body; of a response that has ended, counts and co-owner only."""
    if state.entry is None:
        return state, False
    entry = _fenced(state.entry, epoch)
    if entry.response.ended:
        change, body = replace(change, fields={}), None
    elif epoch is None:
        fields = {name: value for name, value in change.fields.items() if name in _ANYBODYS}
        change = replace(change, fields=fields)
    if _older_seal(change, entry.response):
        others = {name: value for name, value in change.fields.items() if name != "seal"}
        change = replace(change, fields=others)
    if change.once is not None and getattr(entry.response.counts, change.once):
        return state, False
    if "ending" in change.fields:
        raise ValueError("only finish ends a response")
    if change.empty and body is None:
        return state, False
    if not change.empty:
        entry = replace(entry, response=change.applied(entry.response), co_owners=_joined(entry, change.co_owner))
    return replace(state, entry=entry, body=body or state.body), True


def append(state: State, events: Sequence[Event], *, tail: int, epoch: int) -> tuple[State, int]:
    """Events after the log's tail; those at or below it are skipped."""
    if state.entry is None:
        raise Closed("the response is not in the store")
    if _fenced(state.entry, epoch).response.ended:
        raise Closed("the log has ended")
    fresh = continuing(state, events, tail)
    if not fresh:
        return state, 0
    return replace(state, events=state.events + fresh, tail=fresh[-1].number), len(fresh)


def finish(
    state: State, outcome: Outcome, events: Sequence[Event], *, tail: int, epoch: int | None, body: Body | None
) -> tuple[State, bool]:
    """The one ending; or the terminal status that comes late, which leaves the log as it is."""
    if state.entry is None:
        return state, False
    entry = _fenced(state.entry, epoch)
    known = entry.response
    end = entry.end
    if known.ended:
        if known.terminal or known.ending is Ending.DELETED or not outcome.response.terminal:
            return state, False
        fresh: tuple[Event, ...] = ()
        body = body if entry.kept else None
    else:
        fresh = continuing(state, events, tail)
        if outcome.closes_log and events and not fresh:
            raise Gap(state.tail)
        end = End() if outcome.closes_log else End(outcome.code, outcome.message)
    last = fresh[-1].number if fresh else state.tail
    logged = outcome.response.logged or last >= 0
    counts = known.counts.plus(outcome.counts)
    response = outcome.response.but(epoch=known.epoch, counts=counts, tail=last, logged=logged)
    entry = replace(entry, response=response, end=end)
    ends = (*state.ends, (_without_content(response), known.ended)) if outcome.due else state.ends
    return replace(state, entry=entry, tail=last, events=state.events + fresh, body=body or state.body, ends=ends), True


def claim(state: State, key: str, holder: str, *, living: bool) -> tuple[State, Lease | None]:
    """The lease for whoever holds it already, or takes what it may. `living`: so is the one who holds it."""
    if state.entry is None:
        return state, None
    response = state.entry.response
    if state.hold == holder:
        return state, Lease(key, response.epoch)
    if state.hold is not None and living and not response.waiting:
        return state, None
    entry = replace(state.entry, response=response.but(epoch=response.epoch + 1))
    return replace(state, entry=entry, hold=holder), Lease(key, entry.response.epoch)


def orphaned(state: State, in_hand: Container[str] | None) -> bool:
    """Whether this process, the only one of its store, is to take it up; see `Store.orphans`."""
    return state.hold is None or (
        in_hand is not None and state.entry is not None and state.entry.response.key not in in_hand
    )


def release(state: State, *, epoch: int) -> tuple[State, None]:
    """Nobody holds it, if this epoch still does."""
    if state.entry is None or state.entry.response.epoch != epoch:
        return state, None
    return replace(state, hold=None), None


def remove(state: State, now: float) -> tuple[State, bool]:
    """All of it goes; the tombstone is the store's."""
    if state.entry is None and state.removed_at is not None:
        return state, False
    return State(removed_at=now, ends=state.ends), state.entry is not None


def expire(state: State, now: float, *, retention_s: float, resume_window_s: float) -> tuple[State, bool]:
    """What is past its time goes: the record with all that it has, or log and body only."""
    entry = state.entry
    if entry is None or entry.response.ended_at is None:
        return state, False
    if entry.response.ended_at <= now - retention_s:
        return remove(state, now)
    if entry.kept and not entry.response.stored and entry.response.ended_at <= now - resume_window_s:
        response = entry.response.but(content=None)
        return replace(state, entry=replace(entry, response=response, kept=False)), True
    return state, False


def _fenced(entry: Entry, epoch: int | None) -> Entry:
    if epoch is not None and epoch != entry.response.epoch:
        raise Fenced(f"the lease is at epoch {entry.response.epoch}, not {epoch}")
    return entry


def _older_seal(change: Change, response: Response) -> bool:
    """Whether a change would put the credentials of before in the place of newer ones."""
    seal, known = change.fields.get("seal"), response.seal
    return seal is not None and known is not None and seal.at < known.at


def _without_content(response: Response) -> Response:
    """What was said goes when the record does, and so has no second place beside it."""
    return response if response.content is None else response.but(content=response.content.place)


def continuing(state: State, events: Sequence[Event], tail: int) -> tuple[Event, ...]:
    """The part of a batch that is new to the log, of which only `tail` matters. Raises Gap if it begins beyond that."""
    if tail > state.tail:
        raise Gap(state.tail)
    last = state.tail
    fresh = []
    for event in events:
        if event.number > last:
            fresh.append(event)
            last = event.number
    if last > LAST_POSITION:
        raise Refused(f"no position is above {LAST_POSITION}")
    return tuple(fresh)


def _joined(entry: Entry, co_owner: str | None) -> tuple[str, ...]:
    if co_owner is None or co_owner == entry.response.owner or co_owner in entry.co_owners:
        return entry.co_owners
    return (*entry.co_owners, co_owner)[-CO_OWNERS:]
