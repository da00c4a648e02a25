"""The only module that speaks to upstream.

aiohttp's client defaults are each looked at: no total timeout (a stream may last for hours), no connection limit
(responses and followers have theirs), no decompression, redirects, cookies, header or path rewriting. What breaks is
raised as one of three errors: `UpstreamUnreachable` (nothing was sent), `UpstreamTimeout`, `UpstreamCut`.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NamedTuple

import aiohttp
from aiohttp import hdrs
from multidict import CIMultiDict
from yarl import URL

from gateway.domain.errors import UpstreamCut, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from gateway.domain.headers import Headers, first

_SET_BY_AIOHTTP = frozenset({hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE})
_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds: to connect, to the answer's headers, between two chunks of its body."""

    connect: float
    headers: float
    idle: float


class Call(NamedTuple):
    """One request to upstream."""

    method: str
    url: URL
    headers: Headers
    body: bytes | AsyncIterator[bytes] | None = None


class Answer:
    """Upstream's answer: status and headers at once, the body as it comes.

    Whoever has it closes it: after the end that hands the connection back, before it that aborts the connection.
    """

    def __init__(self, response: aiohttp.ClientResponse, idle_s: float, seconds: float = 0.0) -> None:
        self._response = response
        self._idle_s = idle_s
        self._peeked: list[bytes] = []
        self._taken = False
        self.seconds = seconds
        """From the request to the headers."""
        self.status = response.status
        self.reason = response.reason or ""
        self.headers: Headers = [
            (name.decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in response.raw_headers
        ]

    @property
    def ok(self) -> bool:
        """2xx."""
        return 200 <= self.status < 300

    @property
    def intact(self) -> bool:
        """The connection has not broken; what came before it did is still to be read."""
        return self._response.content.exception() is None

    @property
    def is_event_stream(self) -> bool:
        """The body is server-sent events."""
        return (first(self.headers, "content-type") or "").lower().startswith("text/event-stream")

    async def chunk(self) -> bytes:
        """The next piece of the body; empty at its end. Raises `UpstreamCut`, `UpstreamTimeout` (idle)."""
        if self._peeked:
            return self._peeked.pop(0)
        content = self._response.content
        if not self.intact and (left := content._read_nowait(-1)):
            return left  # it had come before the connection broke, of which aiohttp tells first
        try:
            if (piece := content.read_nowait()) or content.at_eof():
                return piece
            # This happens with every chunk: a bare timer costs a quarter of `asyncio.timeout`.
            silence = asyncio.get_running_loop().call_later(self._idle_s, content.set_exception, TimeoutError())
            try:
                return await content.readany()
            finally:
                silence.cancel()
        except TimeoutError as error:
            raise UpstreamTimeout(f"Upstream sent nothing for {self._idle_s:g} s.") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamCut("Upstream's connection broke before its answer was whole.") from error

    def at_hand(self, limit: int) -> bytes | None:
        """The whole body, if it has come by now and has at most `limit` bytes, and at least one."""
        content = self._response.content
        if not content.is_eof() or not self.intact:
            return None
        self._peeked = [b"".join((*self._peeked, content.read_nowait()))]
        return self._peeked[0] if 0 < len(self._peeked[0]) <= limit else None

    async def peek(self, limit: int) -> bytes | None:
        """The whole body if it has at most `limit` bytes, else None; `chunk` gives it (again) from the start."""
        pieces: list[bytes] = []
        size = 0
        while piece := await self.chunk():
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                self._peeked = pieces
                return None
        whole = b"".join(pieces)
        self._peeked = [whole] if whole else []
        return whole

    def take(self) -> bool:
        """Whether the caller is the first to ask for the body, of several who wait for this answer."""
        taken, self._taken = self._taken, True
        return not taken

    def close(self) -> None:
        """Done with it."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class Upstream:
    """A connection pool towards upstream. `header_limit` bounds one header of an answer, in bytes."""

    def __init__(self, timeouts: Timeouts, *, header_limit: int) -> None:
        self._timeouts = timeouts
        self._header_limit = header_limit
        self._session: aiohttp.ClientSession | None = None
        self.reachable: bool | None = None
        """Whether the last request was answered, in whatever way; None: nothing was asked yet."""

    async def open(self) -> None:
        """Make the pool; needs a running loop."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_SET_BY_AIOHTTP,
            max_line_size=self._header_limit,
            max_field_size=self._header_limit,
            read_bufsize=_CHUNK_BYTES,
        )

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The open pool."""
        if self._session is None:
            raise UpstreamUnreachable("The gateway is not started.")
        return self._session

    async def send(self, call: Call, *, total_s: float | None = None) -> Answer:
        """Send a request, return when the answer's headers are there; `total_s` bounds that (default: `headers`).

        The time of a body that is streamed does not count, unless nothing of it moves.

        Raises `UpstreamUnreachable`, `UpstreamTimeout`, `UpstreamCut`, `UpstreamError`.
        """
        try:
            answer = await self._send(call, total_s or self._timeouts.headers)
        except UpstreamError:
            self.reachable = False
            raise
        self.reachable = True
        return answer

    async def _send(self, call: Call, limit_s: float) -> Answer:
        began = time.monotonic()
        try:
            async with asyncio.timeout(limit_s) as limit:
                body = call.body
                response = await self.session.request(
                    call.method,
                    call.url,
                    headers=CIMultiDict(call.headers),
                    data=body if isinstance(body, bytes | None) else _extending(limit, limit_s, body),
                    allow_redirects=False,
                )
        except (
            aiohttp.ConnectionTimeoutError,
            aiohttp.ClientConnectorError,
            aiohttp.ClientProxyConnectionError,
        ) as error:
            raise UpstreamUnreachable(f"No connection to {call.url.host}: {_plain(error)}") from error
        except TimeoutError as error:
            raise UpstreamTimeout(f"Upstream did not answer within {limit_s:g} s.") from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError) as error:
            raise UpstreamCut("Upstream closed the connection without an answer.") from error
        except aiohttp.ClientError as error:
            raise UpstreamError(f"Upstream's answer is no valid HTTP: {_plain(error)}") from error
        return Answer(response, self._timeouts.idle, time.monotonic() - began)


async def _extending(limit: asyncio.Timeout, by_s: float, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The body; whenever a piece of it was taken, the time limit begins anew."""
    loop = asyncio.get_running_loop()
    async for piece in body:
        yield piece
        if not limit.expired():
            limit.reschedule(loop.time() + by_s)


def _plain(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
