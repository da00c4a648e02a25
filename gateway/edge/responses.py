"""The routes of a response that exists: retrieve, stream, cancel, delete, and what refers to one.

Whoever is an owner is answered from the store or the log; everybody else's request goes upstream with their own
credential, and whom upstream answers has proven to own the response too. With a credential that the gateway holds
nobody but the owner gets as far as upstream.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl

from aiohttp import web

from gateway.domain.continuation import Cursor, CursorForm, read_cursor
from gateway.domain.errors import StoreUnavailable
from gateway.domain.facts import Cancelled, StoreFailed, TokenRedeemed
from gateway.domain.headers import BETA, beta, credential
from gateway.domain.lifecycle import give_up
from gateway.domain.mode import Mode
from gateway.domain.response import Ending, Response
from gateway.domain.snapshot import read_snapshot
from gateway.edge import polling, stream
from gateway.edge.bodies import read_body, whole
from gateway.edge.context import Context
from gateway.edge.middleware import ABOUT, REQUEST_ID
from gateway.edge.owners import asks_for_stream, caller, owned, read_reference, require_owner
from gateway.edge.passthrough import forward, received, relay, upstream_headers
from gateway.relay.live import Live
from gateway.relay.routing import Target, retrieve_url, url
from gateway.relay.upstream import Answer, Call

# An answer that the gateway reads too has to be readable.
_ENCODING = frozenset({"accept-encoding"})
_IDENTITY = ("Accept-Encoding", "identity")
ANSWERED_HERE = frozenset({"stream", "starting_after", "api-version", "include_obfuscation"})
"""Query fields of a retrieve; any other that the create did not have asks for what a snapshot may not show."""

Told = Callable[[Context, web.Request, Response, Answer, bytes], Awaitable[None]]


async def retrieve(context: Context, request: web.Request, target: Target) -> web.StreamResponse:
    """Answer a `GET /responses/{id}`: a poll, or with `stream=true` a stream from the cursor on."""
    try:
        response = await owned(context, request, target.response_id)
    except StoreUnavailable:
        if asks_for_stream(request):
            stream.refuse_resume(context, _cursor(request, target).form, "store")
        raise
    if response is None and asks_for_stream(request):
        response = await proven(context, request, target)
    if response is None:
        return await _ask_for_stranger(context, request, target, _observed)
    live = await context.tracker.heard_from(response, credential(received(request)))
    streamed = asks_for_stream(request)
    if streamed and response.logged:
        return await stream_log(context, request, target, response, live)
    if streamed or not _asks_for_no_more(request, response):
        return await _ask(context, request, target, response, _observed)
    redeem_by_poll(context, target, live)
    answer = await polling.poll(context, request, response, live)
    return answer or await _ask(context, request, target, response, _observed)


async def cancel(context: Context, request: web.Request, target: Target) -> web.StreamResponse:
    """Answer a `POST /responses/{id}/cancel`: upstream decides, its answer updates the record."""
    response = await owned(context, request, target.response_id)
    if response is None:
        return await _ask_for_stranger(context, request, target, _cancelled)
    await context.tracker.heard_from(response, credential(received(request)))
    return await _ask(context, request, target, response, _cancelled)


async def delete(context: Context, request: web.Request, target: Target) -> web.StreamResponse:
    """Answer a `DELETE /responses/{id}`: upstream decides; what it deleted is deleted here too."""
    response = await owned(context, request, target.response_id)
    if response is None:
        return await _ask_for_stranger(context, request, target, _deleted)
    return await _ask(context, request, target, response, _deleted)


async def refer(context: Context, request: web.Request, target: Target) -> web.StreamResponse:
    """Answer any other request that names a response, in its path or its body."""
    await owned(context, request, target.response_id)
    if context.route.credential is None or not request.body_exists:
        return await forward(context, request, target)
    body = await read_body(request, context.settings.body_limit_bytes)
    asked = read_reference(context, request, body)
    await require_owner(context, request, asked.previous_response_id if asked else None)
    return await forward(context, request, target, body=body)


async def stream_log(
    context: Context, request: web.Request, target: Target, response: Response, live: Live | None
) -> web.StreamResponse:
    """Answer a `GET /responses/{id}?stream=true` from the log, from the cursor on."""
    cursor = _cursor(request, target)
    body = await context.store.body(response.key)
    headers = [("Content-Type", "text/event-stream; charset=utf-8")]
    if body is not None:
        headers += [(name, value) for name, value in body.headers if name.lower() != "content-type"]
    if live is not None:
        _redeem(context, live, "resume", cursor.form)
    kind = "replay" if cursor.form is CursorForm.NONE else "resume"
    return await stream.serve(context, request, response, cursor, kind=kind, headers=headers)  # type: ignore[arg-type]


def _asks_for_no_more(request: web.Request, response: Response) -> bool:
    """The gateway's own polls, which say what the create said, ask for all that this one does."""
    if request.query.keys() - ANSWERED_HERE:
        said = set(parse_qsl(response.query, keep_blank_values=True))
        if any(name not in ANSWERED_HERE and (name, value) not in said for name, value in request.query.items()):
            return False
    return beta(request.headers.getall(BETA, ())) in (None, response.beta)


def _cursor(request: web.Request, target: Target) -> Cursor:
    return read_cursor(
        starting_after=request.query.get("starting_after"),
        last_event_id=request.headers.get("Last-Event-ID"),
        suffix=target.after,
        accept=request.headers.get("Accept", ""),
    )


async def _ask_for_stranger(context: Context, request: web.Request, target: Target, told: Told) -> web.StreamResponse:
    """Ask upstream for somebody who is not known to own the response, if it is known at all."""
    known = await _known(context, target)
    if known is None:
        return await forward(context, request, target)
    return await _ask(context, request, target, known, told, stranger=True)


async def proven(context: Context, request: web.Request, target: Target) -> Response | None:
    """The response, if upstream shows it to the caller: a plain GET asks, as upstream does not stream all it shows.

    For callers whose own credential goes upstream; whom upstream answers is an owner from then on.
    """
    known = await _known(context, target)
    if known is None:
        return None
    answer = await context.upstream.send(
        Call(
            "GET", retrieve_url(context.route, known), [*upstream_headers(context, request, drop=_ENCODING), _IDENTITY]
        )
    )
    answer.close()
    if not answer.ok:
        return None
    await context.tracker.ledger.note_co_owner(known, caller(context, request))
    return await owned(context, request, target.response_id)


async def _known(context: Context, target: Target) -> Response | None:
    """The response of this id, whoever owns it."""
    if target.response_id is None:
        return None
    with contextlib.suppress(StoreUnavailable):
        return await context.store.find(target.response_id, route=context.route.name, owner=None)
    return None


async def _ask(
    context: Context, request: web.Request, target: Target, response: Response, told: Told, *, stranger: bool = False
) -> web.StreamResponse:
    """Ask upstream with the caller's request, learn from its answer, hand it on.

    A stranger whom upstream answers has proven to own the response too. Where upstream has forgotten an owner's
    response that had ended, the stored object is the answer.
    """
    request[ABOUT] = response
    headers = [*upstream_headers(context, request, drop=_ENCODING), _IDENTITY]
    body = await read_body(request, context.settings.body_limit_bytes) if request.body_exists else None
    answer = await context.upstream.send(
        Call(request.method, url(context.route, target.path, target.query), headers, body)
    )
    try:
        whole_body = None if answer.is_event_stream else await answer.peek(context.settings.event_limit_bytes)
    except BaseException:
        answer.close()
        raise
    if whole_body is None or (stranger and not answer.ok):
        return await relay(context, request, answer)
    # A client that leaves now does not undo what upstream has done.
    learning = _learn(context, request, response, answer, whole_body, told, stranger=stranger)
    await asyncio.shield(context.tracker.spawn(learning, "learn"))
    if response.terminal and _store_knows_better(request, response, answer):
        stored = await context.store.body(response.key)
        if stored is not None:
            answer.close()
            return whole(200, [*stored.headers, ("x-gateway-served", "store")], stored.bytes)
    return await relay(context, request, answer)


def _store_knows_better(request: web.Request, response: Response, answer: Answer) -> bool:
    """Upstream has forgotten it; or refuses to cancel what has ended because it was streamed, which only we asked for.

    A response that was not streamed is shown instead, as it is.
    """
    if request.method == "GET":
        return answer.status == 404
    unasked = response.mode is Mode.BACKGROUND and response.logged
    return answer.status == 400 and unasked and request.method == "POST"


async def _learn(
    context: Context,
    request: web.Request,
    response: Response,
    answer: Answer,
    body: bytes,
    told: Told,
    *,
    stranger: bool,
) -> None:
    try:
        if stranger:
            await context.tracker.ledger.note_co_owner(response, caller(context, request))
            await context.tracker.heard_from(response, credential(received(request)))
        await told(context, request, response, answer, body)
    except StoreUnavailable as error:
        context.telemetry.emit([StoreFailed(context.clock(), "change", error.message)])


async def _observed(context: Context, request: web.Request, response: Response, answer: Answer, body: bytes) -> None:
    snapshot = read_snapshot(body) if answer.ok else None
    if snapshot is None or snapshot.id != response.response_id:
        return
    live = context.tracker.held(response)
    await context.tracker.ledger.observe(live, snapshot, answer.headers, source=request.method.lower())
    if live.response.terminal:
        context.tracker.picked_up(live.response, "poll")


async def _cancelled(context: Context, request: web.Request, response: Response, answer: Answer, body: bytes) -> None:
    asked_at, request_id = context.clock() - answer.seconds, request[REQUEST_ID]
    context.telemetry.emit([Cancelled(asked_at, response, answer.status, answer.seconds, request_id=request_id)])
    await _observed(context, request, response, answer, body)


async def _deleted(context: Context, request: web.Request, response: Response, answer: Answer, body: bytes) -> None:
    if not answer.ok and answer.status != 404:
        return  # what upstream does not have any more is deleted here all the same
    live = context.tracker.held(response)
    message = "The response was deleted."
    outcome = give_up(live.response, Ending.DELETED, context.clock(), code="response_deleted", message=message)
    if not live.response.ended:
        await context.tracker.ledger.end(live, outcome, source="delete")
    with contextlib.suppress(StoreUnavailable):
        await context.store.delete(response.key)


def redeem_by_poll(context: Context, target: Target, live: Live | None) -> None:
    """A poll came, which redeems the continuation token of a live response."""
    if live is not None:
        _redeem(context, live, "poll", CursorForm.NONE if target.after is None else CursorForm.SUFFIX)


def _redeem(context: Context, live: Live, how: str, form: CursorForm) -> None:
    if live.close_token():
        live.count(tokens_redeemed=1, **{f"redeemed_{how}": 1, f"redeemed_{form}": 1})
        context.telemetry.emit([TokenRedeemed(context.clock(), live.response, how, form)])  # type: ignore[arg-type]
