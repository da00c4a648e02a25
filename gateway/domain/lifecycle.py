"""The life of a response as a fold: what upstream says, applied to what is known, gives the new value and the facts.

Theory of operation. Upstream speaks in two ways: events (`receive`) and snapshots (`observe`). Both come down to one
question, "may this status follow that one?", which `TRANSITIONS` answers. Three rules hold whatever upstream does:

* a terminal status is written once; what contradicts it is a fact (`Contradicted`), never applied;
* the status within a response object is the truth, not the name of the event that carries it;
* an `error` event is provisional: `response.failed` may follow and brings status and usage.

Time is the third speaker (`domain.stuck`): patience that ran out makes a response stuck; whatever moves or ends it lets
it recover. The fold returns values. Whether an ending becomes true is decided by the store's one `finish` write, so two
pumps and a poller may all return the same `Outcome` and exactly one of them counts. Called by the pump, the poller and
the tracker.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from msgspec import Struct, field, structs

from gateway.domain.events import ERROR, LIFE_CYCLE, TERMINAL_EVENT, Event, synthesised_terminal
from gateway.domain.facts import Contradicted, Fact, FirstOutput, StatusChanged
from gateway.domain.identifiers import identifier
from gateway.domain.response import TERMINAL, Ending, Response, Status
from gateway.domain.snapshot import Snapshot, embedded_snapshot, error_of


class Move(Enum):
    """What a reported status means for a known one."""

    SAME = "same"
    FORWARD = "forward"
    END = "end"
    BACKWARDS = "backwards"
    AFTER_END = "after_end"


_OPEN: tuple[Status | None, ...] = (None, Status.QUEUED, Status.IN_PROGRESS)

TRANSITIONS: dict[tuple[Status | None, Status], Move] = {
    (None, Status.QUEUED): Move.FORWARD,
    (None, Status.IN_PROGRESS): Move.FORWARD,
    (Status.QUEUED, Status.QUEUED): Move.SAME,
    (Status.QUEUED, Status.IN_PROGRESS): Move.FORWARD,
    (Status.IN_PROGRESS, Status.QUEUED): Move.BACKWARDS,
    (Status.IN_PROGRESS, Status.IN_PROGRESS): Move.SAME,
    **{(known, said): Move.END for known in _OPEN for said in TERMINAL},
    **{(known, said): Move.SAME if known is said else Move.AFTER_END for known in TERMINAL for said in Status},
}


class Outcome(Struct, frozen=True):
    """How a response ends: given to the store's `finish`. `body` is the final object, if there is one.

    `closes_log`: the batch written with it holds the event that ends every reader's stream; otherwise readers get the
    nested error with `code` and `message`. `counts`: what happened that the store has not added up yet. `due`: the end
    has to be kept until telemetry has told it.
    """

    response: Response
    body: bytes | None
    closes_log: bool
    code: str | None = None
    message: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    due: bool = False

    def but(self, **fields: Any) -> "Outcome":
        """The same with other values in some fields. Raises TypeError for a field that there is not."""
        return structs.replace(self, **fields)


class Step(Struct, frozen=True):
    """What the fold made of something upstream said: the new value, the facts, and the ending if it was one.

    `events`: how many of the received events belong in the log; after a terminal event none does.
    `body`: the newest response object seen.
    """

    response: Response
    facts: tuple[Fact, ...] = ()
    outcome: Outcome | None = None
    events: int = 0
    body: bytes | None = None


def receive(response: Response, events: Sequence[Event], at: float) -> Step:
    """Fold a batch of events, in log order, into a response that has not ended; the last one taken is its tail then."""
    facts: list[Fact] = []
    body: bytes | None = None
    ended: Response | None = None
    taken = 0
    first_output = response.first_output_at is None
    for event in events:
        taken += 1
        if event.type in LIFE_CYCLE:
            snapshot = embedded_snapshot(event.data)
            body = snapshot.raw if snapshot else body
            status = (snapshot.status if snapshot else None) or LIFE_CYCLE[event.type]
            response, more = _told(response, snapshot, status, at)
            facts += more
            if response.terminal:
                ended = response
                break
        elif event.type == ERROR:
            code, message = error_of(event.data)
            response = response.but(error_code=code, error_message=message)
        elif first_output and event.is_output:
            first_output = False
            response = response.but(first_output_at=at)
            facts.append(FirstOutput(at, response))
    if taken < len(events):
        facts.append(_contradiction(response, at, "after_terminal", f"{len(events) - taken} events"))
    if not taken:
        return Step(response)
    last = events[taken - 1]
    response = _moved(response, at, last_event=last.type, tail=last.number)
    outcome = None
    if ended:
        response = _ended(response, Ending.TERMINAL, at)
        outcome = Outcome(response, body, closes_log=True)
    return Step(response, tuple(facts), outcome, taken, body)


def observe(response: Response, snapshot: Snapshot, at: float) -> Step:
    """Fold a polled (or cancelled, or created) response object into a response."""
    if snapshot.status is None and snapshot.id and response.response_id is None:
        response = response.but(response_id=snapshot.id)
    if snapshot.unknown_status and not response.terminal:
        fact = _contradiction(response, at, "unknown_status", snapshot.unknown_status)
        return Step(response.but(status_at=response.status_at or at), (fact,), body=snapshot.raw)
    if snapshot.status is None:
        return Step(response, body=snapshot.raw)
    was_terminal = response.terminal
    after, facts = _told(response, snapshot, snapshot.status, at)
    if was_terminal:
        return Step(response, tuple(facts))
    changed = after.status is not response.status or snapshot.fingerprint != response.fingerprint
    if changed:
        after = _moved(after, at, fingerprint=snapshot.fingerprint)
    if snapshot.has_output and after.first_output_at is None:
        after = after.but(first_output_at=at)
        facts.append(FirstOutput(at, after))
    outcome = None
    if after.terminal:
        after = _ended(after, Ending.TERMINAL, at)
        code, message = _words(after)
        outcome = Outcome(after, snapshot.raw, closes_log=False, code=code, message=message)
    return Step(after, tuple(facts), outcome, body=snapshot.raw)


def give_up(response: Response, ending: Ending, at: float, *, code: str, message: str) -> Outcome:
    """End the tracking without upstream's final word. The status stays; readers get the nested error."""
    response = _ended(response, ending, at)
    if response.error_code is None:
        response = response.but(error_code=code, error_message=message)
    return Outcome(response, None, closes_log=False, code=code, message=message)


def died_with_the_process(response: Response, now: float) -> Outcome | None:
    """The ending of a response that lived in a connection of a process that is gone; None: it goes on upstream."""
    if response.mode.background and response.response_id is not None:
        return None
    if response.response_id is None:
        message = "The gateway stopped before upstream named this response; whether it ran is not known."
        return give_up(response, Ending.UPSTREAM_LOST, now, code="outcome_unknown", message=message)
    message = "The gateway was restarted during this foreground response; upstream ended it with the connection."
    return give_up(response, Ending.UPSTREAM_LOST, now, code="upstream_lost", message=message)


def lost(response: Response, at: float) -> Outcome:
    """The ending of a response that upstream does not know any more. Had its last word been an error, it is that."""
    if response.last_event == ERROR:
        return failed_by_error_event(response, at)
    message = "Upstream does not know this response any more; it was lost before its end was seen."
    return give_up(response, Ending.LOST, at, code="response_lost", message=message)


def failed_by_error_event(response: Response, at: float) -> Outcome:
    """The stream ended after an `error` event and nothing else will come: the response failed."""
    response = response.but(status=Status.FAILED, status_at=at)
    return Outcome(_ended(response, Ending.TERMINAL, at), None, closes_log=True)


def with_terminal_event(outcome: Outcome, reached: int) -> tuple[Outcome, tuple[Event, ...]]:
    """A logged response whose end was only polled ends its log with one synthesised terminal event.

    That is beyond `reached`, the last position that any reader may have, also of a log that has lost its tail.
    """
    response = outcome.response
    if not response.logged or response.status not in TERMINAL_EVENT or outcome.body is None:
        return outcome, ()
    assert isinstance(response.status, Status)
    event = synthesised_terminal(response.status, max(response.tail, reached) + 1, outcome.body)
    response = response.but(synthesised=True, last_event=event.type)
    return outcome.but(response=response, closes_log=True), (event,)


def _told(response: Response, snapshot: Snapshot | None, status: Status, at: float) -> tuple[Response, list[Fact]]:
    """Apply a reported status and what came with it, as far as the table lets it."""
    facts: list[Fact] = []
    if snapshot and snapshot.id and response.response_id and snapshot.id != response.response_id:
        facts.append(_contradiction(response, at, "another_id", identifier(snapshot.id) or "?"))
    move = TRANSITIONS[response.status, status]
    if move in (Move.BACKWARDS, Move.AFTER_END):
        facts.append(_contradiction(response, at, move.value, f"{response.status} -> {status}"))
        return response, facts
    said: dict[str, Any] = {}
    if snapshot and not response.terminal:
        said = {
            "response_id": response.response_id or snapshot.id,
            "model": snapshot.model or response.model,
            "background": snapshot.background or response.background,
            "stored": response.stored if snapshot.stored is None else snapshot.stored,
            "usage": snapshot.usage or response.usage,
            "error_code": snapshot.error_code or response.error_code,
            "error_message": snapshot.error_message or response.error_message,
            "incomplete_reason": snapshot.incomplete_reason or response.incomplete_reason,
            "service_tier": snapshot.service_tier or response.service_tier,
            "completed_at": snapshot.completed_at or response.completed_at,
            "output_types": snapshot.output_types or response.output_types,
        }
    if move in (Move.FORWARD, Move.END):
        started = at if status is Status.IN_PROGRESS and response.started_at is None else response.started_at
        answered = at if response.answered_at is None else response.answered_at
        said |= {"status": status, "status_at": at, "answered_at": answered, "started_at": started}
    new = {name: value for name, value in said.items() if getattr(response, name) != value}
    after = response.but(**new) if new else response  # most polls say nothing new
    if "status" in said:
        facts.append(StatusChanged(at, after, response.status, status))
    return after, facts


def _moved(response: Response, at: float, **also: Any) -> Response:
    """Progress, and what came with it: in one copy, for this happens with every batch."""
    return response.but(progress_at=at, stuck=None, stuck_at=None, **also)


def _ended(response: Response, ending: Ending, at: float) -> Response:
    return response.but(ending=ending, ended_at=at, stuck=None, stuck_at=None)


def _contradiction(response: Response, at: float, what: str, detail: str) -> Contradicted:
    return Contradicted(at, response, what, detail)


def _words(response: Response) -> tuple[str | None, str | None]:
    """What readers are told at an end that has no event of its own: code and message."""
    if response.status is Status.CANCELLED:
        return "response_cancelled", "The response was cancelled."
    return None, None
