"""What can go wrong, as one tree: each error knows its HTTP status, its code and what to do about it.

Raised anywhere, turned into an answer at the edge only. The body is OpenAI's error shape.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import msgspec

Origin = Literal["client", "gateway", "upstream", "store"]
"""Who is to blame."""
CLIENT_LEFT = 499
"""What nginx notes, in place of a status, where the client left before it was answered."""

# What the one who asked can mend: the prompt, what is in it, or the account that pays for it.
# Source: the `code` of a response's `error`, and codes that are reported besides.
_CLIENTS_CODES = frozenset(
    {
        "bio_policy",
        "content_filter",
        "context_length_exceeded",
        "credit_balance_exhausted",
        "cyber_policy",
        "data_residency_mismatch",
        "empty_image_file",
        "failed_to_download_image",
        "insufficient_quota",
        "misalignment_policy_violation",
    }
)
_CLIENTS_BEGINNINGS = ("invalid_", "image_", "unsupported_", "content_policy")
# Upstream's own limits, and what it was too slow or too busy for.
_UPSTREAMS_STATUSES = frozenset({408, 409, 425, 429})
_CREDENTIAL_STATUSES = frozenset({401, 403, 407})


def origin_of(*, status: int | None = None, code: str | None = None, own_credential: bool = False) -> Origin:
    """Who is to blame for what upstream refused (HTTP `status`) or did not bring to an end (`code` of its error).

    `own_credential`: the gateway's was used, so that a refused one is not the client's fault.
    """
    if status is None:
        clients = code is not None and (code in _CLIENTS_CODES or code.startswith(_CLIENTS_BEGINNINGS))
        return "client" if clients else "upstream"
    if status in _CREDENTIAL_STATUSES and own_credential:
        return "gateway"
    return "upstream" if status >= 500 or status in _UPSTREAMS_STATUSES else "client"


def error_body(message: str, *, type: str, code: str | None, param: str | None = None) -> bytes:
    """OpenAI's error shape: `{"error": {"message", "type", "param", "code"}}`, as JSON bytes."""
    return msgspec.json.encode({"error": {"message": message, "type": type, "param": param, "code": code}})


class GatewayError(Exception):
    """An error that the gateway itself answers with.

    `message` says what to do; `param` names the field at fault; `headers` are added to the answer.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "gateway_error"
    origin: ClassVar[Origin] = "gateway"

    def __init__(self, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers: Mapping[str, str] = headers or {}

    def body(self) -> bytes:
        """The answer's body in OpenAI's error shape."""
        return error_body(self.message, type=self.type, code=self.code, param=self.param)


class BadRequest(GatewayError):
    """The request cannot be understood."""

    status, type, code, origin = 400, "invalid_request_error", "invalid_request", "client"


class InvalidCursor(BadRequest):
    """A cursor that is no sequence number."""

    code = "invalid_cursor"


class PathNotAllowed(BadRequest):
    """A path that could leave upstream's base path."""

    code = "invalid_path"


class NotFound(GatewayError):
    """There is nothing here."""

    status, type, code, origin = 404, "invalid_request_error", "not_found", "client"


class ResponseNotFound(NotFound):
    """No response of this id belongs to this caller."""

    code = "response_not_found"


class StreamExpired(NotFound):
    """The response was streamed, but its events are past their retention."""

    code = "stream_expired"


class IdempotencyKeyReused(GatewayError):
    """The `Idempotency-Key` is that of another create."""

    status, type, code, origin = 422, "invalid_request_error", "idempotency_key_reused", "client"


class BodyTooLarge(GatewayError):
    """The request's body is over the limit."""

    status, type, code, origin = 413, "invalid_request_error", "body_too_large", "client"


class HeadersTooLarge(GatewayError):
    """The request's head is over the limit."""

    status, type, code, origin = 431, "invalid_request_error", "headers_too_large", "client"


class WebSocketRefused(GatewayError):
    """WebSockets are not served while the gateway holds the credential."""

    status, type, code, origin = 403, "invalid_request_error", "websocket_not_allowed", "client"


class OriginNotAllowed(GatewayError):
    """A web page of an origin that may not use this gateway."""

    status, type, code, origin = 403, "permission_error", "origin_not_allowed", "client"


class TicketRefused(GatewayError):
    """A ticket that is none, or is not good for this request."""

    status, type, code, origin = 401, "authentication_error", "invalid_ticket", "client"


class TicketExpired(TicketRefused):
    """A ticket that was good for this request."""

    code = "ticket_expired"


class WaitsForOwner(GatewayError):
    """The gateway holds no credential to speak to upstream about this response."""

    status, type, code, origin = 409, "invalid_request_error", "waiting_for_owner", "client"


class UpstreamError(GatewayError):
    """Upstream did not answer as a server would."""

    status, code, origin = 502, "upstream_error", "upstream"


class UpstreamUnreachable(UpstreamError):
    """No connection to upstream: the request was not sent, so a retry cannot pay twice."""

    code = "upstream_unreachable"


class UpstreamTimeout(UpstreamError):
    """Upstream did not answer in time."""

    status, code = 504, "upstream_timeout"


class UpstreamCut(UpstreamError):
    """Upstream's connection broke before the answer was whole."""

    code = "upstream_lost"


class OutcomeUnknown(GatewayError):
    """A create was sent, and nobody can tell what came of it, or give its answer: sent again, it might pay twice."""

    status, code = 502, "outcome_unknown"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"x-should-retry": "false"})


class Overloaded(GatewayError):
    """A limit of the gateway is reached."""

    status, code = 503, "gateway_overloaded"


class Draining(GatewayError):
    """The gateway is shutting down; another one takes over."""

    status, code = 503, "gateway_draining"


class StoreUnavailable(GatewayError):
    """The store cannot be written or read just now; nothing was changed."""

    status, code, origin = 503, "store_unavailable", "store"
