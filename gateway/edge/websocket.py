"""WebSockets: a client's upgrade is passed on, and from then on bytes go both ways as they are.

Rule: what passes is not parsed, so that sub-protocols, compression, pings, fragments, sizes, close codes and reasons
are those of the two ends. On the way to responses an observer reads a copy along. Called by `edge.server`.
Source: RFC 6455.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any, cast

import aiohttp
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http import StreamWriter
from multidict import CIMultiDict

from gateway.domain.errors import UpstreamCut, UpstreamError, UpstreamTimeout, UpstreamUnreachable, WebSocketRefused
from gateway.domain.headers import Headers
from gateway.domain.websocket import Conversation, Side
from gateway.edge.context import Context
from gateway.edge.creating import new_response
from gateway.edge.passthrough import RECEIVED_BYTES, abort, as_sent, client_headers, relay, upstream_headers, write
from gateway.edge.websocket_observer import Observer
from gateway.relay import routing
from gateway.relay.routing import Kind, Target
from gateway.relay.upstream import Answer

_BUFFER_BYTES = 64 * 1024
_UPGRADE: Headers = [("Connection", "Upgrade"), ("Upgrade", "websocket")]


def is_upgrade(request: web.Request) -> bool:
    """The request opens a WebSocket."""
    tokens = {token.strip().lower() for token in ",".join(request.headers.getall(hdrs.CONNECTION, ())).split(",")}
    return (
        request.method == hdrs.METH_GET
        and request.version >= HttpVersion11
        and request.headers.get(hdrs.UPGRADE, "").strip().lower() == "websocket"
        and "upgrade" in tokens
    )


async def tunnel(context: Context, request: web.Request, target: Target) -> web.StreamResponse:
    """Open the WebSocket upstream and join both ends until one of them closes.

    An upstream that does not upgrade has its answer passed to the client. Raises `WebSocketRefused`, `UpstreamError`.
    """
    if context.route.credential is not None:
        # A frame may name any response, and whose it is could not be checked.
        raise WebSocketRefused(
            "This gateway sends its own credential upstream and cannot check what WebSocket messages refer to; "
            "use HTTP requests."
        )
    upstream = await _handshake(context, request, target)
    answer = Answer(upstream, context.settings.upstream_idle_s)
    if answer.status != 101:
        return await relay(context, request, answer)
    try:
        if upstream.connection is None or upstream.connection.protocol is None:
            raise UpstreamError("Upstream answered 101 and did not switch protocols.")
        response = as_sent(answer, [*client_headers(answer), *_UPGRADE])
        response.force_close()
        await response.prepare(request)
        if target.kind is Kind.CREATE:
            await _observed(context, request, target, answer, response, upstream.connection.protocol)
        else:
            await _join(context, request, response, upstream.connection.protocol, None)
        return response
    finally:
        upstream.close()


async def _observed(
    context: Context,
    request: web.Request,
    target: Target,
    answer: Answer,
    response: web.StreamResponse,
    connection: Any,
) -> None:
    """Join both ends while an observer reads along."""
    conversation = Conversation(functools.partial(new_response, context, request, target, own_trace=True))
    extensions = ",".join(value for name, value in answer.headers if name.lower() == "sec-websocket-extensions")
    observer = Observer(context, conversation, extensions)
    context.tracker.conversations.add(conversation)
    try:
        await _join(context, request, response, connection, observer)
    except asyncio.CancelledError:
        observer.left("gateway" if context.readiness.refusing else "client")
        raise
    finally:
        context.tracker.conversations.discard(conversation)
        observer.close()


async def _handshake(context: Context, request: web.Request, target: Target) -> aiohttp.ClientResponse:
    limit_s = context.settings.upstream_headers_s
    try:
        async with asyncio.timeout(limit_s):
            return await context.upstream.session.get(
                routing.url(context.route, target.path, target.query),
                headers=CIMultiDict([*upstream_headers(context, request), *_UPGRADE]),
                allow_redirects=False,
            )
    except aiohttp.ClientConnectorError as error:
        raise UpstreamUnreachable(f"No connection to {context.route.base.host}.") from error
    except TimeoutError as error:
        raise UpstreamTimeout(f"Upstream did not answer within {limit_s:g} s.") from error
    except (aiohttp.ClientError, OSError) as error:
        raise UpstreamCut("Upstream closed the connection without an answer.") from error


class _Incoming:
    """What aiohttp's connections, client's and server's, take for the parser of an upgraded connection.

    `reader` pauses the connection while it has more than enough.
    """

    def __init__(self, connection: Any) -> None:
        self.reader = aiohttp.StreamReader(connection, _BUFFER_BYTES, loop=asyncio.get_running_loop())

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Bytes have come; never the end, nothing left over."""
        if not self.reader.is_eof():
            self.reader.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        """The connection is gone."""
        self.reader.feed_eof()


async def _join(
    context: Context, request: web.Request, response: web.StreamResponse, connection: Any, observer: Observer | None
) -> None:
    client, upstream = _Incoming(request.protocol), _Incoming(connection)
    outgoing = StreamWriter(connection, asyncio.get_running_loop())
    limit_s = context.settings.write_timeout_s

    async def to_upstream(data: bytes) -> None:
        if observer is not None:
            observer.sent("client", data)  # before upstream can have answered it
        await outgoing.write(data)

    async def to_client(data: bytes) -> None:
        try:
            await write(response, data, limit_s)
        finally:
            if observer is not None:
                observer.sent("upstream", data)

    def left(side: Side) -> None:
        if observer is not None:
            observer.left(side)

    request.protocol.set_parser(cast(Any, client))
    connection.set_parser(upstream, upstream.reader)
    ends = await asyncio.gather(
        _copy(client.reader, to_upstream, then=upstream.reader, left=left, ends=("client", "upstream")),
        _copy(upstream.reader, to_client, then=client.reader, left=left, ends=("upstream", "client")),
        return_exceptions=True,
    )
    request[RECEIVED_BYTES] = client.reader.total_bytes
    if any(isinstance(end, TimeoutError) for end in ends):
        abort(request)


async def _copy(
    source: aiohttp.StreamReader,
    write_on: Callable[[bytes], Awaitable[None]],
    *,
    then: aiohttp.StreamReader,
    left: Callable[[Side], None],
    ends: tuple[Side, Side],
) -> None:
    """Copy from one end to the other until one of them leaves, which is then the end of the other direction too."""
    at_work = ends[0]
    try:
        while data := await source.readany():
            at_work = ends[1]
            await write_on(data)
            at_work = ends[0]
        left(at_work)
    except Exception:
        left(at_work)
        raise
    finally:
        then.feed_eof()
