"""What upstream keeps for its users besides responses, conversations and webhook endpoints: their handlers.

Nothing is done with any of it: no response adds to a conversation, no webhook is ever sent. As much as passing through
them needs.
"""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from gateway.simulator.answers import ApiError, json_answer
from gateway.simulator.items import Json
from gateway.simulator.requests import json_body, page_of
from gateway.simulator.world import OWNER, WORLD, Kept

_MOST_ITEMS = 20
_EVENT_TYPES = ("response.completed", "response.failed", "response.cancelled", "response.incomplete", "batch.completed")


def _made(request: web.Request, prefix: str, **fields: Any) -> Kept:
    world = request.app[WORLD]
    name = f"{prefix}_{hashlib.sha256(f'{world.seed}:{len(world.kept)}:{world.now()!r}'.encode()).hexdigest()[:48]}"
    kept = Kept({"id": name, "created_at": int(world.now()), **fields}, request[OWNER])
    world.kept[name] = kept
    return kept


def _found(request: web.Request, kind: str) -> Kept:
    name = request.match_info["id"]
    kept = request.app[WORLD].kept.get(name)
    if kept is None or kept.owner != request[OWNER] or kept.shown["object"] != kind:
        raise ApiError(404, f"{kind.replace('_', ' ').capitalize()} with id '{name}' not found.")
    return kept


def _removed(request: web.Request, kind: str) -> web.StreamResponse:
    kept = _found(request, kind)
    kept.shown["object"] += ".deleted"
    return json_answer({"id": kept.shown["id"], "object": f"{kind}.deleted", "deleted": True})


def _given_items(body: Json) -> list[Json]:
    given = body.get("items") or []
    if not isinstance(given, list) or len(given) > _MOST_ITEMS:
        raise ApiError(400, f"Invalid 'items': expected an array of at most {_MOST_ITEMS}.", param="items")
    return [item for item in given if isinstance(item, dict)]


def _added(kept: Kept, items: list[Json]) -> list[Json]:
    added = []
    for number, item in enumerate(items, len(kept.items)):
        name = hashlib.sha256(f"{kept.shown['id']}:{number}".encode()).hexdigest()[:48]
        added.append({"id": f"msg_{name}", "status": "completed", **item})
    kept.items += added
    return added


async def create_conversation(request: web.Request) -> web.StreamResponse:
    """POST /conversations."""
    body = await json_body(request)
    items = _given_items(body)
    kept = _made(request, "conv", object="conversation", metadata=body.get("metadata") or {})
    _added(kept, items)
    return json_answer(kept.shown)


async def conversation(request: web.Request) -> web.StreamResponse:
    """GET, POST (its metadata) and DELETE /conversations/{id}."""
    if request.method == "DELETE":
        return _removed(request, "conversation")
    kept = _found(request, "conversation")
    if request.method == "POST":
        kept.shown["metadata"] = (await json_body(request)).get("metadata") or {}
    return json_answer(kept.shown)


async def conversation_items(request: web.Request) -> web.StreamResponse:
    """GET and POST /conversations/{id}/items."""
    kept = _found(request, "conversation")
    if request.method == "POST":
        items = _added(kept, _given_items(await json_body(request)))
        ends = {"first_id": items[0]["id"] if items else None, "last_id": items[-1]["id"] if items else None}
        return json_answer({"object": "list", "data": items, **ends, "has_more": False})
    return json_answer(page_of(kept.items, request.query))


async def conversation_item(request: web.Request) -> web.StreamResponse:
    """GET and DELETE /conversations/{id}/items/{item_id}."""
    kept = _found(request, "conversation")
    name = request.match_info["item_id"]
    item = next((item for item in kept.items if item["id"] == name), None)
    if item is None:
        raise ApiError(404, f"Item with id '{name}' not found.")
    if request.method == "DELETE":
        kept.items.remove(item)
        return json_answer(kept.shown)
    return json_answer(item)


def _secret(kept: Kept, number: int) -> Json:
    secret = hashlib.sha256(f"{kept.shown['id']}:{number}".encode()).hexdigest()[:32]
    kept.shown["signing_secret_hint"] = f"whsec_***{secret[-4:]}"
    return {**kept.shown, "signing_secret": f"whsec_{secret}"}


def _endpoint_fields(body: Json) -> Json:
    fields: Json = {name: body[name] for name in ("name", "url", "event_types") if name in body}
    unknown = [kind for kind in fields.get("event_types", ()) if kind not in _EVENT_TYPES]
    if unknown:
        raise ApiError(400, f"Invalid value: {unknown[0]!r}.", param="event_types")
    return fields


async def webhook_endpoints(request: web.Request) -> web.StreamResponse:
    """GET and POST /webhook_endpoints."""
    if request.method == "GET":
        kept = [one.shown for one in request.app[WORLD].kept.values() if one.owner == request[OWNER]]
        endpoints = [shown for shown in kept if shown["object"] == "webhook_endpoint"]
        return json_answer(page_of(endpoints, request.query))
    body = await json_body(request)
    for name in ("name", "url", "event_types"):
        if name not in body:
            message = f"Missing required parameter: '{name}'."
            raise ApiError(400, message, param=name, code="missing_required_parameter")
    kept_endpoint = _made(request, "whe", object="webhook_endpoint", **_endpoint_fields(body))
    return json_answer(_secret(kept_endpoint, 0))


async def webhook_endpoint(request: web.Request) -> web.StreamResponse:
    """GET, POST (a change) and DELETE /webhook_endpoints/{id}."""
    if request.method == "DELETE":
        return _removed(request, "webhook_endpoint")
    kept = _found(request, "webhook_endpoint")
    if request.method == "POST":
        kept.shown |= {**_endpoint_fields(await json_body(request)), "updated_at": int(request.app[WORLD].now())}
    return json_answer(kept.shown)


async def rotate_secret(request: web.Request) -> web.StreamResponse:
    """POST /webhook_endpoints/{id}/rotate_secret."""
    kept = _found(request, "webhook_endpoint")
    kept.items.append({})
    return json_answer(_secret(kept, len(kept.items)))


async def send_test(request: web.Request) -> web.StreamResponse:
    """POST /webhook_endpoints/{id}/test: says that it was delivered, and sends nothing."""
    kept = _found(request, "webhook_endpoint")
    kind = (await json_body(request)).get("event_type")
    if kind not in kept.shown["event_types"]:
        raise ApiError(400, f"Invalid value: {kind!r}.", param="event_type")
    result = {"object": "webhook_endpoint.test", "webhook_endpoint_id": kept.shown["id"], "success": True}
    return json_answer({**result, "status_code": 200})


async def event_types(request: web.Request) -> web.StreamResponse:
    """GET /webhook_event_types."""
    return json_answer({"object": "list", "data": list(_EVENT_TYPES)})


_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_SHELF: dict[str, tuple[str, _Handler]] = {
    "/conversations": ("POST", create_conversation),
    "/conversations/{id}": ("GET POST DELETE", conversation),
    "/conversations/{id}/items": ("GET POST", conversation_items),
    "/conversations/{id}/items/{item_id}": ("GET DELETE", conversation_item),
    "/webhook_endpoints": ("GET POST", webhook_endpoints),
    "/webhook_endpoints/{id}": ("GET POST DELETE", webhook_endpoint),
    "/webhook_endpoints/{id}/rotate_secret": ("POST", rotate_secret),
    "/webhook_endpoints/{id}/test": ("POST", send_test),
    "/webhook_event_types": ("GET", event_types),
}
ROUTES: dict[tuple[str, str], _Handler] = {
    (method, path): handler for path, (methods, handler) in _SHELF.items() for method in methods.split()
}
