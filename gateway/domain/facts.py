"""What can happen, in the past tense: the vocabulary of the gateway's observability.

Facts are return values of the pure fold and of whoever made a write that was new; `Telemetry.emit` projects them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gateway.domain.continuation import CursorForm
from gateway.domain.errors import Origin
from gateway.domain.mode import Mode
from gateway.domain.response import Caller, Response, Status, Stuck

Served = Literal["store", "shared", "upstream"]
"""Who answered a client's poll: the store, an upstream GET shared with others, or one of its own."""
PollOutcome = Literal["changed", "unchanged", "terminal", "error"]
AttachKind = Literal["first", "resume", "replay"]
Left = Literal["end", "client", "slow", "drain", "error"]
"""How a reader's stream ended: at the log's end, the client went, it took nothing for too long, shutdown, a fault."""
Observed = Literal["stream", "poll"]
"""How upstream's word came: a stream says when, a poll no more than that it was since the last one."""
ResumeRefusal = Literal["expired", "store", "overloaded", "error"]
"""Why a resume was not served: past its retention, the store is down, a limit, a fault."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something happened at `at` (unix seconds)."""

    at: float


@dataclass(frozen=True, slots=True)
class ResponseFact(Fact):
    """Something happened to a response; `response` is its value afterwards."""

    response: Response


@dataclass(frozen=True, slots=True)
class Created(ResponseFact):
    """Upstream gave its first answer to the create."""


@dataclass(frozen=True, slots=True)
class Attempted(ResponseFact):
    """One HTTP request of the create to upstream, begun at `at`. `status` 0: no answer; `error` says what broke.

    `seconds` until the headers; `resends`: how many attempts for the same create went before it.
    """

    status: int
    seconds: float
    resends: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Refused(ResponseFact):
    """Upstream, or the way to it, refused the create: there is no response. `status`: HTTP's; 0: none was told."""

    status: int


@dataclass(frozen=True, slots=True)
class Joined(ResponseFact):
    """A create sent again for the `retry`-th time, known `by` (`attempt.JoinedBy`), is answered with this response."""

    by: str
    retry: int
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class StatusChanged(ResponseFact):
    """A new status, terminal or not."""

    before: Status | None
    after: Status


@dataclass(frozen=True, slots=True)
class FirstOutput(ResponseFact):
    """The first event (or polled snapshot) that carries output."""


@dataclass(frozen=True, slots=True)
class Ended(ResponseFact):
    """Tracking ended: `response.ending` says why. Emitted once per response, by whoever's write was the one.

    `late`: the terminal status arrived after tracking had been given up; `source` is who saw the end.
    """

    late: bool
    source: str


@dataclass(frozen=True, slots=True)
class BecameStuck(ResponseFact):
    """It should have moved and did not, for `response.stuck`'s reason."""


@dataclass(frozen=True, slots=True)
class Recovered(ResponseFact):
    """A stuck response moved again, or ended."""

    reason: Stuck


@dataclass(frozen=True, slots=True)
class Contradicted(ResponseFact):
    """Upstream said what cannot be; it was recorded and not applied.

    `what`: another_id, backwards, after_end, unknown_status, own_numbers, duplicate, after_terminal.
    """

    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class UpstreamCut(ResponseFact):
    """Upstream's stream ended without a terminal event, or broke."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reattached(ResponseFact):
    """An attempt, begun at `at`, to go on reading upstream after its last number: resumed, refused or failed."""

    after: int
    outcome: str
    seconds: float
    status: int = 0


@dataclass(frozen=True, slots=True)
class TakenUp(ResponseFact):
    """A live response that no process held was taken up; `how`: pumped, polled, waits_for_owner, ended."""

    how: str


@dataclass(frozen=True, slots=True)
class LetGo(ResponseFact):
    """This process holds a live response no more: `taken` by another process, or `handed_over`."""

    how: str


@dataclass(frozen=True, slots=True)
class Appended(ResponseFact):
    """A batch of events is in the log."""

    events: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class UpstreamPolled(ResponseFact):
    """One upstream GET, begun at `at`. `status` is the HTTP status (0: no answer).

    `lag`: how many seconds later than it was due; None: a client asked, no schedule. `news`: the response has another
    status than before. `failures`: how many before it failed in a row.
    """

    outcome: PollOutcome
    status: int
    seconds: float
    lag: float | None = None
    news: bool = False
    failures: int = 0


@dataclass(frozen=True, slots=True)
class ClientPolled(ResponseFact):
    """A client's GET of a response was answered with the HTTP status `status`."""

    outcome: PollOutcome
    served: Served
    status: int = 200


@dataclass(frozen=True, slots=True)
class PickedUp(ResponseFact):
    """A client learnt for the first time that a background response has ended, `seconds` after the gateway did."""

    by: Observed
    seconds: float


@dataclass(frozen=True, slots=True)
class Attached(ResponseFact):
    """A reader began. `kind` is first, resume or replay, `behind` the events it had to catch up with."""

    kind: AttachKind
    form: CursorForm
    after: int
    behind: int
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Detached(ResponseFact):
    """A reader left at `number` after `delivered` events, `replayed` of them from before it came.

    `form` and `after` are the cursor that it came with, `owner` is whom it was known as.
    """

    kind: AttachKind
    how: Left
    number: int
    delivered: int
    replayed: int
    started_at: float
    form: CursorForm = CursorForm.NONE
    after: int = -1
    user_agent: str | None = None
    owner: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Delivered(Fact):
    """Events went to a reader that keeps up, `seconds` after upstream's bytes came. A sample, not every write."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ResumeRefused(Fact):
    """A reader that named a position was not served from it."""

    reason: ResumeRefusal


@dataclass(frozen=True, slots=True)
class NumbersSkipped(ResponseFact):
    """Upstream left out `missing` sequence numbers after `after`."""

    after: int
    missing: int


@dataclass(frozen=True, slots=True)
class TokenIssued(ResponseFact):
    """A continuation token was shown to a client."""


@dataclass(frozen=True, slots=True)
class TokenRedeemed(ResponseFact):
    """An issued token came back, as a poll or a resume."""

    how: Literal["poll", "resume"]
    form: CursorForm


@dataclass(frozen=True, slots=True)
class Cancelled(ResponseFact):
    """Upstream was asked, at `at`, to cancel; `status` is its HTTP status, `seconds` what its answer took."""

    status: int
    seconds: float = 0.0
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Purged(Fact):
    """Content or records past their retention were deleted."""

    records: int


@dataclass(frozen=True, slots=True)
class StoreFailed(Fact):
    """The store could not do `operation`."""

    operation: str
    reason: str


@dataclass(frozen=True, slots=True)
class Untracked(Fact):
    """A create went upstream without being tracked. `mode` None: not readable.

    `reason`: store; not_json; limit, of what one WebSocket may carry; unreadable, for a whole WebSocket from here on.
    """

    reason: str
    mode: Mode | None = None


@dataclass(frozen=True, slots=True)
class RequestServed(Fact):
    """One request of a client was answered. `route` is a template, never a path; `method` a known one or `_OTHER`.

    `seconds` until the headers, `lifetime` until its end; `streamed`: as events. `response`: what it was about, if that
    is known, `detail` what was told of it; `path` as asked; `caller`: the client's span, if recorded and believed.
    """

    method: str
    route: str
    status: int
    origin: Origin | None
    seconds: float
    lifetime: float
    streamed: bool = False
    received_bytes: int = 0
    sent_bytes: int = 0
    request_id: str | None = None
    response: Response | None = None
    detail: ClientPolled | Detached | None = None
    path: str = ""
    caller: Caller | None = None


@dataclass(frozen=True, slots=True)
class Surveyed(Fact):
    """What this process holds, counted in one walk over all of it. All times are unix seconds.

    `live`: how many by (status or None, mode). `oldest_created`, `oldest_progress`: of whichever was created, or moved,
    longest ago. `outstanding`: whose continuation token has not come back. `expires_at`: when upstream forgets one.
    """

    live: Mapping[tuple[Status | None, Mode], int]
    oldest_created: Mapping[Status | None, float]
    oldest_progress: Mapping[Status | None, float]
    stuck: Mapping[Stuck, int]
    outstanding: int
    followers: int
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class StoreMeasured(Fact):
    """How much room the store takes and has left, in bytes; None: there is no telling."""

    bytes: int
    free_bytes: int | None = None
    capacity_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class LoopLagged(Fact):
    """The event loop ran something `seconds` later than it was due."""

    seconds: float
