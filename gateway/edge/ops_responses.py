"""The operators' API of responses: which there are, one's story, its events, a cancel.

Rule: no owner is asked for, so nothing that an owner said is shown unless `ops_content` is on. A response is named by
upstream's id or by its key. What this process holds is newer than what the store has.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from gateway.domain.continuation import parse_token
from gateway.domain.errors import BadRequest, GatewayError, Overloaded, ResponseNotFound, StreamExpired, WaitsForOwner
from gateway.domain.events import type_of
from gateway.domain.identifiers import identifier
from gateway.domain.response import Ending, Response, Status
from gateway.domain.sse import KEEPALIVE, Decoder, encode
from gateway.edge.context import Context
from gateway.edge.middleware import error_answer
from gateway.edge.ops_story import story
from gateway.edge.passthrough import abort, write
from gateway.store.follow import follow
from gateway.store.port import Closed, Page, Query

CONTEXT = web.AppKey("context", Context)
TAILS = web.AppKey("tails", asyncio.Semaphore)
"""Places for operators that read a log."""

MAX_TAILS = 100
_NO_TYPE = "?"
_LIMIT, _MAX_LIMIT = 50, 500
_SWITCH = {"true": True, "false": False}
_FILTERS = frozenset({"live", "status", "stuck", "limit", "before"})


class HasEnded(GatewayError):
    """There is nothing left to cancel, or nobody here who could."""

    status, type, code, origin = 409, "invalid_request_error", "response_not_live", "client"


async def list_responses(request: web.Request) -> web.StreamResponse:
    """GET /responses?live=&status=&stuck=&limit=&before=: stories, newest first.

    `{"object": "list", "data": [...], "has_more": bool, "last_key": str | null}`; `last_key` is the `before` of the
    next page. A page may hold fewer than `limit`: what has just changed away from the filter is left out.
    """
    context = request.app[CONTEXT]
    query = _query(request)
    found = await context.store.list(Query(query.live, query.status, query.stuck, query.before, query.limit + 1))
    page = found[: query.limit]
    newest = [_newest(context, response) for response in page]
    return web.json_response(
        {
            "object": "list",
            "data": [_story(context, response) for response in newest if _matches(query, response)],
            "has_more": len(found) > len(page),
            "last_key": page[-1].key if page else None,
        }
    )


async def show(request: web.Request) -> web.StreamResponse:
    """GET /responses/{id}: one story."""
    context = request.app[CONTEXT]
    return web.json_response(_story(context, await _named(context, request)))


async def events(request: web.Request) -> web.StreamResponse:
    """GET /responses/{id}/events?after=N&follow=true|false: its log as server-sent events.

    Each has its own type, and as its data `{"number", "type", "bytes"}`; with `ops_content` on also `data`, the event's
    own JSON as text. At the end of an ended log comes an event `end` with `code` and `message`, null where a terminal
    event was the last one. Without `follow` it stops at what is there now.
    """
    context, tails = request.app[CONTEXT], request.app[TAILS]
    _known(request, frozenset({"after", "follow"}))
    after = _number(request, "after", least=0)
    pages = _pages(context, (await _named(context, request)).key, after, follows=_switch(request, "follow") is True)
    if tails.locked():
        raise Overloaded(f"{MAX_TAILS} operators read events already; try again.")
    async with tails:
        return await _stream(context, request, pages)


async def cancel(request: web.Request) -> web.StreamResponse:
    """POST /responses/{id}/cancel: upstream is asked, with its owner's credential; the story after that.

    What upstream refuses comes back as upstream said it.
    """
    context = request.app[CONTEXT]
    response = await _named(context, request)
    name = response.response_id or response.key
    if response.ended:
        final = response.status if response.ending is Ending.TERMINAL else response.ending
        raise HasEnded(f"{name} has ended already: {final}.")
    if response.response_id is None:
        raise HasEnded(f"Upstream has not named {name} yet; try again.")
    live = context.tracker.held(response)
    if not live.in_hand and live.credential is None:
        live.unseal()
    if live.credential is None:
        if not live.in_hand and not response.waiting:
            raise HasEnded(f"Another gateway holds {name} and the only credential to cancel it with: ask that one.")
        raise WaitsForOwner(
            f"{name} waits for its owner: the gateway holds no credential to cancel it with. "
            "Any request of the owner about it, a poll too, brings one."
        )
    polled = await context.tracker.poller.cancel(live)
    if not 200 <= polled.status < 300:
        return error_answer(polled.status, polled.body, None)
    return web.json_response(_story(context, live.response))


ROUTES = (
    web.get("/responses", list_responses),
    web.get("/responses/{name}", show),
    # A HEAD has no use for a stream.
    web.get("/responses/{name}/events", events, allow_head=False),
    web.post("/responses/{name}/cancel", cancel),
)


async def _named(context: Context, request: web.Request) -> Response:
    """The response of the request's path, at its newest value. Raises `ResponseNotFound`."""
    held, name = context.tracker.live, parse_token(request.match_info["name"]).response_id
    live = held.get(name) or next((live for live in held.values() if live.response.response_id == name), None)
    if live is not None:
        return live.response
    found = await context.store.find(name, route=context.route.name, owner=None) or await context.store.get(name)
    if found is None:
        raise ResponseNotFound(f"No response of the id or key '{name}' is in the store.")
    return _newest(context, found)


def _story(context: Context, response: Response) -> dict[str, Any]:
    live = context.tracker.live.get(response.key)
    return story(response, live, context.clock(), content=context.settings.ops_content)


def _newest(context: Context, response: Response) -> Response:
    live = context.tracker.live.get(response.key)
    return live.response if live else response


async def _stream(context: Context, request: web.Request, pages: AsyncIterator[Page]) -> web.StreamResponse:
    try:
        first = await anext(pages, Page())
    except Closed as error:
        raise StreamExpired("The events of this response are past their retention, or were deleted.") from error
    timeout_s = context.settings.write_timeout_s
    answer = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}
    )
    try:
        await answer.prepare(request)
        await write(answer, _shown(first, content=context.settings.ops_content), timeout_s)
        async for page in pages:
            await write(answer, _shown(page, content=context.settings.ops_content), timeout_s)
        await answer.write_eof()
    except (GatewayError, Closed, OSError):
        abort(request)  # a cut stays a cut
    return answer


async def _pages(context: Context, key: str, after: int, *, follows: bool) -> AsyncIterator[Page]:
    """What is there, then (if it `follows`) what comes, to the log's end."""
    page = await context.store.read(key, after=after)
    yield page
    while page.frames and page.end is None:
        after = page.frames[-1][0]
        page = await context.store.read(key, after=after)
        yield page
    if page.end is None and follows:
        async for page in follow(context.store, key, after, heartbeat_s=context.settings.heartbeat_s):
            yield page


def _shown(page: Page, *, content: bool) -> bytes:
    pieces = [_event(number, frame, content=content) for number, frame in page.frames]
    if page.end is not None:
        pieces.append(encode("end", json.dumps({"code": page.end.code, "message": page.end.message}).encode()))
    return b"".join(pieces) or KEEPALIVE


def _event(number: int, frame: bytes, *, content: bool) -> bytes:
    # Upstream's events are known by their types; one that does not look like a type may be words.
    kind = identifier(type_of(frame)) or _NO_TYPE
    shown: dict[str, Any] = {"number": number, "type": kind, "bytes": len(frame)}
    if content:
        shown["data"] = b"".join(one.data for one in Decoder().feed(frame)).decode(errors="replace")
    return encode(kind, json.dumps(shown).encode())


def _query(request: web.Request) -> Query:
    _known(request, _FILTERS)
    status = request.query.get("status")
    if status is not None and status not in set(Status):
        raise BadRequest(f"status must be one of {', '.join(Status)}.", param="status")
    limit = _number(request, "limit", least=1, most=_MAX_LIMIT) if "limit" in request.query else _LIMIT
    return Query(_switch(request, "live"), status, _switch(request, "stuck"), request.query.get("before"), limit)


def _matches(query: Query, response: Response) -> bool:
    return (
        query.live in (None, not response.ended)
        and query.status in (None, response.status)
        and query.stuck in (None, response.stuck is not None)
    )


def _known(request: web.Request, names: frozenset[str]) -> None:
    for name in request.query:
        if name not in names:
            raise BadRequest(f"There is no query field {name} here; known are {', '.join(sorted(names))}.", param=name)


def _switch(request: web.Request, name: str) -> bool | None:
    text = request.query.get(name)
    if text is None:
        return None
    if text not in _SWITCH:
        raise BadRequest(f"{name} must be true or false.", param=name)
    return _SWITCH[text]


def _number(request: web.Request, name: str, *, least: int, most: int = 10**18) -> int:
    text = request.query.get(name)
    if text is None:
        return -1
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and least <= int(text) <= most):
        wanted = f"a whole number from {least} to {most}" if most < 10**18 else f"a whole number of at least {least}"
        raise BadRequest(f"{name} must be {wanted}.", param=name)
    return int(text)
