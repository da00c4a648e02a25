"""Tickets: what stands, in a URL, for a credential that a browser's EventSource cannot send.

A ticket is `EXPIRES.OWNER.SIGNATURE`: unix seconds, the owner's keyed hash, and a signature over both and over the one
response that it is good for. So it needs no memory: whoever has the store's secret can read it, after a restart too and
on another replica, and a deleted response takes its tickets with it. Called by `edge.tickets`.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass

_TICKET = re.compile(r"(?P<expires_at>[0-9]{1,12})\.(?P<owner>[0-9a-f]+)\.(?P<signature>[0-9a-f]{64})", re.ASCII)
# Owners are hashed with the store's secret itself: what is signed here can be taken for nothing else.
_PURPOSE = b"x-gateway-ticket"


@dataclass(frozen=True, slots=True)
class Ticket:
    """Which response it is good for, for whom and until when (unix seconds). An owner is of one route only."""

    response_id: str
    owner: str
    expires_at: int

    def signed(self, secret: bytes) -> str:
        """The ticket as text, fit for a URL as it is."""
        return f"{self.expires_at}.{self.owner}.{self._signature(secret)}"

    def _signature(self, secret: bytes) -> str:
        # Digits, hexadecimal, and last what may hold anything: there is one way to read it.
        signed = f"{self.expires_at}.{self.owner}.{self.response_id}"
        key = hmac.new(secret, _PURPOSE, hashlib.sha256).digest()
        return hmac.new(key, signed.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def read_ticket(text: str, secret: bytes, *, response_id: str) -> Ticket | None:
    """The ticket, if it was signed with this secret for this response; whether it has expired is not looked at."""
    found = _TICKET.fullmatch(text)
    if found is None:
        return None
    ticket = Ticket(response_id, found["owner"], int(found["expires_at"]))
    return ticket if hmac.compare_digest(ticket._signature(secret), found["signature"]) else None
