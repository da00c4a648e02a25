"""What is sealed of a response: the credentials of its owners, as bytes for a cipher, and back.

They are good for this response and this upstream alone: a seal that was put into another record, or that met another
upstream after a change of settings, gives nothing away.
"""

from dataclasses import dataclass

import msgspec

Credential = tuple[tuple[str, str], ...]
"""Headers, as `domain.headers.credential` picks them."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """The credentials of the response of this key, newest first, for the upstream at this origin."""

    key: str
    origin: str
    credentials: tuple[Credential, ...]

    def encode(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self)


class Seal(msgspec.Struct, frozen=True):
    """Credentials in a record, encrypted; empty where upstream has refused each of them.

    `at`: when an owner came with the newest (unix seconds). A seal never takes the place of a newer one.
    """

    text: str
    at: float


_decoder = msgspec.json.Decoder(Sealed)


def decode(data: bytes) -> Sealed:
    """What was encoded. Raises ValueError where it was not."""
    return _decoder.decode(data)
