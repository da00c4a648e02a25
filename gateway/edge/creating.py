"""The create of a response: recorded, then made upstream, then answered from what upstream's answer is.

A create that cannot be read, or recorded while the store is down, is passed through untracked: upstream decides.
"""

import asyncio
import contextlib

from aiohttp import web

from gateway.domain import content, mode
from gateway.domain.attempt import Attempt, attempt_of
from gateway.domain.continuation import Cursor, CursorForm, parse_token
from gateway.domain.errors import OutcomeUnknown, StoreUnavailable, UpstreamCut
from gateway.domain.facts import Detached, StoreFailed, Untracked
from gateway.domain.headers import BETA, Headers, beta, credential
from gateway.domain.identifiers import identifier, product
from gateway.domain.mode import Asked, Mode
from gateway.domain.response import Response
from gateway.edge import polling, preferences, stream
from gateway.edge.bodies import read_body, whole
from gateway.edge.context import Context
from gateway.edge.delivery import watched
from gateway.edge.middleware import ABOUT, DETAIL, REQUEST_ID, new_name
from gateway.edge.owners import owner_of, read_reference, require_owner
from gateway.edge.passthrough import client_headers, forward, give, received, relay, upstream_headers
from gateway.relay.attempts import Begun
from gateway.relay.creation import Head
from gateway.relay.live import Live
from gateway.relay.routing import Target, url
from gateway.relay.upstream import Call

_FROM_START = Cursor(-1, CursorForm.NONE, preamble=False, event_source=False)
_IDENTITY = ("Accept-Encoding", "identity")
_TRACKING_OFF = ("x-gateway-tracking", "off")
_DROPPED = frozenset({"content-length", "accept-encoding"})
_OWN_TRACE = frozenset({"traceparent", "tracestate"})


async def create(context: Context, request: web.Request, target: Target) -> web.StreamResponse:
    """Answer a `POST /responses`. Raises the errors of the body, of upstream and of the gateway's limits."""
    body = await read_body(request, context.settings.body_limit_bytes)
    asked = read_reference(context, request, body)
    if asked is None:
        context.telemetry.emit([Untracked(context.clock(), "not_json")])
        return await forward(context, request, target, body=body)
    await require_owner(context, request, asked.previous_response_id)
    response = await _for_spans(context, body, new_response(context, request, target, asked))
    request[ABOUT] = response
    call = _call(context, request, target, response, mode.without_cursor(body, asked))
    words = (request.method, target.path, target.query)
    attempt = attempt_of(
        context.store.owner_key, response.owner, words, received(request), body, at=response.created_at
    )
    try:
        begun = await context.tracker.create(response, attempt, call, credential(call.headers))
    except StoreUnavailable as error:
        return await _untracked(context, request, call, response.mode, attempt, error)
    live, told = begun.live, False
    try:
        with watched(context, request, begun):
            made = await _answered(context, request, begun)
        read = request.get(DETAIL)
        told = not isinstance(read, Detached) or read.how == "end"
        return made
    finally:
        request[ABOUT] = live.response
        context.outbox.answered(live.key, told=told)


async def _answered(context: Context, request: web.Request, begun: Begun) -> web.StreamResponse:
    live = begun.live
    preferred = preferences.read(request)
    lingers = _lingers(context, live, preferred.linger_s)
    async with context.tracker.reading(live.key):
        answer = await asyncio.shield(begun.answer)
        if answer.rest is not None:
            if not answer.rest.take():
                raise OutcomeUnknown("Upstream's answer is too large to be given to more than one.")
            return await relay(context, request, answer.rest)
        as_stream = live.response.mode is not Mode.BACKGROUND or context.settings.background_tracking != "stream"
        if not answer.follow or not as_stream:
            return await give(context, request, await _object(context, live, answer, preferred.wait_s))
        return await stream.serve(
            context,
            request,
            live.response,
            _FROM_START,
            kind="replay" if begun.joined else "first",
            headers=[*answer.headers, *lingers],
            status=answer.status,
            reason=answer.reason,
        )


def new_response(
    context: Context, request: web.Request, target: Target, asked: Asked, *, own_trace: bool = False
) -> Response:
    """The response that a request asks for, as it is before upstream is called.

    `own_trace`: it is in no caller's, as the request asks for many.
    """
    now = context.clock()
    trace = context.tracing.draw(
        None if own_trace else request.headers.get("traceparent"),
        None if own_trace else request.headers.get("tracestate"),
    )
    previous = asked.previous_response_id
    return Response(
        key=new_name(),
        route=context.route.name,
        owner=owner_of(context.store.owner_key, context.route.name, received(request)),
        mode=asked.mode,
        created_at=now,
        trace=trace,
        path=target.path.rstrip("/"),
        query=target.query,
        beta=beta(request.headers.getall(BETA, ())),
        model_asked=asked.model,
        previous_response_id=identifier(parse_token(previous).response_id) if previous else None,
        conversation=asked.conversation,
        parameters=asked.parameters,
        stored=asked.store is not False,
        background=asked.mode.background,
        status_at=now,
        progress_at=now,
        request_id=request[REQUEST_ID],
        client_path=request.rel_url.raw_path,
        user_agent=product(request.headers.get("User-Agent")),
    )


async def _for_spans(context: Context, body: bytes, response: Response) -> Response:
    """With what only spans need: what was said, and where the response which this one goes on from was traced."""
    settings, previous = context.settings, None
    if not response.trace.sampled or (response.previous_response_id is None and not settings.capture_content):
        return response
    if response.previous_response_id is not None:
        with contextlib.suppress(StoreUnavailable):
            previous = await context.tracker.find(response.previous_response_id, response.owner)
    return response.but(
        content=content.asked(body, settings.capture_limit_bytes) if settings.capture_content else None,
        previous_trace=previous.trace if previous is not None and previous.trace.sampled else None,
    )


def _call(context: Context, request: web.Request, target: Target, response: Response, body: bytes) -> Call:
    headers = [*upstream_headers(context, request, drop=_DROPPED), _IDENTITY]
    if context.settings.trace_propagation:
        headers = [(name, value) for name, value in headers if name.lower() not in _OWN_TRACE]
        headers.append(("traceparent", context.tracing.traceparent(response.trace)))
        if response.trace.state:
            headers.append(("tracestate", response.trace.state))
    return Call(request.method, url(context.route, target.path, target.query), headers, body)


async def _untracked(
    context: Context, request: web.Request, call: Call, asked: Mode, attempt: Attempt, error: StoreUnavailable
) -> web.StreamResponse:
    """The store is down: straight through, or not at all, as `on_store_failure` says.

    What may be the retry of a create in hand is not sent: it would be paid for twice.
    """
    at = context.clock()
    context.telemetry.emit([StoreFailed(at, "create", error.message)])
    if context.settings.on_store_failure == "refuse" or context.tracker.attempts.in_hand(attempt):
        raise StoreUnavailable(
            "The store is not available, so the response could not be tracked; try again.",
            headers={"Retry-After": "2"},
        ) from error
    context.telemetry.emit([Untracked(at, "store", asked)])
    answer = await context.upstream.send(call)
    return await relay(context, request, answer, headers=[*client_headers(answer), _TRACKING_OFF])


async def _object(context: Context, live: Live, answer: Head, wait_s: float | None) -> web.StreamResponse:
    """A create that is answered with a response object, or what upstream says instead of one."""
    headers, body = answer.headers, answer.body
    if answer.follow:
        headers, body = _json(answer), await _first_object(live)
        first = Head(answer.status, answer.reason, headers, body)
        context.tracker.attempts.answers.keep(live.key, first)
    settings, response = context.settings, live.response
    held_s = settings.create_wait_s if wait_s is None else min(wait_s, settings.create_wait_max_s)
    if response.mode is Mode.BACKGROUND and response.response_id is not None and (held_s or wait_s is not None):
        await polling.hold(context, live, held_s, over=lambda response: response.terminal)
        body = (live.body and live.body.bytes) or body
        if wait_s is not None:
            headers = [*headers, preferences.granted("wait", held_s)]
    made = whole(answer.status, headers, body, reason=answer.reason)
    polling.issue_token(context, live, made)
    if live.response.terminal:
        context.tracker.picked_up(live.response, "poll")
    return made


async def _first_object(live: Live) -> bytes:
    """The first response object in the stream by which a background response is tracked."""
    while not (live.body and live.body.bytes) and not live.response.ended:
        await live.change()
    if live.body is None or not live.body.bytes:
        message = "Upstream's stream broke before it named the response; whether it runs is not known."
        raise UpstreamCut(message, headers={"x-should-retry": "false"})
    return live.body.bytes


def _json(answer: Head) -> Headers:
    kept = [
        (name, value) for name, value in answer.headers if name.lower() not in stream.OF_THE_BODY | {"content-type"}
    ]
    return [*kept, ("Content-Type", "application/json")]


def _lingers(context: Context, live: Live, asked_s: float | None) -> Headers:
    """Have a foreground response go on for as long as its client asks for, once it has left."""
    if asked_s is None or live.response.mode.background:
        return []
    live.linger_s = min(asked_s, context.settings.linger_max_s)
    return [preferences.granted("linger", live.linger_s)]
