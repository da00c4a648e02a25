"""What handlers read of requests: JSON bodies, and which page of a list is asked for."""

from collections.abc import Mapping

import msgspec
from aiohttp import web

from gateway.simulator.answers import ApiError
from gateway.simulator.items import Json


async def json_body(request: web.Request) -> Json:
    """The request's JSON object. Raises ApiError 400 if it is none."""
    try:
        body = msgspec.json.decode(await request.read())
    except msgspec.DecodeError as error:
        raise ApiError(
            400,
            f"We could not parse the JSON body of your request. ({error})",
        ) from None
    if not isinstance(body, dict):
        raise ApiError(400, "The JSON body of your request is not an object.")
    return body


def page_of(items: list[Json], query: Mapping[str, str]) -> Json:
    """A page of a list as a JSON object, newest first unless `order=asc`: `limit` of them (20), after the one `after`.

    `items` are the oldest first. Raises ApiError 400.
    """
    ordered = items if query.get("order", "desc") == "asc" else items[::-1]
    limit = query.get("limit", "20")
    if not limit.isdecimal() or not 1 <= int(limit) <= 100:
        raise ApiError(400, f"Invalid 'limit': expected 1 to 100, but got {limit!r}.", param="limit")
    after = query.get("after")
    ids = [item["id"] for item in ordered]
    if after is not None and after not in ids:
        raise ApiError(400, f"Item with id '{after}' not found.", param="after")
    rest = ordered if after is None else ordered[ids.index(after) + 1 :]
    page = rest[: int(limit)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(rest) > len(page),
    }
