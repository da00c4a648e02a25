"""Cross-origin requests: which web pages may read what this gateway answers, by the setting `cors_origins`.

Rule: while the setting is empty no answer is touched, and what upstream says about CORS passes. Once it is set, the
gateway alone decides, on every path: it answers preflights, and its headers replace upstream's. Credentials mode
(cookies) is not offered: a credential is a header that the page sets, or a ticket. Called by `edge.server`.
Source: Fetch Standard, section 3.3.
"""

from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from gateway.domain.errors import OriginNotAllowed
from gateway.edge.context import Context

ANY = "*"
_OF_CORS = "access-control-"
_PREFLIGHT = {
    # The wildcard stands for every header but this one.
    "Access-Control-Allow-Headers": "Authorization, *",
    "Access-Control-Allow-Methods": "*",
    "Access-Control-Max-Age": "600",
}


def answer_preflight(context: Context, request: web.Request) -> web.Response | None:
    """The answer to a preflight; None: the request is none, or one for upstream.

    Raises `OriginNotAllowed` for a page that may not make the request. Simple requests come without a preflight, so
    where the gateway holds the credential, which any page could spend, that goes for all of them.
    """
    origin, allowed = request.headers.get(hdrs.ORIGIN), context.settings.cors_origins
    answered_here = _is_preflight(request) and bool(allowed)
    if origin is None or not (answered_here or context.route.credential is not None):
        return None
    if ANY not in allowed and origin not in allowed:
        raise OriginNotAllowed(f"Web pages of {origin} may not use this gateway; cors_origins names those that may.")
    return web.Response(status=204) if answered_here else None


def dressing(context: Context) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """What puts the headers on an answer; to be called before headers are written."""
    allowed = context.settings.cors_origins

    async def dress(request: web.Request, response: web.StreamResponse) -> None:
        if not allowed:
            return
        headers, origin = response.headers, request.headers.get(hdrs.ORIGIN, "")
        for name in {name for name in headers if name.lower().startswith(_OF_CORS)}:
            headers.popall(name, None)
        if ANY not in allowed:
            headers.add(hdrs.VARY, hdrs.ORIGIN)
            if origin not in allowed:
                return
        headers["Access-Control-Allow-Origin"] = ANY if ANY in allowed else origin
        headers["Access-Control-Expose-Headers"] = ANY
        if _is_preflight(request):
            headers.update(_PREFLIGHT)

    return dress


def _is_preflight(request: web.Request) -> bool:
    return request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
