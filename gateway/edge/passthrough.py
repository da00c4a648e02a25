"""Pass-through: a client's request to upstream as it came, upstream's answer back as it comes. Nothing is buffered.

Rule: what one side sends is what the other gets, less what `domain.headers` takes out. An answer that breaks off
upstream breaks off at the client as well: the connection is aborted, the body never ends cleanly.
`forward` does the whole job; its parts (`upstream_headers`, `relay`, `write`, `abort`) serve the edge's other handlers.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable
from functools import partial

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http import SERVER_SOFTWARE
from multidict import CIMultiDict

from gateway.domain.errors import Origin, UpstreamError
from gateway.domain.headers import CREDENTIALS, Headers, to_client, to_upstream
from gateway.edge.context import Context
from gateway.relay import routing
from gateway.relay.routing import Target
from gateway.relay.upstream import Answer, Call

_WRITE_BYTES = 64 * 1024
_SET_BY_AIOHTTP = (hdrs.CONTENT_TYPE, hdrs.DATE, hdrs.SERVER)
_NOT_SENT = web.ResponseKey("not_sent", list)
"""What aiohttp would add to upstream's answer."""
_SENT_BYTES = web.ResponseKey("sent_bytes", int)
RECEIVED_BYTES = web.RequestKey("received_bytes", int)
"""What came on an upgraded connection, besides the request's body."""
BROKEN_BY: web.RequestKey[Origin] = web.RequestKey("broken_by")
"""Who broke off an answer that had begun well."""
# So that proxies between gateway and client hand each event on at once, and unchanged.
_STREAM_HEADERS: Headers = [("Cache-Control", "no-cache, no-transform"), ("X-Accel-Buffering", "no")]
_REPLACED_ON_STREAMS = frozenset(name.lower() for name, _ in _STREAM_HEADERS)
_RESET = struct.pack("ii", 1, 0)


async def forward(
    context: Context,
    request: web.Request,
    target: Target,
    *,
    body: bytes | None = None,
    drop: frozenset[str] = frozenset(),
    add: Iterable[tuple[str, str]] = (),
) -> web.StreamResponse:
    """Send a client's request upstream and its answer back.

    `body` is the request's body where it has been read already, else it is streamed. `drop` (lower case) and `add` are
    headers towards upstream. Raises what `Upstream.send` raises, and aiohttp's RequestPayloadError.
    """
    call = Call(
        request.method,
        routing.url(context.route, target.path, target.query),
        [*upstream_headers(context, request, drop=drop), *add],
        body if body is not None else request.content.iter_any() if request.body_exists else None,
    )
    try:
        answer = await context.upstream.send(call)
    except UpstreamError as error:
        if isinstance(broken := request.content.exception(), web.RequestPayloadError):
            raise broken from error
        raise
    return await relay(context, request, answer)


async def relay(
    context: Context, request: web.Request, answer: Answer, *, headers: Headers | None = None
) -> web.StreamResponse:
    """Give upstream's answer to the client as it comes; `headers` (default: upstream's) are sent exactly so.

    Closes the answer. Where either side breaks off, the client's connection is aborted.
    """
    passed = client_headers(answer) if headers is None else headers
    body = answer.at_hand(_WRITE_BYTES)
    response = as_sent(answer, passed, body)
    try:
        if body is not None:
            return await give(context, request, response)
        await response.prepare(request)
        while chunk := await answer.chunk():
            await write(response, chunk, context.settings.write_timeout_s)
        await response.write_eof()
    except UpstreamError as error:
        request[BROKEN_BY] = error.origin
        abort(request, flush_s=context.settings.write_timeout_s)
    except OSError:
        abort(request)
    finally:
        answer.close()
    return response


async def give(context: Context, request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
    """Write a whole answer now, not when the handler has returned. A client that takes nothing is cut off."""
    try:
        async with asyncio.timeout(context.settings.write_timeout_s):
            await answer.prepare(request)
            await answer.write_eof()
    except TimeoutError:
        abort(request)
    return answer


def as_sent(answer: Answer, headers: Headers, body: bytes | None = None) -> web.StreamResponse:
    """A response with upstream's status and reason and these headers, to which the server adds none of its own.

    `body`: the whole of it, where it is written in one piece.
    """
    whole, passed = web.StreamResponse if body is None else partial(web.Response, body=body), CIMultiDict(headers)
    response: web.StreamResponse = whole(status=answer.status, reason=answer.reason, headers=passed)
    response[_NOT_SENT] = [name for name in _SET_BY_AIOHTTP if name not in passed]
    return response


async def settle_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Take out what aiohttp adds to an answer. To be called before headers are written."""
    if request.version < HttpVersion11 and hdrs.CONTENT_LENGTH not in response.headers:
        # Only the end of the connection tells the end of the body.
        response.force_close()
    if (added := response.get(_NOT_SENT)) is None:
        added = [hdrs.SERVER] if response.headers.get(hdrs.SERVER) == SERVER_SOFTWARE else []
    for name in added:
        response.headers.popall(name, None)


def received(request: web.Request) -> Headers:
    """The request's headers as sent: order, case and repetition."""
    return [(name.decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in request.raw_headers]


def upstream_headers(context: Context, request: web.Request, *, drop: frozenset[str] = frozenset()) -> Headers:
    """The client's headers as upstream gets them; where the gateway holds a credential, that one instead."""
    own = context.route.credential
    passed = to_upstream(received(request), drop=drop if own is None else drop | CREDENTIALS)
    # aiohttp's client takes names that differ in case for different ones, of which the last replaces the others.
    spelling: dict[str, str] = {}
    return [(spelling.setdefault(name.lower(), name), value) for name, value in [*passed, *(own or ())]]


def client_headers(answer: Answer) -> Headers:
    """Upstream's headers as the client gets them."""
    if not answer.is_event_stream:
        return to_client(answer.headers)
    return [*to_client(answer.headers, drop=_REPLACED_ON_STREAMS), *_STREAM_HEADERS]


async def write(response: web.StreamResponse, data: bytes, timeout_s: float) -> None:
    """Write part of a body. Raises TimeoutError when the client takes nothing for `timeout_s`, ConnectionError."""
    response[_SENT_BYTES] = response.get(_SENT_BYTES, 0) + len(data)
    for start in range(0, len(data), _WRITE_BYTES):
        async with asyncio.timeout(timeout_s):
            await response.write(data[start : start + _WRITE_BYTES] if len(data) > _WRITE_BYTES else data)


def sent_bytes(response: web.StreamResponse) -> int:
    """The bytes of an answer's body: what was written of it, or what it is in one piece."""
    if isinstance(response, web.Response) and isinstance(response.body, bytes):
        return len(response.body)
    written: int = response.get(_SENT_BYTES, 0)
    return written


def received_bytes(request: web.Request) -> int:
    """The bytes of a request's body that have come."""
    upgraded: int = request.get(RECEIVED_BYTES, 0)
    return request.content.total_bytes + upgraded


def abort(request: web.Request, *, flush_s: float = 0.0) -> None:
    """Break the client's connection off: no reader can take that for the end of the body.

    What was written already still gets `flush_s` to arrive.
    """
    transport = request.transport
    if transport is None:
        return
    if request.version < HttpVersion11:
        # There the end of the connection may be the end of the body, so it has to be a reset.
        with contextlib.suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    elif flush_s:
        transport.close()
        asyncio.get_running_loop().call_later(flush_s, transport.abort)
        return
    transport.abort()
