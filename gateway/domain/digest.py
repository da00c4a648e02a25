"""A keyed hash of several parts: hexadecimal, without a way back to them, and different for every list of parts."""

import hmac

_BYTES = 20


def digest(secret: bytes, *parts: bytes) -> str:
    """The hash of `parts` in their order, under a secret."""
    told = b"".join([piece for part in parts for piece in (len(part).to_bytes(4, "big"), part)])
    return hmac.new(secret, told, "sha256").digest()[:_BYTES].hex()
