"""The spans that the end of a response finishes, from its record alone: the generation, above all.

Rule: pure, and nothing but the record goes in, so that these spans are the same whoever sends them and however often.
Usage is on the generation alone; `cancelled` and `incomplete` are no errors. Source: OpenTelemetry's GenAI span
document (`names.GENAI_CONVENTION`); finish reasons as OpenTelemetry's own instrumentation of the SDK gives them.
"""

from collections.abc import Sequence

from msgspec import Struct

from gateway.domain.content import answered
from gateway.domain.mode import Mode
from gateway.domain.response import Caller, Ending, Response, Status, Trace
from gateway.telemetry import names
from gateway.telemetry.span import Finished, Span, Value

_GIVEN_UP = frozenset({Ending.UPSTREAM_LOST, Ending.LOST, Ending.ABANDONED})
_INCOMPLETE_REASONS = {"max_output_tokens": "length"}
# Tools that the client runs; those that upstream runs end nothing.
_OUTPUT_REASONS = {
    "message": "stop",
    "function_call": "tool_calls",
    "custom_tool_call": "tool_calls",
    "computer_call": "tool_calls",
}
_COMPACTION = "compaction"
_OWNER_CHARACTERS = 8


class End(Struct, frozen=True):
    """An end to be told. `late`: a final status that came after the tracking was given up; `body`: the final object."""

    response: Response
    late: bool = False
    body: bytes | None = None


def ended(told: End, *, again: bool = False) -> Sequence[Span]:
    """What is finished by an end. `again`: what was told before it, too, by a process that may not have got it out."""
    response = told.response
    end = response.ended_at or response.created_at
    if told.late:
        # The generation was exported when it was given up, and a span has one content: what came late is a child.
        attributes = {**result(response), **_usage(response), names.GATEWAY_SOURCE: response.ended_by}
        return (Span(names.SPAN_LATE, "child", "internal", end, end, attributes, once=True),)
    error = went_wrong(response)
    attributes = {**request(response), **result(response), **_usage(response), **_story(response), **_content(told)}
    links = () if response.previous_trace is None else (link_to(response.previous_trace),)
    generation = Span(chat(response), "generation", "client", response.created_at, end, attributes, error, links)
    if response.answered_at is None:
        # Nothing has told of the create yet.
        return create(response, end, None, error), generation
    return (*(begun(response) if again else ()), *_last_phase(response, end), generation)


def finished_by(told: End, *, again: bool = False) -> Sequence[Finished]:
    """The same for who exports them: of an unsampled response all but the create, with why it is exported at all."""
    response = told.response
    trace, spans = response.trace, ended(told, again=again)
    if trace.sampled:
        return [Finished(trace, span) for span in spans]
    reason = promoted(response) or ("late" if told.late else None)
    return [Finished(trace, span, reason) for span in spans if span.place != "create"]


def begun(response: Response) -> Sequence[Span]:
    """What was told of a response before its end, once upstream had answered: the same spans, under the same ids."""
    if response.answered_at is None:
        return ()
    before = () if response.started_at is None else (queued(response, response.started_at),)
    return create(response, response.answered_at, 200), *before


def went_wrong(response: Response) -> str | None:
    """The `error.type` of an ended response: upstream's error code, or why it was given up."""
    if response.ending in _GIVEN_UP:
        return response.ending
    if response.status is Status.FAILED:
        return response.error_code or names.ERROR_OTHER
    return None


def promoted(response: Response) -> str | None:
    """Why the generation of an unsampled response is exported all the same: stuck, failed, resumed. Else None."""
    counts = response.counts
    reasons = (("stuck", counts.stucks), ("failed", went_wrong(response)), ("resumed", counts.resumes))
    return next((name for name, holds in reasons if holds), None)


def counted_by_caller(response: Response) -> bool:
    """The caller records its own span in this trace, and was there when the answer ended: it counts the tokens, too."""
    return response.attended and response.trace.remote_span_id is not None and response.trace.remote_sampled


def create(response: Response, end: float, status: int | None, error: str | None = None) -> Span:
    """The server span of the create. Over a WebSocket that is a message, with no method or status of its own."""
    message = response.mode is Mode.WEBSOCKET
    attributes: dict[str, Value] = {
        names.HTTP_METHOD: None if message else "POST",
        names.HTTP_ROUTE: names.ROUTE_CREATE,
        names.HTTP_STATUS: None if message else status,
        names.URL_PATH: response.client_path or names.ROUTE_CREATE,
        names.URL_SCHEME: "http",
        names.USER_AGENT: response.user_agent,
        names.GENAI_RESPONSE_ID: response.response_id,
        names.GATEWAY_KEY: response.key,
        names.GATEWAY_MODE: response.mode,
        names.GATEWAY_REQUEST: response.request_id,
    }
    linked = response.trace.linked
    links = () if linked is None else (linked,)
    name = names.SPAN_MESSAGE if message else names.SPAN_CREATE
    return Span(name, "create", "server", response.created_at, end, attributes, error, links)


def queued(response: Response, end: float) -> Span:
    """The phase before upstream began."""
    return _phase(Status.QUEUED, response.created_at, end)


def chat(response: Response) -> str:
    """The generation's name."""
    return f"{names.OPERATION_CHAT} {response.model_asked}" if response.model_asked else names.OPERATION_CHAT


def request(response: Response) -> dict[str, Value]:
    """What was asked, and by whom."""
    asked = response.parameters
    return {
        names.GENAI_OPERATION: names.OPERATION_CHAT,
        names.GENAI_PROVIDER: names.PROVIDER_OPENAI,
        names.OPENAI_API_TYPE: names.API_RESPONSES,
        names.GENAI_REQUEST_MODEL: response.model_asked,
        names.GENAI_REQUEST_STREAM: response.mode.streamed or None,
        names.GENAI_REQUEST_MAX_TOKENS: asked.max_output_tokens,
        names.GENAI_REQUEST_TEMPERATURE: asked.temperature,
        names.GENAI_REQUEST_TOP_P: asked.top_p,
        names.GENAI_REQUEST_REASONING: asked.reasoning_effort,
        names.GENAI_OUTPUT_TYPE: asked.output_type,
        names.GENAI_PROMPT_NAME: asked.prompt,
        names.GENAI_PROMPT_VERSION: asked.prompt_version,
        names.OPENAI_REQUEST_TIER: None if asked.service_tier == names.TIER_AUTO else asked.service_tier,
        names.GENAI_REQUEST_PREVIOUS: response.previous_response_id,
        names.GENAI_CONVERSATION: response.conversation,
        names.GATEWAY_KEY: response.key,
        names.GATEWAY_ROUTE: response.route,
        names.GATEWAY_MODE: response.mode,
        names.GATEWAY_OWNER: owner(response.owner),
        names.GATEWAY_REQUEST: response.request_id,
        names.GATEWAY_UPSTREAM_REQUEST: response.upstream_request_id,
    }


def result(response: Response) -> dict[str, Value]:
    """What has come of it so far."""
    return {
        names.GENAI_RESPONSE_ID: response.response_id,
        names.GENAI_RESPONSE_MODEL: response.model,
        names.GENAI_RESPONSE_STATUS: response.status,
        names.GENAI_FINISH_REASONS: _finish_reasons(response),
        names.GENAI_COMPACTED: True if _COMPACTION in response.output_types else None,
        names.OPENAI_RESPONSE_TIER: response.service_tier if response.terminal else None,
    }


def owner(name: str | None) -> str | None:
    """As much of an owner's name as tells owners apart."""
    return name[:_OWNER_CHARACTERS] if name else None


def link_to(trace: Trace) -> Caller:
    """A response's generation span, to be linked to."""
    return Caller(trace.trace_id, trace.span_id, trace.flags, trace.state)


def _last_phase(response: Response, end: float) -> Sequence[Span]:
    if response.started_at is not None:
        return (_phase(Status.IN_PROGRESS, response.started_at, end),)
    return (queued(response, end),) if response.status is Status.QUEUED else ()


def _phase(status: Status, start: float, end: float) -> Span:
    return Span(status, "child", "internal", start, end, {names.GENAI_RESPONSE_STATUS: status}, once=True)


def _finish_reasons(response: Response) -> tuple[str, ...] | None:
    match response.status:
        case Status.COMPLETED:
            reasons = [_OUTPUT_REASONS[kind] for kind in response.output_types if kind in _OUTPUT_REASONS]
            return tuple(dict.fromkeys(reasons)) or ("stop",)
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
        names.GENAI_USAGE_CACHE_WRITTEN: response.usage.cache_written,
        names.GENAI_USAGE_OUTPUT: response.usage.output,
        names.GENAI_USAGE_REASONING: response.usage.reasoning,
    }
    if not counted_by_caller(response):
        return usage
    return {name.replace(names.GENAI_USAGE, names.GATEWAY_USAGE): tokens for name, tokens in usage.items()}


def _content(told: End) -> dict[str, Value]:
    """What was said, where it is captured and still kept."""
    asked = told.response.content
    if asked is None:
        return {}
    output, cut = (None, False) if told.body is None else answered(told.body, asked.limit)
    return {
        names.GENAI_INSTRUCTIONS: asked.instructions,
        names.GENAI_INPUT: asked.input,
        names.GENAI_OUTPUT: output,
        names.GENAI_TOOLS: asked.tools,
        names.GATEWAY_CONTENT_CUT: asked.cut or cut,
    }


def _story(response: Response) -> dict[str, Value]:
    counts = response.counts
    was_queued = response.mode.background and response.started_at is not None
    first = response.first_output_at if response.mode.streamed else None
    by_how = {"poll": counts.redeemed_poll, "resume": counts.redeemed_resume}
    by_form = {
        "none": counts.redeemed_none,
        "starting_after": counts.redeemed_starting_after,
        "last_event_id": counts.redeemed_last_event_id,
        "suffix": counts.redeemed_suffix,
    }
    # What did not happen is not said: most of this happens to few responses, and each attribute is paid for.
    happened = {
        names.GATEWAY_EVENTS: response.tail + 1,
        names.GATEWAY_STUCKS: counts.stucks,
        names.GATEWAY_CLIENT_POLLS: counts.client_polls,
        names.GATEWAY_UPSTREAM_POLLS: counts.upstream_polls,
        names.GATEWAY_ATTACHES: counts.attaches,
        names.GATEWAY_RESUMES: counts.resumes,
        names.GATEWAY_DISCONNECTS: counts.disconnects,
        names.GATEWAY_REATTACHES: counts.reattaches,
        names.GATEWAY_TOKENS_ISSUED: counts.tokens_issued,
        names.GATEWAY_TOKENS_REDEEMED: counts.tokens_redeemed,
        **{names.GATEWAY_TOKENS_BY_HOW[how]: times for how, times in by_how.items()},
        **{names.GATEWAY_TOKENS_BY_FORM[form]: times for form, times in by_form.items()},
        names.GATEWAY_TOKENS_OUTSTANDING: response.token_open,
        names.GATEWAY_CONTRADICTIONS: counts.contradictions,
        names.GATEWAY_JOINED: counts.joined,
        names.GATEWAY_SYNTHESISED: response.synthesised,
    }
    return {
        names.GENAI_FIRST_CHUNK: None if first is None else first - response.created_at,
        names.GATEWAY_ENDING: response.ending,
        names.GATEWAY_SOURCE: response.ended_by,
        names.GATEWAY_FOLLOWED: response.mode_now,
        names.GATEWAY_QUEUE_SECONDS: (response.started_at or 0) - response.created_at if was_queued else None,
        **{name: value for name, value in happened.items() if value},
    }
