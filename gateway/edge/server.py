"""The HTTP server: what clients connect to, with every default of aiohttp's server looked at and set.

Rule: paths, queries and headers are taken as sent. What the HTTP parser refuses is answered in OpenAI's error shape. A
client that leaves cancels its handler; what must live on runs in the tracker. Called by `app`.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from gateway.config import Address
from gateway.domain.errors import BadRequest, GatewayError, HeadersTooLarge
from gateway.edge import cors, tickets, websocket
from gateway.edge.context import Context, Handler, InFlight
from gateway.edge.middleware import TARGET, around, error_answer, malformed, noting
from gateway.edge.passthrough import forward, settle_headers
from gateway.relay import routing
from gateway.relay.routing import Kind

log = logging.getLogger("gateway")

_IN_FLIGHT = web.AppKey("in_flight", InFlight)
_MALFORMED: web.AppKey[Callable[[web.StreamResponse], None]] = web.AppKey("malformed")

_LINE_BYTES = 16 * 1024
_MAX_HEADERS = 256
_BACKLOG = 1024
# After a handler was cancelled, so that it can clean up.
_CANCEL_S = 1.0


def client_app(context: Context, handlers: Mapping[tuple[Kind, str | None], Handler]) -> web.Application:
    """What clients are served: `handlers` by kind and method (None: any other); WebSockets tunnelled, else passed."""

    async def serve(request: web.Request) -> web.StreamResponse:
        _check_head(request, context.settings.header_limit_bytes)
        path, query = _path_and_query(request)
        ticket, query = tickets.taken_out(query)
        target = routing.target(context.route, path, query)
        request[TARGET] = target
        if (preflight := cors.answer_preflight(context, request)) is not None:
            return preflight
        if ticket is not None:
            return await tickets.retrieve(context, request, target, ticket)
        if websocket.is_upgrade(request):
            return await websocket.tunnel(context, request, target)
        handler = handlers.get((target.kind, request.method)) or handlers.get((target.kind, None), forward)
        return await handler(context, request, target)

    # Handlers that read a body bound it themselves.
    app = web.Application(middlewares=[around(context)], client_max_size=0)
    app[_IN_FLIGHT] = context.in_flight
    app[_MALFORMED] = malformed(context)
    app.on_response_prepare.append(noting(context))
    app.on_response_prepare.append(settle_headers)
    app.on_response_prepare.append(cors.dressing(context))
    app.router.add_route("*", "/{path:(?s:.*)}", serve, expect_handler=_continue)
    return app


class Listener:
    """A listening server."""

    def __init__(self, runner: web.AppRunner, server: asyncio.Server, in_flight: InFlight | None) -> None:
        self._runner = runner
        self._server = server
        self._in_flight = in_flight
        self.port: int = server.sockets[0].getsockname()[1]

    async def close(self, *, grace_s: float = 0.0) -> None:
        """Stop. Requests in flight get `grace_s`, in which new ones are still accepted; then all is cut."""
        if self._in_flight is not None and grace_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._in_flight.ended()
        self._server.close()
        await self._runner.cleanup()


async def listen(app: web.Application, address: Address, *, header_limit: int, shared: bool = False) -> Listener:
    """Serve `app` on an address; port 0 is any free one. `header_limit` is in bytes. Raises OSError.

    `shared`: other processes may listen there as well, and each gets a part of the connections.
    """
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=_CANCEL_S)
    await runner.setup()
    loop = asyncio.get_running_loop()
    connection = functools.partial(
        _Connection,
        cast(web.Server, runner.server),
        app.get(_MALFORMED),
        loop=loop,
        logger=log,
        access_log=None,
        # The proxy or SDK in front closes idle connections first, so that none is closed under a request.
        keepalive_timeout=3630,
        tcp_keepalive=True,
        # The request line; a single header has the whole head's limit, the sum is checked once it is known.
        max_line_size=min(_LINE_BYTES, header_limit),
        max_field_size=header_limit,
        max_headers=_MAX_HEADERS,
        # What a client still sends after its answer is read for so long, so that it gets to see the answer.
        lingering_time=10.0,
        auto_decompress=False,
    )
    try:
        host = address.host or None
        server = await loop.create_server(connection, host, address.port, backlog=_BACKLOG, reuse_port=shared)
    except BaseException:
        await runner.cleanup()
        raise
    return Listener(runner, server, app.get(_IN_FLIGHT))


class _Connection(web.RequestHandler):
    """aiohttp's connection: what its parser refuses does not reach the app, and can be answered only here.

    `gone` is called when the client breaks the connection off, as long as nothing else came from it.
    """

    __slots__ = ("_malformed", "gone")

    def __init__(
        self, manager: web.Server, malformed: Callable[[web.StreamResponse], None] | None, **options: Any
    ) -> None:
        super().__init__(manager, **options)
        self._malformed = malformed
        self.gone: Callable[[], None] | None = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is over; with an exception it is the client's doing, or the line's."""
        super().connection_lost(exc)
        if exc is not None:
            self._tell_gone()

    def eof_received(self) -> None:
        """The client has closed its end."""
        super().eof_received()
        self._tell_gone()

    def _tell_gone(self) -> None:
        gone, self.gone = self.gone, None
        if gone is not None:
            gone()

    def data_received(self, data: bytes) -> None:
        """Bytes have come. A request whose body turns out to be no valid HTTP is told: aiohttp leaves it waiting."""
        self.gone = None
        super().data_received(data)
        if not self._messages:
            return
        # What is queued behind a body that has not ended can only be the parser's error.
        ahead = [payload for _, payload in self._messages][:-1]
        if self._current_request is not None:
            ahead.append(self._current_request.content)
        for payload in ahead:
            if not payload.is_eof():
                payload.set_exception(web.RequestPayloadError("The body is no valid HTTP."))
                payload.feed_eof()
                self.close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what no handler can. Raises ConnectionError, which closes the connection, when an answer has begun."""
        if request.writer.output_size > 0:
            raise ConnectionError("The answer has begun.")
        if isinstance(exc, BadHttpMessage):
            error = _unreadable(exc)
        else:
            log.error("unexpected error", exc_info=exc)
            error = GatewayError("The gateway failed; see its log.")
        answer = error_answer(error.status, error.body(), error.code)
        answer.force_close()
        if self._malformed is not None:
            self._malformed(answer)
        return answer


def _unreadable(error: BadHttpMessage) -> GatewayError:
    if isinstance(error, LineTooLong):
        return HeadersTooLarge(f"The request line or a header is longer than {error.args[1]} bytes.")
    if "too many headers" in str(error).lower():
        return HeadersTooLarge(f"The request has more than {_MAX_HEADERS} headers.")
    # Its first line says what is wrong, the others picture the bytes.
    reason = (error.message.strip().splitlines() or [type(error).__name__])[0].rstrip(":. ")
    return BadRequest(f"The request is no valid HTTP: {reason}.")


def _check_head(request: web.Request, limit: int) -> None:
    if request.version not in (HttpVersion10, HttpVersion11):
        raise BadRequest("The request is neither HTTP/1.1 nor HTTP/1.0.")
    size = len(request.raw_path) + sum(len(name) + len(value) + 4 for name, value in request.raw_headers)
    if size > limit:
        raise HeadersTooLarge(f"The request's head has {size} bytes, more than the limit of {limit}.")
    for name, value in request.raw_headers:
        # aiohttp's client leaves out what is no UTF-8, which would change the header without a word.
        if not value.isascii():
            try:
                value.decode()
            except UnicodeDecodeError:
                raise BadRequest(f"The header {name.decode('latin-1')} is not UTF-8.") from None


def _path_and_query(request: web.Request) -> tuple[str, str]:
    raw = request.raw_path
    if not raw.isascii():
        raise BadRequest("The path has bytes that are no ASCII; send them percent-encoded.")
    if not raw.startswith("/"):
        # The absolute form that clients of a forward proxy send.
        return request.rel_url.raw_path, request.rel_url.raw_query_string
    path, _, query = raw.partition("#")[0].partition("?")
    return path, query


async def _continue(request: web.Request) -> None:
    if request.version == HttpVersion11 and request.headers[hdrs.EXPECT].lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # That was no part of the answer.
        request.writer.output_size = 0
