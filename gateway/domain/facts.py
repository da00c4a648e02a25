"""What can happen, in the past tense: the vocabulary of the gateway's observability.

Facts are return values of the pure fold and of whoever made a write that was new; `Telemetry.emit` projects them.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

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


class Fact(Struct, frozen=True):
    """Something happened at `at` (unix seconds)."""

    at: float


class ResponseFact(Fact, frozen=True):
    """Something happened to a response; `response` is its value afterwards."""

    response: Response


class Created(ResponseFact, frozen=True):
    """Upstream gave its first answer to the create."""


class Attempted(ResponseFact, frozen=True):
    """One HTTP request of the create to upstream, begun at `at`. `status` 0: no answer; `error` says what broke.

    `seconds` until the headers; `resends`: how many attempts for the same create went before it.
    """

    status: int
    seconds: float
    resends: int = 0
    error: str | None = None


class Refused(ResponseFact, frozen=True):
    """Upstream, or the way to it, refused the create: there is no response. `status`: HTTP's; 0: none was told."""

    status: int


class Joined(ResponseFact, frozen=True):
    """A create sent again for the `retry`-th time, known `by` (`attempt.JoinedBy`), is answered with this response."""

    by: str
    retry: int
    request_id: str | None = None


class StatusChanged(ResponseFact, frozen=True):
    """A new status, terminal or not."""

    before: Status | None
    after: Status


class FirstOutput(ResponseFact, frozen=True):
    """The first event (or polled snapshot) that carries output."""


class Ended(ResponseFact, frozen=True):
    """Tracking ended: `response.ending` says why. Emitted once per response, by whoever's write was the one.

    `late`: the terminal status arrived after tracking had been given up; `source` is who saw the end. `again`: this
    process knew of it, and then the store forgot it: nothing is counted, but what is due has to be sent.
    """

    late: bool
    source: str
    again: bool = False


class BecameStuck(ResponseFact, frozen=True):
    """It should have moved and did not, for `response.stuck`'s reason."""


class Recovered(ResponseFact, frozen=True):
    """A stuck response moved again, or ended."""

    reason: Stuck


class Contradicted(ResponseFact, frozen=True):
    """Upstream said what cannot be; it was recorded and not applied.

    `what`: another_id, backwards, after_end, unknown_status, own_numbers, duplicate, after_terminal.
    """

    what: str
    detail: str


class UpstreamCut(ResponseFact, frozen=True):
    """Upstream's stream ended without a terminal event, or broke."""

    reason: str


class Reattached(ResponseFact, frozen=True):
    """An attempt, begun at `at`, to go on reading upstream after its last number: resumed, refused or failed."""

    after: int
    outcome: str
    seconds: float
    status: int = 0


class TakenUp(ResponseFact, frozen=True):
    """A live response that no process held was taken up; `how`: pumped, polled, waits_for_owner, ended."""

    how: str


class LetGo(ResponseFact, frozen=True):
    """This process holds a live response no more: `taken` by another process, or `handed_over`."""

    how: str


class Appended(ResponseFact, frozen=True):
    """A batch of events is in the log."""

    events: int
    bytes: int
    seconds: float


class UpstreamPolled(ResponseFact, frozen=True):
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


class ClientPolled(ResponseFact, frozen=True):
    """A client's GET of a response was answered with the HTTP status `status`."""

    outcome: PollOutcome
    served: Served
    status: int = 200


class PickedUp(ResponseFact, frozen=True):
    """A client learnt for the first time that a background response has ended, `seconds` after the gateway did."""

    by: Observed
    seconds: float


class Attached(ResponseFact, frozen=True):
    """A reader began. `kind` is first, resume or replay, `behind` the events it had to catch up with."""

    kind: AttachKind
    form: CursorForm
    after: int
    behind: int
    request_id: str | None = None


class Detached(ResponseFact, frozen=True):
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


class Delivered(Fact, frozen=True):
    """Events went to a reader that keeps up, `seconds` after upstream's bytes came. A sample, not every write."""

    seconds: float


class ResumeRefused(Fact, frozen=True):
    """A reader that named a position was not served from it."""

    reason: ResumeRefusal


class NumbersSkipped(ResponseFact, frozen=True):
    """Upstream left out `missing` sequence numbers after `after`."""

    after: int
    missing: int


class TokenIssued(ResponseFact, frozen=True):
    """A continuation token was shown to a client."""


class TokenRedeemed(ResponseFact, frozen=True):
    """An issued token came back, as a poll or a resume."""

    how: Literal["poll", "resume"]
    form: CursorForm


class Cancelled(ResponseFact, frozen=True):
    """Upstream was asked, at `at`, to cancel; `status` is its HTTP status, `seconds` what its answer took."""

    status: int
    seconds: float = 0.0
    request_id: str | None = None


class Purged(Fact, frozen=True):
    """Content or records past their retention were deleted."""

    records: int


class StoreFailed(Fact, frozen=True):
    """The store could not do `operation`."""

    operation: str
    reason: str


class Untracked(Fact, frozen=True):
    """A create went upstream without being tracked. `mode` None: not readable.

    `reason`: store; not_json; limit, of what one WebSocket may carry; unreadable, for a whole WebSocket from here on.
    """

    reason: str
    mode: Mode | None = None


class RequestServed(Fact, frozen=True):
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


class Surveyed(Fact, frozen=True):
    """What this process holds, counted in one walk over all of it. All times are unix seconds.

    `live`: how many by (status or None, mode); `stuck`: by (reason, upstream's model or None). `oldest_created`,
    `oldest_progress`: of whichever was created, or moved, longest ago. `outstanding`: whose continuation token has not
    come back. `expires_at`: when upstream forgets one.
    """

    live: Mapping[tuple[Status | None, Mode], int]
    oldest_created: Mapping[Status | None, float]
    oldest_progress: Mapping[Status | None, float]
    stuck: Mapping[tuple[Stuck, str | None], int]
    outstanding: int
    followers: int
    expires_at: float | None = None


class StoreMeasured(Fact, frozen=True):
    """How much room the store takes and has left, in bytes; None: there is no telling."""

    bytes: int
    free_bytes: int | None = None
    capacity_bytes: int | None = None


class LoopLagged(Fact, frozen=True):
    """The event loop ran something `seconds` later than it was due."""

    seconds: float
