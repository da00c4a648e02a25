"""Whether the client of a create got its answer: what tells a retry of it from another create in the same words.

An answer is given once all of it is written, unless its connection breaks within `GIVEN_S` after that: then it may have
got no further than this machine. Called by `creating`; `edge.server` tells of connections.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from aiohttp import web

from gateway.domain.attempt import GIVEN_S, Fate, sent_again
from gateway.domain.errors import GatewayError
from gateway.edge.context import Context
from gateway.relay.attempts import Begun


class Gone:
    """Calls `then` if the client breaks the connection off within `GIVEN_S` from now."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then
        self._until = time.monotonic() + GIVEN_S

    def __call__(self) -> None:
        """The client has broken it off."""
        if time.monotonic() <= self._until:
            self._then()


@contextmanager
def watched(context: Context, request: web.Request, begun: Begun) -> Iterator[None]:
    """While this is open, a create is answered; what becomes of its client is noted then, and a little later."""
    attempts, fate = context.tracker.attempts, Fate.LEFT
    begun.live.asking += 1
    try:
        yield
        if request.transport is not None and not request.transport.is_closing():
            fate = Fate.ANSWERED
    except GatewayError as error:
        if not sent_again(error.status, error.headers.items()):
            fate = Fate.ANSWERED  # with this error, by the middleware
        raise
    finally:
        begun.live.asking -= 1
        attempts.mark(begun, fate)
        if fate is Fate.ANSWERED:
            cast(Any, request.protocol).gone = Gone(lambda: attempts.mark(begun, Fate.LEFT))
