"""One middleware around every request of a client: errors become answers, answers become facts.

Rule: what the gateway itself refuses is raised, as a `GatewayError`; what a handler returns with a status of 400 or
more is upstream's answer. A client gets errors in OpenAI's shape, never a traceback. Called by `edge.server`.
"""

import logging
import random
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from gateway.domain.errors import CLIENT_LEFT, BadRequest, Draining, GatewayError, Origin, error_body, origin_of
from gateway.domain.facts import ClientPolled, Detached, RequestServed
from gateway.domain.identifiers import OTHER_METHOD, known_method
from gateway.domain.response import Caller, Response
from gateway.edge.context import Context
from gateway.edge.passthrough import BROKEN_BY, abort, received_bytes, sent_bytes
from gateway.relay.routing import Kind, Target

log = logging.getLogger("gateway")

_EVENT_STREAM = "text/event-stream"


class Begun(NamedTuple):
    """An answer whose headers went out at `at` (unix seconds)."""

    at: float
    response: web.StreamResponse


REQUEST_ID = web.RequestKey("request_id", str)
"""The gateway's own name for the request. Never what a client calls it: that could be a secret, or somebody else's."""
TARGET = web.RequestKey("target", Target)
"""Where the request goes, once that is known."""
ABOUT = web.RequestKey("about", Response)
"""The response that the request is about, once that is known."""
DETAIL: web.RequestKey[ClientPolled | Detached] = web.RequestKey("detail")
"""What was told of that response, besides that a request for it was served."""
_BEGUN = web.RequestKey("begun", Begun)


def around(context: Context) -> Middleware:
    """The middleware."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = context.clock()
        request[REQUEST_ID] = new_name()
        response: web.StreamResponse | None = None
        origin: Origin | None = "client"
        try:
            with context.in_flight:
                response, origin = await _answer(context, request, handler)
            return response
        finally:
            _observe(context, request, response, began, origin)

    return middleware


def noting(context: Context) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """What notes that an answer begins, and names its request; to be called before headers are written."""

    async def note(request: web.Request, response: web.StreamResponse) -> None:
        request[_BEGUN] = Begun(context.clock(), response)
        name_request(response, request[REQUEST_ID])

    return note


def malformed(context: Context) -> Callable[[web.StreamResponse], None]:
    """What counts a request that the HTTP parser refused, by its answer, and names it."""

    def count(response: web.StreamResponse) -> None:
        request_id = new_name()
        name_request(response, request_id)
        served = RequestServed(
            context.clock(), OTHER_METHOD, Kind.OTHER, response.status, "client", 0.0, 0.0, request_id=request_id
        )
        context.telemetry.emit([served])

    return count


def new_name() -> str:
    """The gateway's own name for a request, or a response's record: 32 hexadecimal digits."""
    return f"{random.getrandbits(128):032x}"


def name_request(response: web.StreamResponse, request_id: str) -> None:
    """Show the client what its request is called in the logs."""
    response.headers["x-gateway-request-id"] = request_id


def error_answer(status: int, body: bytes, code: str | None) -> web.Response:
    """An answer of the gateway's own."""
    response = web.Response(status=status, body=body, content_type="application/json")
    response.headers["Server"] = "responses-gateway"
    if code is not None:
        response.headers["x-gateway-error"] = code
    return response


async def _answer(context: Context, request: web.Request, handler: Handler) -> tuple[web.StreamResponse, Origin | None]:
    try:
        if context.readiness.refusing:
            raise Draining("The gateway is shutting down; try again.", headers={"Retry-After": "1"})
        response = await handler(request)
        return response, _blamed(context, request, response)
    except GatewayError as error:
        answer = error_answer(error.status, error.body(), error.code)
        answer.headers.update(error.headers)
        if isinstance(error, Draining):
            answer.force_close()
        origin = error.origin
    except web.HTTPException as error:
        answer = error_answer(
            error.status, error_body(error.reason, type="invalid_request_error", code="invalid_request"), None
        )
        origin = "client"
    except web.RequestPayloadError:
        refusal = BadRequest("The request's body is no valid HTTP.")
        answer, origin = error_answer(refusal.status, refusal.body(), refusal.code), refusal.origin
    except ConnectionError:
        # The client's: upstream's are GatewayErrors by now.
        answer, origin = web.Response(status=CLIENT_LEFT), "client"
    except Exception:
        log.exception("unexpected error", extra={"request_id": request[REQUEST_ID], "response": request.get(ABOUT)})
        code = GatewayError.code
        answer = error_answer(500, error_body("The gateway failed; see its log.", type="server_error", code=code), code)
        origin = "gateway"
    if (begun := request.get(_BEGUN)) is not None:
        # It is too late for another answer: what has begun must not end as if it were whole.
        abort(request)
        return begun.response, origin
    return answer, origin


def _blamed(context: Context, request: web.Request, response: web.StreamResponse) -> Origin | None:
    """Who is to blame for what a handler made of upstream's answer; what it raised says that of itself."""
    if response.status >= 400:
        return origin_of(status=response.status, own_credential=context.route.credential is not None)
    return request.get(BROKEN_BY)


def _observe(
    context: Context, request: web.Request, response: web.StreamResponse | None, began: float, origin: Origin | None
) -> None:
    """Tell of a request. `response` None: its client left before the end, perhaps before the answer began."""
    now, begun = context.clock(), request.get(_BEGUN)
    status = CLIENT_LEFT if response is None else response.status
    if begun is not None and status == CLIENT_LEFT:
        response, status, origin = begun.response, begun.response.status, None
    target, about = request.get(TARGET), request.get(ABOUT)
    # The span of a create is told when upstream has answered.
    asked = about is not None and target is not None and target.kind is not Kind.CREATE
    context.telemetry.emit(
        [
            RequestServed(
                at=now,
                method=known_method(request.method),
                route=Kind.OTHER if target is None else target.kind,
                status=status,
                origin=origin,
                seconds=(begun.at if begun is not None else now) - began,
                lifetime=now - began,
                streamed=begun is not None and _is_event_stream(begun.response),
                received_bytes=received_bytes(request),
                sent_bytes=0 if response is None else sent_bytes(response),
                request_id=request[REQUEST_ID],
                response=about,
                detail=request.get(DETAIL),
                path=request.rel_url.raw_path,
                caller=_caller(context, request) if asked else None,
            )
        ]
    )


def _is_event_stream(response: web.StreamResponse) -> bool:
    return response.headers.get("Content-Type", "").lower().startswith(_EVENT_STREAM)


def _caller(context: Context, request: web.Request) -> Caller | None:
    return context.tracing.heard(request.headers.get("traceparent"), request.headers.get("tracestate"))
