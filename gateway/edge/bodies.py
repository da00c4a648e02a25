"""Bodies that are looked at: a request's, read whole, and an answer's, given whole."""

from aiohttp import web
from multidict import CIMultiDict

from gateway.domain.errors import BodyTooLarge
from gateway.domain.headers import Headers, to_client

_OF_THE_BYTES = frozenset({"content-length"})


async def read_body(request: web.Request, limit: int) -> bytes:
    """The request's body. Raises `BodyTooLarge` beyond `limit` bytes."""
    message = f"The request's body is larger than body_limit_bytes, which is {limit}."
    if (request.content_length or 0) > limit:
        raise BodyTooLarge(message)
    pieces: list[bytes] = []
    size = 0
    while piece := await request.content.readany():
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise BodyTooLarge(message)
    return b"".join(pieces)


def whole(status: int, headers: Headers, body: bytes, *, reason: str | None = None) -> web.Response:
    """An answer in one piece, with upstream's headers."""
    passed = CIMultiDict(to_client(headers, drop=_OF_THE_BYTES))
    return web.Response(status=status, reason=reason, body=body, headers=passed)
