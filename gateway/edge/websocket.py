"""WebSockets: a client's upgrade is passed on, and from then on bytes go both ways as they are.

Rule: frames are not parsed, so that sub-protocols, compression, pings, fragments, sizes, close codes and reasons are
those of the two ends. Called by `edge.server`. Source: RFC 6455.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import aiohttp
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http import StreamWriter
from multidict import CIMultiDict

from gateway.domain.errors import UpstreamCut, UpstreamError, UpstreamTimeout, UpstreamUnreachable, WebSocketRefused
from gateway.domain.headers import Headers
from gateway.edge.context import Context
from gateway.edge.passthrough import RECEIVED_BYTES, abort, as_sent, client_headers, relay, upstream_headers, write
from gateway.relay import routing
from gateway.relay.routing import Target
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
        await _join(context, request, response, upstream.connection.protocol)
        return response
    finally:
        upstream.close()


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


async def _join(context: Context, request: web.Request, response: web.StreamResponse, connection: Any) -> None:
    client, upstream = _Incoming(request.protocol), _Incoming(connection)
    outgoing = StreamWriter(connection, asyncio.get_running_loop())

    async def to_client(data: bytes) -> None:
        await write(response, data, context.settings.write_timeout_s)

    request.protocol.set_parser(cast(Any, client))
    connection.set_parser(upstream, upstream.reader)
    ends = await asyncio.gather(
        _copy(client.reader, outgoing.write, then=upstream.reader),
        _copy(upstream.reader, to_client, then=client.reader),
        return_exceptions=True,
    )
    request[RECEIVED_BYTES] = client.reader.total_bytes
    if any(isinstance(end, TimeoutError) for end in ends):
        abort(request)


async def _copy(
    source: aiohttp.StreamReader, write_on: Callable[[bytes], Awaitable[None]], *, then: aiohttp.StreamReader
) -> None:
    """Copy to the end, which is then the end of the other direction too."""
    try:
        while data := await source.readany():
            await write_on(data)
    finally:
        then.feed_eof()
