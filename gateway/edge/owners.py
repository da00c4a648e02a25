"""Who owns a response: a keyed hash of route, credential, organisation and project. Only owners are shown it."""

from aiohttp import hdrs, web

from gateway.domain import mode
from gateway.domain.continuation import parse_token
from gateway.domain.digest import digest
from gateway.domain.errors import BadRequest, ResponseNotFound, StoreUnavailable
from gateway.domain.headers import CALLER, Headers
from gateway.domain.mode import Asked
from gateway.domain.response import Response
from gateway.edge.context import Context
from gateway.edge.middleware import ABOUT
from gateway.edge.passthrough import received


def owner_of(owner_key: bytes, route: str, headers: Headers) -> str:
    """The owner that a request's headers make: hexadecimal, without a way back to the credential."""
    named = sorted((name.lower(), value) for name, value in headers if name.lower() in CALLER)
    parts = (route, *(part for pair in named for part in pair))
    return digest(owner_key, *(part.encode("utf-8", "surrogateescape") for part in parts))


def caller(context: Context, request: web.Request) -> str:
    """The owner that makes this request."""
    return owner_of(context.store.owner_key, context.route.name, received(request))


async def owned(context: Context, request: web.Request, response_id: str | None) -> Response | None:
    """The caller's own response of this id, if the store knows it.

    Where the gateway holds the credential, upstream cannot tell callers apart: an id that is not the caller's is then
    a `ResponseNotFound`, and a store that cannot be asked a `StoreUnavailable`, as it is for a stream, which only the
    log can go on with. Else both come back as None: upstream, asked with the caller's own credential, decides.
    """
    if response_id is None:
        return None
    try:
        found = await context.tracker.find(response_id, caller(context, request))
    except StoreUnavailable as error:
        if context.route.credential is not None or asks_for_stream(request):
            error.headers = {"Retry-After": "2"}
            raise
        return None
    if found is None and context.route.credential is not None:
        raise ResponseNotFound(f"Response with id '{response_id}' not found.")
    if found is not None:
        request[ABOUT] = found
    return found


def asks_for_stream(request: web.Request) -> bool:
    """The request retrieves a stream."""
    return request.method == "GET" and request.query.get("stream", "").lower() == "true"


def read_reference(context: Context, request: web.Request, body: bytes) -> Asked | None:
    """What a body asks for; None where it cannot be read: upstream decides.

    Where the gateway holds the credential, that is a `BadRequest`: whose response it refers to could not be checked.
    """
    asked = None if request.headers.get(hdrs.CONTENT_ENCODING) else mode.read(body)
    if asked is None and context.route.credential is not None:
        raise BadRequest(
            "The body is not plain JSON of a known form, so what it refers to cannot be checked; "
            "this gateway sends its own credential upstream and must know."
        )
    return asked


async def require_owner(context: Context, request: web.Request, reference: str | None) -> None:
    """Where the gateway holds the credential, a response that a body refers to must be the caller's.

    Raises `ResponseNotFound`.
    """
    if reference is not None and context.route.credential is not None:
        await owned(context, request, parse_token(reference).response_id)
