"""`/_simulator`: what the simulator was asked, and the levers of its world, for tests in other processes.

These pages need no key, are in no log, and work in an outage.
"""

from collections.abc import Awaitable, Callable
from typing import get_args

import msgspec
from aiohttp import web

from gateway.simulator.answers import ApiError, json_answer
from gateway.simulator.items import Json
from gateway.simulator.scenarios import SCENARIOS, Cut
from gateway.simulator.seen import with_path
from gateway.simulator.world import WORLD, Outage

PREFIX = "/_simulator"


async def _body(request: web.Request) -> Json:
    raw = await request.read()
    value = msgspec.json.decode(raw) if raw.strip() else {}
    if not isinstance(value, dict):
        raise ApiError(400, "Expected a JSON object.")
    return value


async def requests(request: web.Request) -> web.StreamResponse:
    """GET /requests[?path_contains=...&method=...]: what was asked, oldest first."""
    query = request.query
    seen = with_path(request.app[WORLD].seen, query.get("path_contains", ""), query.get("method"))
    return json_answer([one.shown() for one in seen])


async def responses(request: web.Request) -> web.StreamResponse:
    """GET /responses: each response's id, status and number of connections that carry it."""
    world = request.app[WORLD]
    return json_answer(
        [
            {"id": record.plan.id, "status": world.status(record), "connections": len(record.connections)}
            for record in world.records.values()
            if not record.stopped
        ]
    )


async def scenarios(request: web.Request) -> web.StreamResponse:
    """GET /scenarios: their names and what they are about."""
    return json_answer({name: scenario.about for name, scenario in SCENARIOS.items()})


async def forget(request: web.Request) -> web.StreamResponse:
    """POST /forget/{id}: upstream loses a response."""
    return json_answer({"forgotten": request.app[WORLD].forget(request.match_info["response_id"])})


async def outage(request: web.Request) -> web.StreamResponse:
    """POST /outage {"status": 503} or {"drop": true}: nothing works; {}: it is over."""
    world, body = request.app[WORLD], await _body(request)
    how: Outage = "drop" if body.get("drop") else body.get("status")
    if how is not None and how != "drop" and not (isinstance(how, int) and 400 <= how <= 599):
        raise ApiError(400, "An outage's status is an error: 400 to 599.")
    world.set_outage(how)
    return json_answer({"outage": how})


async def skip(request: web.Request) -> web.StreamResponse:
    """POST /skip {"seconds": 301}: so many simulated seconds pass at once."""
    seconds = (await _body(request)).get("seconds")
    if not isinstance(seconds, int | float) or not seconds >= 0:
        raise ApiError(400, "Seconds are a number, 0 or more.")
    request.app[WORLD].skip(seconds)
    return json_answer({"skipped": seconds})


async def cut(request: web.Request) -> web.StreamResponse:
    """POST /cut {"how": "reset", "id": "resp_..."}: cut the open connections of a response, without `id` of all."""
    body = await _body(request)
    how = body.get("how", "reset")
    if how not in get_args(Cut):
        raise ApiError(400, f"How is one of {', '.join(get_args(Cut))}.")
    return json_answer({"cut": request.app[WORLD].cut(body.get("id"), how)})


ROUTES: dict[tuple[str, str], Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
    ("GET", "/requests"): requests,
    ("GET", "/responses"): responses,
    ("GET", "/scenarios"): scenarios,
    ("POST", "/forget/{response_id}"): forget,
    ("POST", "/outage"): outage,
    ("POST", "/skip"): skip,
    ("POST", "/cut"): cut,
}
