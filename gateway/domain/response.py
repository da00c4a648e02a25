"""A response: everything about it that must survive a restart, trace context included, as one frozen value."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from msgspec import Struct, field, structs

from gateway.domain.content import Content
from gateway.domain.mode import Mode, Parameters
from gateway.domain.sealed import Seal


class Status(StrEnum):
    """Upstream's own statuses."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    INCOMPLETE = "incomplete"
    CANCELLED = "cancelled"


TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.INCOMPLETE, Status.CANCELLED})
"""Upstream will not change it any more."""


class Ending(StrEnum):
    """Why tracking ended. All but `TERMINAL` end the tracking, not the response: its status stays."""

    TERMINAL = "terminal"
    UPSTREAM_LOST = "upstream_lost"
    LOST = "lost"
    ABANDONED = "abandoned"
    DELETED = "deleted"


class Stuck(StrEnum):
    """Why a response that should move does not; also a metric label."""

    QUEUED = "queued"
    NO_PROGRESS = "no_progress"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    WAITS_FOR_OWNER = "waiting_for_owner"
    LOST = "lost"
    EXPIRED = "upstream_expired"


class Usage(Struct, frozen=True):
    """Tokens of one response. `cached` is part of `input`, `reasoning` part of `output`: never add them up.

    `cache_written` is part of `input`, too.
    """

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0
    cache_written: int = 0


class Caller(Struct, frozen=True):
    """A span elsewhere, the client's mostly, as its `traceparent` names it: ids, W3C flags byte, `tracestate`."""

    trace_id: int
    span_id: int
    flags: int
    state: str = ""

    @property
    def sampled(self) -> bool:
        """The caller records its own span."""
        return bool(self.flags & 1)


class Trace(Struct, frozen=True):
    """The generation span's identity, drawn at create: ids, W3C flags byte and the sampling decision.

    `parent_span_id` is the server span of the create; `remote_span_id` the caller's, if it sent a `traceparent` and is
    our parent, `remote_sampled` whether it records that one. `linked`: the caller's where it is no more than a link.
    """

    trace_id: int
    span_id: int
    parent_span_id: int
    flags: int
    sampled: bool
    remote_span_id: int | None = None
    state: str = ""
    remote_sampled: bool = False
    linked: Caller | None = None


class Counts(Struct, frozen=True, omit_defaults=True):
    """What happened to a response how often. `tokens_redeemed` by how, and again by the form of the cursor."""

    client_polls: int = 0
    upstream_polls: int = 0
    attaches: int = 0
    resumes: int = 0
    disconnects: int = 0
    reattaches: int = 0
    tokens_issued: int = 0
    tokens_redeemed: int = 0
    redeemed_poll: int = 0
    redeemed_resume: int = 0
    redeemed_none: int = 0
    redeemed_starting_after: int = 0
    redeemed_last_event_id: int = 0
    redeemed_suffix: int = 0
    contradictions: int = 0
    stucks: int = 0
    pickups: int = 0
    joined: int = 0

    def plus(self, added: Mapping[str, int]) -> "Counts":
        """These counts with increments by name."""
        return structs.replace(self, **{name: getattr(self, name) + by for name, by in added.items()})


class Response(Struct, frozen=True, omit_defaults=True):
    """One response and all that is known of it.

    `key` is the gateway's own name for it, drawn before upstream is called; `response_id` is upstream's. Times are unix
    seconds by the gateway's clock; `completed_at` alone is by upstream's. `answered_at`: when upstream first answered
    the create. `request_id` names the create's request, `client_path` and `user_agent` are as its client sent them.
    `waiting`: there is no credential to ask upstream with, it waits for its owner.
    `token_open`: a continuation token was shown and has not come back since; `ended_by`: who saw the end; `attended`:
    whoever made the create was there to be told of it, on the create's own connection. `content`: what was asked, where
    it is captured; `service_tier`: the one that was used; `output_types`: the kinds of items in the final output;
    `previous_trace`: that of the response which this one goes on from, where it is the same owner's. `seal`: its
    owners' credentials, encrypted, while it is live: shown to nobody. `path` and `query`
    are those of the create, upstream's side: retrieving it is `GET {path}/{response_id}?{query}`, with the header
    `OpenAI-Beta: {beta}` where the create had one. `tail` is the last
    position of its log (-1: empty) and belongs to the store.

    A struct of msgspec's, as it is copied at every turn: that takes half a microsecond, a dataclass takes fifteen. What
    is as it was at first is not written down, which is two thirds of it.
    """

    key: str
    route: str
    owner: str
    mode: Mode
    created_at: float
    trace: Trace
    path: str = "/responses"
    query: str = ""
    beta: str | None = None
    epoch: int = 0

    response_id: str | None = None
    model_asked: str | None = None
    model: str | None = None
    previous_response_id: str | None = None
    conversation: str | None = None
    parameters: Parameters = Parameters()
    content: Content | None = None
    previous_trace: Trace | None = None
    stored: bool = True
    background: bool = False

    status: Status | None = None
    status_at: float = 0.0
    answered_at: float | None = None
    started_at: float | None = None
    first_output_at: float | None = None
    progress_at: float = 0.0
    ended_at: float | None = None
    ending: Ending | None = None
    error_code: str | None = None
    error_message: str | None = None
    incomplete_reason: str | None = None
    output_types: tuple[str, ...] = ()
    usage: Usage | None = None
    synthesised: bool = False

    logged: bool = False
    pumped: bool = False
    tail: int = -1
    upstream_number: int | None = None
    own_numbers: bool = False
    last_event: str | None = None
    fingerprint: int = 0

    stuck: Stuck | None = None
    stuck_at: float | None = None
    upstream_request_id: str | None = None
    request_id: str | None = None
    client_path: str = ""
    user_agent: str | None = None
    token_open: bool = False
    waiting: bool = False
    completed_at: float | None = None
    service_tier: str | None = None
    ended_by: str | None = None
    attended: bool = False
    seal: Seal | None = None
    counts: Counts = Counts()

    def but(self, **fields: Any) -> "Response":
        """The same with other values in some fields. Raises TypeError for a field that there is not."""
        return structs.replace(self, **fields)

    @property
    def ended(self) -> bool:
        """Tracking is over: nobody reads or polls upstream for it any more."""
        return self.ending is not None

    @property
    def terminal(self) -> bool:
        """Upstream's final word is known."""
        return self.status in TERMINAL

    @property
    def moved_at(self) -> float:
        """When it last moved, as far as could be seen: an event, another status, output or usage."""
        return max(self.progress_at, self.status_at, self.created_at)

    @property
    def expected_at(self) -> float:
        """From when on it is late if it has not begun, or ended: at once, or when its completion window is over."""
        return self.created_at + self.parameters.completion_window_s

    @property
    def mode_now(self) -> str:
        """How it is followed: `pumped` or `polled`."""
        return "pumped" if self.pumped else "polled"


class Change(Struct, frozen=True):
    """A change of a response's record: fields that are replaced, counts that are added, an owner that joined.

    `once`: the change is made only while this count is 0, so that of all who make it one does. `name`: 16 letters that
    are this change's alone, so that it is made once where it is tried again, as whether it was made is not known.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    co_owner: str | None = None
    once: str | None = None
    name: str | None = None

    def applied(self, response: Response) -> Response:
        """The response after this change."""
        counts = response.counts.plus(self.counts) if self.counts else response.counts
        return response.but(**{**self.fields, "counts": counts})

    @property
    def empty(self) -> bool:
        """Nothing would change."""
        return not self.fields and not self.counts and self.co_owner is None


# The store keeps these itself, or adds them up: a difference between two values of a response never carries them.
_NOT_COMPARED = frozenset({"key", "epoch", "tail", "counts"})
_FIELDS = Response.__struct_fields__


def difference(before: Response, after: Response) -> Change:
    """The change that leads from one value of a response to another, counts apart."""
    if before is after:
        return Change()
    values = zip(_FIELDS, structs.astuple(before), structs.astuple(after), strict=True)
    return Change(
        {name: new for name, old, new in values if old is not new and old != new and name not in _NOT_COMPARED}
    )


class Body(Struct, frozen=True):
    """A response object as upstream last gave it: its bytes, the headers that hold for them, and when."""

    bytes: bytes
    headers: tuple[tuple[str, str], ...] = ()
    at: float = 0.0
