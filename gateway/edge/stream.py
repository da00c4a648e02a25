"""A reader: one client following one log, from its cursor to the log's end.

Every stream that a client gets of a tracked response is written here. A reader never gets a clean end without a
terminal event: the log's end, or the nested error, or a connection that is plainly cut.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import web

from gateway.domain.continuation import Cursor, CursorForm
from gateway.domain.errors import GatewayError, Overloaded, StoreUnavailable, StreamExpired
from gateway.domain.events import keepalive, nested_error
from gateway.domain.facts import Attached, AttachKind, Delivered, Detached, Left, ResumeRefusal, ResumeRefused
from gateway.domain.headers import Headers, to_client
from gateway.domain.identifiers import product
from gateway.domain.response import Response
from gateway.domain.sse import DONE, KEEPALIVE, with_id
from gateway.edge import preferences
from gateway.edge.context import Context
from gateway.edge.middleware import ABOUT, DETAIL, REQUEST_ID
from gateway.edge.owners import caller
from gateway.edge.passthrough import abort, write
from gateway.relay.live import Live
from gateway.store.follow import follow, preamble
from gateway.store.port import Closed, End, Forgotten, Page

OF_THE_BODY = frozenset({"content-length", "content-encoding", "cache-control", "x-accel-buffering"})
"""Headers of upstream's that do not hold for another body."""
STREAM_HEADERS: Headers = [("X-Accel-Buffering", "no"), ("Cache-Control", "no-cache, no-transform")]
_GONE = End("response_deleted", "The events of this response were deleted while they were read.")
_FORGOTTEN = End("response_lost", "The store has lost this response, and no gateway has written it anew.")

# A store that is down for a moment, or has forgotten, is a pause for its readers; for longer, that is their end.
_STORE_PATIENCE_S = 60.0
_STORE_RETRY_S = 1.0
_SAMPLE_EVERY_S = 1.0
_REFUSALS: dict[type[Exception], ResumeRefusal] = {Overloaded: "overloaded", StoreUnavailable: "store"}


@dataclass(slots=True)
class _Progress:
    """How far a reader has come. `event_at`: when it got the last event (loop time). `done`: it wants a `[DONE]`.

    `keeps_up`: that was among the newest. `sample_at`: when the delivery of one is measured next.
    """

    number: int
    event_at: float
    done: bool
    delivered: int = 0
    replayed: int = 0
    keeps_up: bool = False
    sample_at: float = 0.0


async def serve(
    context: Context,
    request: web.Request,
    response: Response,
    cursor: Cursor,
    *,
    kind: AttachKind,
    headers: Headers,
    status: int = 200,
    reason: str | None = None,
) -> web.StreamResponse:
    """Follow a log to its end. Raises `StreamExpired` and `Overloaded` before anything is written."""
    first = await _first_page(context, response, cursor)
    if cursor.event_source and first.end is not None and not first.frames:
        return web.Response(status=204)  # tells an EventSource to stop reconnecting
    answer = web.StreamResponse(status=status, reason=reason)
    for name, value in [*to_client(headers, drop=OF_THE_BODY), *STREAM_HEADERS]:
        answer.headers.add(name, value)
    preferred = preferences.read(request).done
    progress = _Progress(
        cursor.after, time.monotonic(), context.settings.stream_done if preferred is None else preferred
    )
    if preferred:
        answer.headers.add(preferences.APPLIED, preferences.DONE)
    started = context.clock()
    behind = max(0, response.tail - cursor.after)
    context.tracker.count(response.key, attaches=1, **({"resumes": 1} if kind == "resume" else {}))
    request_id = request[REQUEST_ID]
    context.telemetry.emit(
        [Attached(started, response, kind, cursor.form, cursor.after, behind, request_id=request_id)]
    )
    left: Left = "error"
    try:
        async with context.tracker.following(response.key):
            await answer.prepare(request)
            left = await _write(context, request, answer, response, cursor, progress)
            async with asyncio.timeout(context.settings.write_timeout_s):
                await answer.write_eof()
    except TimeoutError:
        left = "slow"
        abort(request)
    except (asyncio.CancelledError, ConnectionError):
        left = "drain" if context.readiness.refusing else "client"
        raise
    finally:
        if left in ("client", "slow"):
            context.tracker.count(response.key, disconnects=1)
        elif left == "end":
            context.tracker.picked_up(response, "stream")
        request[ABOUT] = now = await _newest(context, response)
        request[DETAIL] = detached = Detached(
            context.clock(),
            now,
            kind,
            left,
            progress.number,
            progress.delivered,
            progress.replayed,
            started,
            form=cursor.form,
            after=cursor.after,
            user_agent=product(request.headers.get("User-Agent")),
            owner=caller(context, request),
            request_id=request_id,
        )
        context.telemetry.emit([detached])
    return answer


async def _newest(context: Context, response: Response) -> Response:
    """Its newest value. A client that leaves while the store is asked is told of all the same."""
    asking = context.tracker.spawn(context.tracker.newest(response), "newest")
    try:
        return await asyncio.shield(asking)
    except asyncio.CancelledError:
        return await asking


async def _first_page(context: Context, response: Response, cursor: Cursor) -> Page:
    try:
        if context.tracker.followers >= context.settings.max_followers:
            raise Overloaded("The gateway serves as many streams as max_followers allows; try again.")
        return await context.store.read(response.key, after=cursor.after)
    except Closed as error:
        refuse_resume(context, cursor.form, "expired")
        message = "The events of this response are past their retention; retrieve it without stream."
        raise StreamExpired(message) from error
    except GatewayError as error:
        refuse_resume(context, cursor.form, _REFUSALS.get(type(error), "error"))
        raise


def refuse_resume(context: Context, form: CursorForm, reason: ResumeRefusal) -> None:
    """A reader is not served; if it named a position, that is a resume which was refused."""
    if form is not CursorForm.NONE:
        context.telemetry.emit([ResumeRefused(context.clock(), reason)])


async def _write(
    context: Context,
    request: web.Request,
    answer: web.StreamResponse,
    response: Response,
    cursor: Cursor,
    progress: _Progress,
) -> Left:
    timeout_s, live = context.settings.write_timeout_s, context.tracker.live.get(response.key)
    async for page in _pages(context, response, cursor):
        if page.frames:
            data = b"".join(with_id(*frame) for frame in page.frames) if cursor.event_source else page.joined
        elif page.end is None:
            data = _sign_of_life(progress, context.settings.keepalive_s)
        else:
            data = b""
        if page.end is not None and page.end.code is not None:
            number = max(progress.number, page.frames[-1][0] if page.frames else -1)
            data += nested_error(number, code=page.end.code, message=page.end.message or page.end.code)
        elif page.end is not None and progress.done:
            data += DONE
        if data:
            await write(answer, data, timeout_s)
        if page.frames:
            # The events of a preamble are below the cursor.
            progress.number = max(progress.number, page.frames[-1][0])
            progress.event_at = time.monotonic()
            progress.delivered += len(page.frames)
            progress.replayed += sum(number <= response.tail for number, _ in page.frames)
            _sample(context, live, progress)
    return "end"


def _sample(context: Context, live: Live | None, progress: _Progress) -> None:
    """Measure now and then how long events take to a reader that keeps up: it had the newest ones before, too."""
    if live is None or progress.event_at < progress.sample_at:
        return
    arrived_at = live.arrived(progress.number)
    if progress.keeps_up and arrived_at is not None:
        progress.sample_at = progress.event_at + _SAMPLE_EVERY_S
        context.telemetry.emit([Delivered(context.clock(), progress.event_at - arrived_at)])
    progress.keeps_up = arrived_at is not None


def _sign_of_life(progress: _Progress, keepalive_s: float) -> bytes:
    """A comment; after a long silence an event, for clients whose timers run from one event to the next."""
    now = time.monotonic()
    if not keepalive_s or progress.number < 0 or now - progress.event_at < keepalive_s:
        return KEEPALIVE
    progress.event_at = now
    return keepalive(progress.number)


async def _pages(context: Context, response: Response, cursor: Cursor) -> AsyncIterator[Page]:
    if cursor.preamble:
        async for page in preamble(context.store, response.key, cursor.after):
            yield page
    after, patient_until = cursor.after, 0.0
    while True:
        try:
            async for page in follow(context.store, response.key, after, heartbeat_s=context.settings.heartbeat_s):
                patient_until = 0.0
                after = page.frames[-1][0] if page.frames else after
                yield page
            return
        except (StoreUnavailable, Forgotten) as error:
            patient_until = patient_until or time.monotonic() + _STORE_PATIENCE_S
            if time.monotonic() > patient_until:
                if isinstance(error, StoreUnavailable):
                    raise
                yield Page(end=_FORGOTTEN)
                return
            await asyncio.sleep(_STORE_RETRY_S)
            yield Page()
        except Closed:
            yield Page(end=_GONE)
            return
