"""A client's poll of its response: answered by the store, by an upstream GET that others share, or by one of its own.

`Prefer: wait=N` (RFC 7240) holds the answer until the status changes, N seconds at most.
"""

import asyncio
import time
from collections.abc import Callable

from aiohttp import web

from gateway.domain.continuation import format_token
from gateway.domain.facts import ClientPolled, PollOutcome, Served, TokenIssued
from gateway.domain.headers import Headers
from gateway.domain.response import Body, Response
from gateway.edge import preferences
from gateway.edge.bodies import whole
from gateway.edge.context import Context
from gateway.edge.middleware import DETAIL
from gateway.relay.live import Live

_TOKEN = "x-gateway-continuation-token"


async def poll(context: Context, request: web.Request, response: Response, live: Live | None) -> web.Response | None:
    """Answer an owner's poll. None where the store has nothing to show and upstream must be asked directly."""
    if live is None or response.ended:
        body = await context.store.body(response.key)
        return _answer(context, request, response, body, "store", None) if body and response.terminal else None
    wait_s = preferences.read(request).wait_s
    wait_s = None if wait_s is None else min(wait_s, context.settings.prefer_wait_max_s)
    served, refusal = await _refreshed(context, request, live)
    if refusal is not None:
        return refusal
    if wait_s is not None and not live.response.ended:
        status = live.response.status
        await hold(context, live, wait_s, over=lambda response: response.status is not status)
    if live.response.ended and not live.response.terminal:
        return None
    body = await _snapshot(context, live)
    if body is None:
        return None
    return _answer(context, request, live.response, body, served, wait_s, live)


async def _refreshed(context: Context, request: web.Request, live: Live) -> tuple[Served, web.Response | None]:
    """See to it that the snapshot is fresh: who served it, or upstream's refusal to be handed on."""
    if not live.in_hand:
        live.body = await context.store.body(live.key)
    known = live.body is not None and bool(live.body.bytes)
    # Another process may have written it, by another clock.
    fresh = live.body is not None and abs(context.clock() - live.body.at) < context.settings.poll_max_age_s
    if known and (live.response.pumped or fresh or context.tracker.poller.slowed(live)):
        return "shared", None
    if live.credential is None:
        return "store", None
    polled, shared = await context.tracker.poller.poll(live)
    if 200 <= polled.status < 300:
        return "shared" if shared else "upstream", None
    told(context, request, live.response, "error", "upstream", polled.status)
    return "upstream", whole(polled.status, polled.headers, polled.body)


async def _snapshot(context: Context, live: Live) -> Body | None:
    if live.in_hand and live.body is not None and live.body.bytes:
        return live.body
    return await context.store.body(live.key)


async def hold(context: Context, live: Live, wait_s: float, *, over: Callable[[Response], bool]) -> None:
    """Return when it is over, the response has ended, the gateway stops, or after `wait_s`."""
    until = time.monotonic() + wait_s
    live.holds += 1
    context.tracker.poller.hurry(live)
    try:
        while not over(live.response) and not live.response.ended and not context.readiness.refusing:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await context.tracker.change(live)
    except TimeoutError:
        return
    finally:
        live.holds -= 1


def told(
    context: Context,
    request: web.Request,
    response: Response,
    outcome: PollOutcome,
    served: Served,
    status: int = 200,
) -> None:
    """A client's poll is answered."""
    request[DETAIL] = fact = ClientPolled(context.clock(), response, outcome, served, status)
    context.telemetry.emit([fact])


def _answer(
    context: Context,
    request: web.Request,
    response: Response,
    body: Body,
    served: Served,
    wait_s: float | None,
    live: Live | None = None,
) -> web.Response:
    outcome: PollOutcome = "terminal" if response.terminal else "unchanged"
    if live is not None:
        if live.shown is not response.status and not response.terminal:
            outcome = "changed"
        live.shown = response.status
        live.count(client_polls=1)
    extra: Headers = [("x-gateway-served", served)]
    if wait_s is not None:
        extra.append(preferences.granted("wait", wait_s))
    told(context, request, response, outcome, served)
    if response.terminal:
        context.tracker.picked_up(response, "poll")
    answer = whole(200, [*body.headers, *extra], body.bytes)
    if live is not None:
        issue_token(context, live, answer)
    return answer


def issue_token(context: Context, live: Live, answer: web.StreamResponse) -> None:
    """Show the client where to go on, if there is anything to continue."""
    response = live.response
    if response.terminal or response.ended or response.response_id is None:
        return
    tail = response.tail if response.logged else None
    answer.headers[_TOKEN] = format_token(response.response_id, tail)
    live.open_token()
    live.count(tokens_issued=1)
    context.telemetry.emit([TokenIssued(context.clock(), live.response)])
