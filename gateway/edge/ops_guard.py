"""Who may ask on the operators' listener, and how it refuses: one middleware around all of it.

A token, where one is set, for everything but the probes. A browser on this machine is no operator: a page that it shows
may not reach the listener under a name of the page's own (`Host`, against DNS rebinding), nor from another origin.
"""

import hmac
import logging
from collections.abc import Callable

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from gateway.config import Address, Settings
from gateway.domain.errors import BadRequest, GatewayError, NotFound
from gateway.edge.middleware import error_answer

log = logging.getLogger("gateway")

PROBES = frozenset({"/healthz", "/readyz"})
"""Open without a token: whoever restarts processes has none."""


class NoToken(GatewayError):
    """The operators' token is missing or wrong."""

    status, type, code, origin = 401, "authentication_error", "invalid_ops_token", "client"


class Foreign(GatewayError):
    """The request comes from a web page that has no business here."""

    status, type, code, origin = 403, "permission_error", "forbidden", "client"


class _NotAllowed(BadRequest):
    status, code = 405, "method_not_allowed"


def guard(settings: Settings) -> Middleware:
    """The middleware: checks, then the handler; errors in OpenAI's shape."""
    check = _check(settings)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            check(request)
            return await handler(request)
        except GatewayError as error:
            refusal = error
        except web.HTTPMethodNotAllowed as error:
            refusal = _NotAllowed(
                f"{request.path} takes {' or '.join(sorted(error.allowed_methods))}.",
                headers={"Allow": ", ".join(sorted(error.allowed_methods))},
            )
        except web.HTTPNotFound:
            refusal = NotFound(
                f"There is nothing at {request.path}. Here are /healthz, /readyz, /statusz, /metrics, /responses, "
                "and for clients, on the other listener, /v1."
            )
        except ConnectionError:
            raise
        except Exception:
            log.exception("unexpected error")
            refusal = GatewayError("The gateway failed; see its log.")
        answer = error_answer(refusal.status, refusal.body(), refusal.code)
        answer.headers.update(refusal.headers)
        return answer

    return middleware


def _check(settings: Settings) -> Callable[[web.Request], None]:
    secret = settings.ops_token
    expected = None if secret is None else f"bearer {secret.get_secret_value()}".encode()

    def check(request: web.Request) -> None:
        host = request.headers.get(hdrs.HOST)
        # No browser leaves Host out; some probes do.
        if settings.ops_listen.is_loopback and host is not None and not _is_ours(host, settings.ops_listen):
            raise Foreign(f"The operators' address is not known as {host}; use {settings.ops_listen}.")
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and origin.rpartition("://")[2] != host:
            raise Foreign("Web pages of another origin are not served.")
        if expected is None or request.path in PROBES:
            return
        scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        shown = f"{scheme.lower()} {token.strip()}".encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(shown, expected):
            raise NoToken(
                "Send the operators' token (ops_token) as 'Authorization: Bearer TOKEN'.",
                headers={hdrs.WWW_AUTHENTICATE: "Bearer"},
            )

    return check


def _is_ours(host: str, listen: Address) -> bool:
    """Whether a Host header names this machine's loopback, or the address that was set."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    name = name.strip("[]").lower()
    return name == listen.host.lower() or Address(name, 0).is_loopback
