"""Credentials at hand: with which headers upstream is asked about a response that is taken up.

The route's, where the gateway holds one; else those of its owners, where they were sealed: encrypted into the record
while a background response is live, so that the next process, or another one, takes it up without its owner. Whichever
process hears of a newer one seals it; the one that holds the response asks with it from its next heartbeat on. Several
keys let them be changed: the first one seals, each of them unseals.

Rule: the only importer of cryptography. A seal that no key opens is as good as none.
"""

import logging
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from gateway.domain import sealed
from gateway.domain.headers import Headers
from gateway.domain.response import Response
from gateway.domain.sealed import Seal, Sealed
from gateway.relay.routing import Route

_UNOPENED = "the sealed credential of a response cannot be opened with the sealing keys: it waits for its owner"
_log = logging.getLogger("gateway")


class Credentials:
    """Seals and unseals. `keys` are Fernet's, in base64; without one, or with a credential of the route's, neither."""

    def __init__(self, route: Route, keys: Sequence[str] = ()) -> None:
        self._route = route
        self._fernet = MultiFernet(map(Fernet, keys)) if keys and route.credential is None else None

    def at_hand(self, response: Response) -> tuple[Headers | None, Headers | None]:
        """The credential to ask with, and a spare one: of a response that is taken up. None: there is none."""
        if self._route.credential is not None or response.seal is None or not response.seal.text:
            return self._route.credential, None
        opened = self._opened(response)
        if not opened:
            _log.warning(_UNOPENED, extra={"response": response})
        first, second, *_ = (*opened, None, None)
        return first, second

    def seal(self, response: Response, *credentials: Headers | None, at: float | None = None) -> Response:
        """The response with these credentials, newest first, in its record; a foreground one needs none there.

        `at`: when an owner came with the newest (unix seconds); None: it was known before.
        """
        found = tuple(tuple(one) for one in credentials if one is not None)
        known_at = response.seal.at if response.seal is not None else response.created_at
        if not found:
            return response if response.seal is None else response.but(seal=Seal("", known_at))
        if self._fernet is None or not response.mode.background:
            return response
        content = Sealed(response.key, self._route.origin, found).encode()
        return response.but(seal=Seal(self._fernet.encrypt(content).decode(), known_at if at is None else at))

    def _opened(self, response: Response) -> list[Headers]:
        if self._fernet is None or response.seal is None:
            return []
        try:
            content = sealed.decode(self._fernet.decrypt(response.seal.text.encode()))
        except (InvalidToken, ValueError):
            return []
        if (content.key, content.origin) != (response.key, self._route.origin):
            return []
        return [list(one) for one in content.credentials]
