"""Lives of responses as facts, for tests of what is made of them."""

from typing import Any

from gateway.domain.continuation import CursorForm
from gateway.domain.facts import (
    Appended,
    Attached,
    Attempted,
    BecameStuck,
    Cancelled,
    ClientPolled,
    Contradicted,
    Created,
    Delivered,
    Detached,
    Ended,
    Fact,
    FirstOutput,
    Joined,
    LetGo,
    LoopLagged,
    NumbersSkipped,
    PickedUp,
    Purged,
    Reattached,
    Recovered,
    Refused,
    RequestServed,
    ResumeRefused,
    StatusChanged,
    StoreFailed,
    StoreMeasured,
    Surveyed,
    TakenUp,
    TokenIssued,
    TokenRedeemed,
    Untracked,
    UpstreamCut,
    UpstreamPolled,
)
from gateway.domain.mode import Mode
from gateway.domain.response import Counts, Ending, Response, Status, Stuck, Trace, Usage

T = 1_790_000_000.0
"""When the lives begin."""
TRACE = Trace(
    trace_id=0x4BF92F3577B34DA6A3CE929D0E0E4736,
    span_id=0x00F067AA0BA902B7,
    parent_span_id=0xB7AD6B7169203331,
    flags=3,
    sampled=True,
)


def a_response(**changes: Any) -> Response:
    """A background stream that was just asked for."""
    first = Response(
        key="key-1",
        route="openai",
        owner="owner-hash",
        mode=Mode.BACKGROUND_STREAM,
        created_at=T,
        trace=TRACE,
        response_id="resp_1",
        model_asked="gpt-5",
        model="gpt-5-2026-01-01",
        pumped=True,
        request_id="request-1",
    )
    return first.but(**changes)


def a_life(**changes: Any) -> list[Fact]:
    """Queued for 2 s, cut and taken up again by its reader, completed after 10 s."""
    queued = a_response(**{"status": Status.QUEUED, "status_at": T + 0.5, "answered_at": T + 0.5, **changes})
    running = queued.but(status=Status.IN_PROGRESS, status_at=T + 2, started_at=T + 2)
    output = running.but(first_output_at=T + 3, tail=8)
    counts = Counts(client_polls=2, upstream_polls=1, attaches=2, resumes=1, disconnects=1, reattaches=1)
    done = output.but(
        status=Status.COMPLETED,
        status_at=T + 10,
        ended_at=T + 10,
        ending=Ending.TERMINAL,
        completed_at=T + 9.5,
        usage=Usage(input=100, cached=40, output=50, reasoning=30),
        tail=19,
        counts=counts,
        ended_by="stream",
        output_types=("reasoning", "message"),
    )
    return [
        StatusChanged(T + 0.5, queued, None, Status.QUEUED),
        Created(T + 0.5, queued),
        Attached(T + 0.6, queued, "first", CursorForm.NONE, -1, 0),
        TokenIssued(T + 0.6, queued),
        StatusChanged(T + 2, running, Status.QUEUED, Status.IN_PROGRESS),
        FirstOutput(T + 3, output),
        Appended(T + 3, output, 8, 900, 0.002),
        UpstreamCut(T + 4, output, "reset"),
        Reattached(T + 4.5, output, 8, "resumed", 0.25),
        Detached(T + 5, output, "first", "client", 8, 9, 0, T + 0.6),
        TokenRedeemed(T + 6, output, "resume", CursorForm.STARTING_AFTER),
        Attached(T + 6, output, "resume", CursorForm.STARTING_AFTER, 8, 2),
        ClientPolled(T + 7, output, "unchanged", "store"),
        UpstreamPolled(T + 7, output, "unchanged", 200, 0.05),
        Appended(T + 10, done, 11, 2000, 0.003),
        StatusChanged(T + 10, done.but(ending=None, ended_at=None), Status.IN_PROGRESS, Status.COMPLETED),
        Ended(T + 10, done, late=False, source="stream"),
        Detached(T + 10.25, done, "resume", "end", 19, 11, 2, T + 6, CursorForm.STARTING_AFTER, 8),
    ]


def ended(status: Status | None, ending: Ending = Ending.TERMINAL, **changes: Any) -> Ended:
    """An end after 10 s."""
    at = {"answered_at": T + 0.5, "status_at": T + 10, "ended_at": T + 10}
    fields = {"status": status, "ending": ending, "ended_by": "poll", **at, **changes}
    return Ended(T + 10, a_response(**fields), late=False, source="poll")


def one_of_each() -> list[Fact]:
    """Every kind of fact there is."""
    stuck = a_response(status=Status.QUEUED, stuck=Stuck.QUEUED, stuck_at=T + 100)
    others: list[Fact] = [
        BecameStuck(T + 100, stuck),
        Recovered(T + 110, stuck.but(stuck=None), Stuck.QUEUED),
        Contradicted(T + 11, a_response(), "backwards", "in_progress -> queued"),
        Cancelled(T + 8, a_response(), 200, 0.125),
        Refused(T + 0.25, a_response(response_id=None, model=None, error_code="rate_limit_exceeded"), 429),
        Joined(T + 1, a_response(), "retry", 1),
        TakenUp(T + 5, a_response(status=Status.IN_PROGRESS), "pumped"),
        LetGo(T + 6, a_response(status=Status.IN_PROGRESS), "taken"),
        Purged(T + 9, 3),
        StoreFailed(T, "append", "disk full"),
        Untracked(T, "store"),
        RequestServed(T, "GET", "/v1/responses/{id}", 200, None, 0.004, 0.005),
        Attempted(T, a_response(response_id=None, model=None), 200, 0.125),
        PickedUp(T + 12, a_response(status=Status.COMPLETED, ending=Ending.TERMINAL), "poll", 2.0),
        Delivered(T + 3, 0.002),
        ResumeRefused(T + 9, "expired"),
        NumbersSkipped(T + 4, a_response(), 8, 3),
        Surveyed(
            T + 5,
            live={(Status.QUEUED, Mode.BACKGROUND): 2, (None, Mode.STREAM): 1},
            oldest_created={Status.QUEUED: T, None: T + 4},
            oldest_progress={Status.QUEUED: T + 1, None: T + 4},
            stuck={(Stuck.QUEUED, "gpt-5-2026-01-01"): 1},
            outstanding=2,
            followers=3,
            expires_at=T + 600,
        ),
        StoreMeasured(T, 4096, 2**30, 2**31),
        LoopLagged(T, 0.002),
    ]
    found = {type(fact): fact for fact in reversed([*a_life()[1:], *others])}
    return list(reversed(found.values()))
