"""What spans a fact makes: a pure projection from facts to plain values, which `tracing.py` exports.

Rule: no vendor, no clock, no state. The rules of the conventions that matter here: usage is on the generation span
alone; `cancelled` and `incomplete` are no errors; fetching a response that failed is no failed fetch; an id is never in
a span's name. Sources: OpenTelemetry's HTTP and GenAI span documents (`names.GENAI_CONVENTION`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.domain import facts
from gateway.domain.response import Ending, Response, Status
from gateway.telemetry import names

Place = Literal["create", "generation", "child"]
"""The create's server span and the generation have ids of their own in the record; a child hangs under the latter."""
Kind = Literal["server", "client", "internal"]
Value = str | bool | int | float | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Span:
    """A finished span: `start` and `end` in unix seconds, `error` its `error.type`. None: no such attribute."""

    name: str
    place: Place
    kind: Kind
    start: float
    end: float
    attributes: Mapping[str, Value] = field(default_factory=dict)
    error: str | None = None


def spans_of(fact: facts.Fact) -> Sequence[Span]:
    """The spans that are finished by this fact; most facts finish none."""
    project = _PROJECTIONS.get(type(fact))
    return project(fact) if project else ()


def went_wrong(response: Response) -> str | None:
    """The `error.type` of an ended response: upstream's error code, or why it was given up."""
    if response.ending in _GIVEN_UP:
        return response.ending
    if response.status is Status.FAILED:
        return response.error_code or names.ERROR_OTHER
    return None


_GIVEN_UP = frozenset({Ending.UPSTREAM_LOST, Ending.LOST, Ending.ABANDONED})
_INCOMPLETE_REASONS = {"max_output_tokens": "length"}


def _created(fact: facts.Created) -> Sequence[Span]:
    return (_create(fact.response, fact.at, 200),)


def _refused(fact: facts.Refused) -> Sequence[Span]:
    response = fact.response
    generation = Span(
        _chat(response),
        "generation",
        "client",
        response.created_at,
        fact.at,
        {**_request(response), names.HTTP_STATUS: fact.status},
        response.error_code or str(fact.status),
    )
    return _create(response, fact.at, fact.status), generation


def _status_changed(fact: facts.StatusChanged) -> Sequence[Span]:
    if fact.before is not Status.QUEUED:
        return ()
    return (_phase(Status.QUEUED, fact.response.created_at, fact.at),)


def _ended(fact: facts.Ended) -> Sequence[Span]:
    response = fact.response
    end = response.ended_at or fact.at
    if fact.late:
        # The generation was exported when it was given up, and a span has one content: what came late is a child.
        attributes = {**_result(response), **_usage(response), names.GATEWAY_SOURCE: fact.source}
        return (Span(names.SPAN_LATE, "child", "internal", end, end, {**attributes, names.GATEWAY_LATE: True}),)
    spans = []
    if response.started_at is not None:
        spans.append(_phase(Status.IN_PROGRESS, response.started_at, end))
    elif response.status is Status.QUEUED:
        spans.append(_phase(Status.QUEUED, response.created_at, end))
    attributes = {
        **_request(response),
        **_result(response),
        **_usage(response),
        **_story(response),
        names.GATEWAY_SOURCE: fact.source,
        names.GATEWAY_LATE: False,
    }
    error = went_wrong(response)
    spans.append(Span(_chat(response), "generation", "client", response.created_at, end, attributes, error))
    return spans


def _detached(fact: facts.Detached) -> Sequence[Span]:
    attributes: dict[str, Value] = {
        names.GATEWAY_ATTACH_KIND: fact.kind,
        names.GATEWAY_CURSOR_FORM: fact.form,
        names.GATEWAY_CURSOR_AFTER: fact.after,
        names.GATEWAY_DELIVERED: fact.delivered,
        names.GATEWAY_REPLAYED: fact.replayed,
        names.GATEWAY_LEFT_AT: fact.number,
        names.GATEWAY_LEFT_HOW: fact.how,
    }
    error = names.ERROR_OTHER if fact.how == "error" else None
    return (Span(names.SPAN_STREAM, "child", "internal", fact.started_at, fact.at, attributes, error),)


def _reattached(fact: facts.Reattached) -> Sequence[Span]:
    attributes: dict[str, Value] = {names.GATEWAY_CURSOR_AFTER: fact.after, names.GATEWAY_OUTCOME: fact.outcome}
    error = None if fact.outcome == "resumed" else fact.outcome
    return (Span(names.SPAN_REATTACH, "child", "client", fact.at, fact.at + fact.seconds, attributes, error),)


def _polled(fact: facts.UpstreamPolled) -> Sequence[Span]:
    if fact.outcome == "unchanged":
        return ()
    response = fact.response
    attributes: dict[str, Value] = {
        names.GENAI_OPERATION: names.OPERATION_FETCH,
        names.GENAI_PROVIDER: names.PROVIDER_OPENAI,
        names.OPENAI_API_TYPE: names.API_RESPONSES,
        names.GATEWAY_OUTCOME: fact.outcome,
        names.HTTP_STATUS: fact.status or None,
        **_result(response),
    }
    error = (str(fact.status) if fact.status >= 400 else names.ERROR_OTHER) if fact.outcome == "error" else None
    return (Span(names.SPAN_FETCH, "child", "client", fact.at, fact.at + fact.seconds, attributes, error),)


def _cancelled(fact: facts.Cancelled) -> Sequence[Span]:
    error = str(fact.status) if fact.status >= 400 else None
    attributes: dict[str, Value] = {names.HTTP_STATUS: fact.status}
    return (Span(names.SPAN_CANCEL, "child", "client", fact.at, fact.at + fact.seconds, attributes, error),)


def _became_stuck(fact: facts.BecameStuck) -> Sequence[Span]:
    attributes: dict[str, Value] = {
        names.GATEWAY_STUCK_REASON: fact.response.stuck,
        names.GENAI_RESPONSE_STATUS: fact.response.status,
    }
    return (Span(names.SPAN_STUCK, "child", "internal", fact.at, fact.at, attributes),)


_PROJECTIONS: dict[type[facts.Fact], Callable[[Any], Sequence[Span]]] = {
    facts.Created: _created,
    facts.Refused: _refused,
    facts.StatusChanged: _status_changed,
    facts.Ended: _ended,
    facts.Detached: _detached,
    facts.Reattached: _reattached,
    facts.UpstreamPolled: _polled,
    facts.Cancelled: _cancelled,
    facts.BecameStuck: _became_stuck,
}


def _create(response: Response, end: float, status: int) -> Span:
    attributes: dict[str, Value] = {
        names.HTTP_METHOD: "POST",
        names.HTTP_ROUTE: names.ROUTE_CREATE,
        names.HTTP_STATUS: status,
        names.GENAI_RESPONSE_ID: response.response_id,
        names.GATEWAY_KEY: response.key,
        names.GATEWAY_MODE: response.mode,
    }
    error = str(status) if status >= 500 else None
    return Span(names.SPAN_CREATE, "create", "server", response.created_at, end, attributes, error)


def _phase(status: Status, start: float, end: float) -> Span:
    return Span(status, "child", "internal", start, end, {names.GENAI_RESPONSE_STATUS: status})


def _chat(response: Response) -> str:
    return f"{names.OPERATION_CHAT} {response.model_asked}" if response.model_asked else names.OPERATION_CHAT


def _request(response: Response) -> dict[str, Value]:
    return {
        names.GENAI_OPERATION: names.OPERATION_CHAT,
        names.GENAI_PROVIDER: names.PROVIDER_OPENAI,
        names.OPENAI_API_TYPE: names.API_RESPONSES,
        names.GENAI_REQUEST_MODEL: response.model_asked,
        names.GENAI_REQUEST_STREAM: response.mode.streamed or None,
        names.GENAI_REQUEST_PREVIOUS: response.previous_response_id,
        names.GENAI_CONVERSATION: response.conversation,
        names.GATEWAY_KEY: response.key,
        names.GATEWAY_ROUTE: response.route,
        names.GATEWAY_MODE: response.mode,
        names.GATEWAY_UPSTREAM_REQUEST: response.upstream_request_id,
    }


def _result(response: Response) -> dict[str, Value]:
    return {
        names.GENAI_RESPONSE_ID: response.response_id,
        names.GENAI_RESPONSE_MODEL: response.model,
        names.GENAI_RESPONSE_STATUS: response.status,
        names.GENAI_FINISH_REASONS: _finish_reasons(response),
    }


def _finish_reasons(response: Response) -> tuple[str, ...] | None:
    match response.status:
        case Status.COMPLETED:
            return ("stop",)
        case Status.INCOMPLETE:
            reason = response.incomplete_reason or "incomplete"
            return (_INCOMPLETE_REASONS.get(reason, reason),)
        case Status.FAILED | Status.CANCELLED:
            return ("error",)
        case _:
            return None


def _usage(response: Response) -> dict[str, Value]:
    if response.usage is None:
        return {}
    usage: dict[str, Value] = {
        names.GENAI_USAGE_INPUT: response.usage.input,
        names.GENAI_USAGE_CACHED: response.usage.cached,
        names.GENAI_USAGE_OUTPUT: response.usage.output,
        names.GENAI_USAGE_REASONING: response.usage.reasoning,
    }
    counted_by_caller = not response.mode.background and response.trace.remote_span_id is not None
    if not counted_by_caller:
        return usage
    return {name.replace(names.GENAI_USAGE, names.GATEWAY_USAGE): tokens for name, tokens in usage.items()}


def _story(response: Response) -> dict[str, Value]:
    counts = response.counts
    queued = response.mode.background and response.started_at is not None
    first = response.first_output_at if response.mode.streamed else None
    return {
        names.GATEWAY_FOLLOWED: response.mode_now,
        names.GATEWAY_ENDING: response.ending,
        names.GATEWAY_SYNTHESISED: response.synthesised,
        names.GATEWAY_QUEUE_SECONDS: (response.started_at or 0) - response.created_at if queued else None,
        names.GENAI_FIRST_CHUNK: None if first is None else first - response.created_at,
        names.GATEWAY_EVENTS: response.tail + 1,
        names.GATEWAY_CLIENT_POLLS: counts.client_polls,
        names.GATEWAY_UPSTREAM_POLLS: counts.upstream_polls,
        names.GATEWAY_ATTACHES: counts.attaches,
        names.GATEWAY_RESUMES: counts.resumes,
        names.GATEWAY_DISCONNECTS: counts.disconnects,
        names.GATEWAY_REATTACHES: counts.reattaches,
        names.GATEWAY_TOKENS_ISSUED: counts.tokens_issued,
        names.GATEWAY_TOKENS_REDEEMED: counts.tokens_redeemed,
        names.GATEWAY_CONTRADICTIONS: counts.contradictions,
    }
