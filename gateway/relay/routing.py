"""Where a request goes: from a client's path to upstream's URL, and what kind of request it is.

`/v1/<rest>` and `/openai/v1/<rest>` go to `<upstream>/<rest>`, `/openai/<rest>` to the same path at upstream's origin.
Paths and queries are handled as sent: nothing is decoded and encoded again. Called by the edge.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import quote, unquote

from yarl import URL

from gateway.domain.continuation import parse_token
from gateway.domain.errors import NotFound, PathNotAllowed
from gateway.domain.headers import Headers
from gateway.domain.response import Response

TICKET = "x-gateway-ticket"
"""What is under a response's path the gateway's own, and no upstream's: where an owner gets a ticket for it."""


class Kind(StrEnum):
    """What a request asks for; also the route label of metrics."""

    CREATE = "/responses"
    RESPONSE = "/responses/{id}"
    CANCEL = "/responses/{id}/cancel"
    INPUT_ITEMS = "/responses/{id}/input_items"
    TICKET = "/responses/{id}/x-gateway-ticket"
    REFERRING = "/responses/*"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Route:
    """One upstream: base URL and, where the gateway holds one, its credential. `base` has no trailing slash."""

    name: str
    base: URL
    credential: Headers | None = None

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return str(self.base.origin())


class Target(NamedTuple):
    """Where a request goes and what it is. `response_id` and `after` are those of a path that names a response."""

    kind: Kind
    path: str
    query: str
    response_id: str | None = None
    after: int | None = None


_PREFIX = re.compile(r"/(?P<azure>openai/)?(?P<v1>v1)(?:/(?P<rest>.*))?|/openai/(?P<origin>.*)", re.DOTALL)
_RESPONSES = re.compile(r"responses(?:/(?P<id>[^/]+)(?:/(?P<action>[^/]+))?)?/?")
# What an upstream may still read as a path to responses: it may decode, merge slashes or not mind the case.
_SPELT_ODDLY = re.compile(r"[/\\]*(?:v1[/\\]+)*responses(?:[/\\;]|$)", re.IGNORECASE)
_NO_IDS = frozenset({"compact", "input_tokens"})
_ACTIONS = {None: Kind.RESPONSE, "cancel": Kind.CANCEL, "input_items": Kind.INPUT_ITEMS, TICKET: Kind.TICKET}


def target(route: Route, raw_path: str, raw_query: str) -> Target:
    """Read a request's path, as sent.

    Raises `NotFound` outside the prefixes, `PathNotAllowed` for dot segments, in any encoding: they could lead out of
    upstream's base path; and, where the gateway holds the credential, for a path to a response that is not written
    plainly: it could lead past the question whose response that is.
    """
    found = _PREFIX.fullmatch(raw_path)
    if found is None:
        raise NotFound(
            f"There is nothing at {raw_path}. Point base_url at /v1, or for Azure at /openai/v1 or /openai.",
        )
    base_path = route.base.raw_path.rstrip("/")
    if found["v1"]:
        rest, prefix = found["rest"] or "", base_path
    else:
        rest, prefix = found["origin"], "/openai"
    if any(segment in (".", "..") for segment in re.split(r"[/\\]", unquote(unquote(rest)))):
        raise PathNotAllowed("The path has a '.' or '..' segment; send the path that you mean.")
    query = "&".join(part for part in (route.base.raw_query_string, raw_query) if part)
    if route.credential is not None and _SPELT_ODDLY.match(unquote(rest)) and not _RESPONSES.fullmatch(rest):
        raise PathNotAllowed("Write the path to a response plainly: /responses/{id}.")
    path = f"{prefix}/{rest}" if found["rest"] is not None or not found["v1"] else prefix
    return _classified(path, query, prefix, rest)


def _classified(path: str, query: str, prefix: str, rest: str) -> Target:
    found = _RESPONSES.fullmatch(rest)
    if found is None:
        return Target(Kind.OTHER, path, query)
    if found["id"] is None:
        return Target(Kind.CREATE, path, query)
    if found["id"] in _NO_IDS:
        return Target(Kind.REFERRING, path, query)
    token = parse_token(unquote(found["id"]))
    if token.after is not None:
        action = f"/{found['action']}" if found["action"] else ""
        path = f"{prefix}/responses/{quote(token.response_id, safe='')}{action}"
    return Target(_ACTIONS.get(found["action"], Kind.REFERRING), path, query, token.response_id, token.after)


def url(route: Route, path: str, query: str) -> URL:
    """Upstream's URL, exactly so."""
    return URL(f"{route.origin}{path}?{query}" if query else f"{route.origin}{path}", encoded=True)


def retrieve_url(route: Route, response: Response, *, stream_after: int | None = None, stream: bool = False) -> URL:
    """Where a response is polled, or its stream resumed after a position (None: from the start)."""
    query = [response.query] if response.query else []
    if stream:
        query.append("stream=true")
        if stream_after is not None:
            query.append(f"starting_after={stream_after}")
    return url(route, _path_of(response), "&".join(query))


def cancel_url(route: Route, response: Response) -> URL:
    """Where a response is cancelled."""
    return url(route, f"{_path_of(response)}/cancel", response.query)


def _path_of(response: Response) -> str:
    return f"{response.path.rstrip('/')}/{quote(response.response_id or '', safe='')}"
