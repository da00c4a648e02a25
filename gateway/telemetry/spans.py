"""What spans a fact makes: a pure projection from facts to plain values, which `tracing.py` exports.

What an end finishes is made from the record instead, by `generation.py`: here are the spans that are told at once.

Rule: no vendor, no clock, no state. Fetching a response that failed is no failed fetch; an id is never in a span's
name; what comes by the thousand (polls, failures in a row) makes no thousand spans. Sources: OpenTelemetry's HTTP and
GenAI span documents (`names.GENAI_CONVENTION`).
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from gateway.domain import facts
from gateway.domain.continuation import CursorForm
from gateway.domain.errors import CLIENT_LEFT
from gateway.domain.identifiers import identifier
from gateway.domain.response import Response, Status
from gateway.telemetry import names
from gateway.telemetry.generation import begun, chat, create, link_to, owner, queued, request, result
from gateway.telemetry.span import Span, Value

# What a query may show; anything else may be somebody's secret, the name of a field too.
_SHOWN = frozenset({"api-version", "include_obfuscation", "starting_after", "stream"})
_REDACTED = "REDACTED"


def spans_of(fact: facts.Fact) -> Sequence[Span]:
    """The spans that are finished by this fact; most facts finish none."""
    project = _PROJECTIONS.get(type(fact))
    return project(fact) if project else ()


def _created(fact: facts.Created) -> Sequence[Span]:
    return (create(fact.response, fact.at, 200),)


def _taken_up(fact: facts.TakenUp) -> Sequence[Span]:
    """What the process before may not have got out any more is told again."""
    return begun(fact.response)


def _attempted(fact: facts.Attempted) -> Sequence[Span]:
    attributes: dict[str, Value] = {
        **_http("POST", fact.response.path, fact.response.query, fact.status),
        names.HTTP_RESENDS: fact.resends or None,
        names.GATEWAY_UPSTREAM_REQUEST: fact.response.upstream_request_id,
    }
    error = fact.error or _http_error(fact.status)
    return (_child(names.SPAN_ATTEMPT, "client", fact.at, fact.at + fact.seconds, attributes, error),)


def _refused(fact: facts.Refused) -> Sequence[Span]:
    response = fact.response
    generation = Span(
        chat(response),
        "generation",
        "client",
        response.created_at,
        fact.at,
        {**request(response), names.HTTP_STATUS: fact.status or None},
        response.error_code or str(fact.status),
    )
    error = str(fact.status) if fact.status >= 500 else None
    return create(response, fact.at, fact.status, error), generation


def _status_changed(fact: facts.StatusChanged) -> Sequence[Span]:
    return (queued(fact.response, fact.at),) if fact.before is Status.QUEUED else ()


def _detached(fact: facts.Detached) -> Sequence[Span]:
    error = names.ERROR_OTHER if fact.how == "error" else None
    attributes = {**_reading(fact), names.GATEWAY_OWNER: owner(fact.owner), names.USER_AGENT: fact.user_agent}
    return (_child(names.SPAN_STREAM, "internal", fact.started_at, fact.at, attributes, error),)


def _request_served(fact: facts.RequestServed) -> Sequence[Span]:
    """What a client's own span asked for: that one's child, in its trace, with a link to the generation."""
    response, caller = fact.response, fact.caller
    if response is None or caller is None:
        return ()
    route = f"{names.PREFIX}{fact.route}"
    left = fact.status == CLIENT_LEFT
    attributes: dict[str, Value] = {
        names.HTTP_METHOD: fact.method,
        names.HTTP_ROUTE: route,
        names.HTTP_STATUS: None if left else fact.status,
        names.URL_PATH: fact.path,
        names.URL_SCHEME: "http",
        **(_fetch(response) if fact.method == "GET" else {}),
        **_detail(fact.detail),
        names.GATEWAY_KEY: response.key,
        names.GATEWAY_REQUEST: fact.request_id,
    }
    error = str(fact.status) if fact.status >= 500 else None
    links, began = (link_to(response.trace),), fact.at - fact.lifetime
    return (Span(f"{fact.method} {route}", "caller", "server", began, fact.at, attributes, error, links, caller),)


def _detail(fact: facts.ClientPolled | facts.Detached | None) -> dict[str, Value]:
    match fact:
        case facts.ClientPolled():
            return {names.GATEWAY_OUTCOME: fact.outcome, names.GATEWAY_SERVED: fact.served}
        case facts.Detached():
            cursor = None if fact.form is CursorForm.NONE else str(fact.after)
            return {names.GENAI_REQUEST_STREAM: True, names.GENAI_REQUEST_CURSOR: cursor, **_reading(fact)}
        case None:
            return {}


def _reading(fact: facts.Detached) -> dict[str, Value]:
    """From where somebody read, how far, and how that ended."""
    side, reason = names.LEFT.get(fact.how, (None, fact.how))
    return {
        names.GATEWAY_ATTACH_KIND: fact.kind,
        names.GATEWAY_CURSOR_FORM: fact.form,
        names.GATEWAY_CURSOR_AFTER: None if fact.form is CursorForm.NONE else fact.after,
        names.GATEWAY_DELIVERED: fact.delivered,
        names.GATEWAY_REPLAYED: fact.replayed,
        names.GATEWAY_LEFT_AT: fact.number,
        names.GATEWAY_LEFT_SIDE: side,
        names.GATEWAY_LEFT_REASON: reason,
    }


def _reattached(fact: facts.Reattached) -> Sequence[Span]:
    response = fact.response
    query = "&".join(part for part in (response.query, "stream=true", f"starting_after={fact.after}") if part)
    attributes: dict[str, Value] = {
        **_http("GET", _path_of(response), query, fact.status),
        names.GATEWAY_CURSOR_AFTER: fact.after,
        names.GATEWAY_OUTCOME: fact.outcome,
    }
    error = None if fact.outcome == "resumed" else _http_error(fact.status) or fact.outcome
    return (_child(names.SPAN_REATTACH, "client", fact.at, fact.at + fact.seconds, attributes, error),)


def _polled(fact: facts.UpstreamPolled) -> Sequence[Span]:
    """Of failures in a row the first, second, fourth, eighth ... has a span: a bad night is no flood."""
    failed = fact.outcome == "error"
    if (fact.failures + 1) & fact.failures if failed else not (fact.news or fact.outcome == "terminal"):
        return ()
    attributes: dict[str, Value] = {
        **_fetch(fact.response),
        **_http("GET", _path_of(fact.response), fact.response.query, fact.status),
        names.GATEWAY_OUTCOME: fact.outcome,
        names.GATEWAY_FAILURES: fact.failures or None,
    }
    error = (_http_error(fact.status) or names.ERROR_OTHER) if failed else None
    return (_child(names.SPAN_FETCH, "client", fact.at, fact.at + fact.seconds, attributes, error),)


def _cancelled(fact: facts.Cancelled) -> Sequence[Span]:
    attributes = _http("POST", f"{_path_of(fact.response)}/cancel", fact.response.query, fact.status)
    error = _http_error(fact.status)
    return (_child(names.SPAN_CANCEL, "client", fact.at, fact.at + fact.seconds, attributes, error),)


def _became_stuck(fact: facts.BecameStuck) -> Sequence[Span]:
    response = fact.response
    since = max(response.progress_at, response.status_at, response.created_at)
    attributes: dict[str, Value] = {
        names.GATEWAY_STUCK_REASON: response.stuck,
        names.GATEWAY_STUCK_SINCE: datetime.fromtimestamp(since, UTC).isoformat(timespec="milliseconds"),
        names.GENAI_RESPONSE_ID: response.response_id,
        names.GENAI_RESPONSE_STATUS: response.status,
        names.GENAI_REQUEST_MODEL: response.model_asked,
        names.GENAI_RESPONSE_MODEL: response.model,
        names.GATEWAY_KEY: response.key,
        names.GATEWAY_MODE: response.mode,
        names.GATEWAY_LAST_EVENT: identifier(response.last_event),
        names.GATEWAY_UPSTREAM_REQUEST: response.upstream_request_id,
    }
    return (_child(names.SPAN_STUCK, "internal", fact.at, fact.at, attributes),)


_PROJECTIONS: dict[type[facts.Fact], Callable[[Any], Sequence[Span]]] = {
    facts.Created: _created,
    facts.TakenUp: _taken_up,
    facts.Attempted: _attempted,
    facts.Refused: _refused,
    facts.StatusChanged: _status_changed,
    facts.Detached: _detached,
    facts.RequestServed: _request_served,
    facts.Reattached: _reattached,
    facts.UpstreamPolled: _polled,
    facts.Cancelled: _cancelled,
    facts.BecameStuck: _became_stuck,
}


def _child(
    name: str, kind: Any, start: float, end: float, attributes: dict[str, Value], error: str | None = None
) -> Span:
    return Span(name, "child", kind, start, end, attributes, error)


def _fetch(response: Response) -> dict[str, Value]:
    return {
        names.GENAI_OPERATION: names.OPERATION_FETCH,
        names.GENAI_PROVIDER: names.PROVIDER_OPENAI,
        names.OPENAI_API_TYPE: names.API_RESPONSES,
        **result(response),
    }


def _http(method: str, path: str, query: str, status: int) -> dict[str, Value]:
    shown = dict.fromkeys(part if _is_shown(part) else _REDACTED for part in query.split("&") if part)
    url = f"{path}?{'&'.join(shown)}" if shown else path
    return {names.HTTP_METHOD: method, names.URL_FULL: url, names.HTTP_STATUS: status or None}


def _is_shown(part: str) -> bool:
    name, _, value = part.partition("=")
    return name in _SHOWN and identifier(value) is not None


def _http_error(status: int) -> str | None:
    return str(status) if status >= 400 else None


def _path_of(response: Response) -> str:
    return f"{response.path}/{quote(response.response_id or '', safe='')}"
