"""A keyed hash of several parts: hexadecimal, without a way back to them, and different for every list of parts."""

import hashlib
import hmac

_BYTES = 20


def digest(secret: bytes, *parts: bytes) -> str:
    """The hash of `parts` in their order, under a secret."""
    made = hmac.new(secret, digestmod=hashlib.sha256)
    for part in parts:
        made.update(len(part).to_bytes(4, "big"))
        made.update(part)
    return made.digest()[:_BYTES].hex()
