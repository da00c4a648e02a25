"""Tickets at the edge: `POST .../responses/{id}/x-gateway-ticket` gives one, `?x-gateway-ticket=` on a GET uses it.

A browser's EventSource cannot send a credential; a ticket, got with the credential, stands for it in the URL of one
response. Its expiry bounds the beginning of a connection: a stream that has begun goes on to its end.

Rule: a request by ticket never goes upstream. The log answers it, the store, or the poller, which asks with an owner's
credential. A ticket is taken out of the query before anything else reads that (`taken_out`), and no fact has a query.
"""

import math
from urllib.parse import unquote_plus

from aiohttp import web

from gateway.domain.errors import (
    BadRequest,
    NotFound,
    ResponseNotFound,
    StoreUnavailable,
    TicketExpired,
    TicketRefused,
    WaitsForOwner,
)
from gateway.domain.response import Response
from gateway.domain.ticket import Ticket, read_ticket
from gateway.edge import polling, responses
from gateway.edge.context import Context
from gateway.edge.middleware import ABOUT
from gateway.edge.owners import asks_for_stream, caller
from gateway.relay.routing import TICKET, Kind, Target


def taken_out(query: str) -> tuple[str | None, str]:
    """The ticket that a query carries (None: none), and the query without it, every other byte as it was."""
    fields = query.split("&")
    kept = [field for field in fields if not _is_ticket(field)]
    if len(kept) == len(fields):
        return None, query
    return unquote_plus(next(filter(_is_ticket, fields)).partition("=")[2]), "&".join(kept)


async def issue(context: Context, request: web.Request, target: Target) -> web.StreamResponse:
    """Give an owner a ticket for its response. Raises `ResponseNotFound`, `StoreUnavailable`, upstream's errors."""
    if request.method != "POST":
        raise NotFound("A POST here, with the credential that owns the response, gets a ticket for it.")
    assert target.response_id is not None
    response = await _find(context, request, target.response_id, caller(context, request))
    if response is None and context.route.credential is None:
        response = await responses.proven(context, request, target)
    if response is None:
        raise ResponseNotFound(
            f"This gateway holds no response '{target.response_id}' of yours; a ticket can be had for those that were "
            "created through it, with the credential that owns them."
        )
    expires_at = math.ceil(context.clock() + context.settings.ticket_s)
    ticket = Ticket(target.response_id, caller(context, request), expires_at)
    told = {
        "object": TICKET,
        "response_id": ticket.response_id,
        "ticket": ticket.signed(context.store.owner_key),
        "expires_at": ticket.expires_at,
    }
    return web.json_response(told, headers={"Cache-Control": "no-store"})


async def retrieve(context: Context, request: web.Request, target: Target, presented: str) -> web.StreamResponse:
    """Answer a GET of a response by ticket: a stream from the cursor on, or a poll.

    Raises `TicketRefused`, `TicketExpired`, and for what only upstream could answer `BadRequest` or `WaitsForOwner`.
    """
    ticket = _checked(context, request, target, presented)
    response = await _find(context, request, ticket.response_id, ticket.owner)
    if response is None:
        raise ResponseNotFound(f"Response with id '{ticket.response_id}' is not held here any more.")
    if further := {name.lower() for name in request.query} - responses.ANSWERED_HERE - {TICKET}:
        raise BadRequest(f"By ticket a response is shown as it is held here; leave out {', '.join(sorted(further))}.")
    live = None if response.ended else context.tracker.held(response)
    if asks_for_stream(request):
        if not response.logged:
            raise BadRequest(
                "This response was not created as a stream, so it has no events; leave stream out and poll it.",
                param="stream",
            )
        return await responses.stream_log(context, request, target, response, live)
    responses.redeem_by_poll(context, target, live)
    answer = await polling.poll(context, request, response, live)
    if answer is None:
        raise WaitsForOwner(
            "Only upstream could show this response now, and a ticket holds no credential to ask it with; "
            "retrieve it with the credential."
        )
    return answer


def _checked(context: Context, request: web.Request, target: Target, presented: str) -> Ticket:
    ticket = None
    if target.kind is Kind.RESPONSE and request.method == "GET" and target.response_id is not None:
        ticket = read_ticket(presented, context.store.owner_key, response_id=target.response_id)
    if ticket is None:
        raise TicketRefused(
            "This ticket is not valid here. A ticket is good for a GET of the one response that it was got for; "
            f"get one with POST /responses/{{id}}/{TICKET} and the credential."
        )
    if ticket.expires_at <= context.clock():
        raise TicketExpired(
            f"This ticket has expired. Get a new one with POST /responses/{{id}}/{TICKET} and the credential, "
            "and go on with starting_after=N, the sequence_number of the last event that you have."
        )
    return ticket


async def _find(context: Context, request: web.Request, response_id: str, owner: str) -> Response | None:
    try:
        found = await context.tracker.find(response_id, owner)
    except StoreUnavailable as error:
        error.headers = {"Retry-After": "2"}
        raise
    if found is not None:
        request[ABOUT] = found
    return found


def _is_ticket(field: str) -> bool:
    return unquote_plus(field.partition("=")[0]).lower() == TICKET
