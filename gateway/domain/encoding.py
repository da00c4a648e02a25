"""How values become JSON, which an operator can read, and back; strings too that came from a line that is no UTF-8."""

import json
from typing import TypeVar

import msgspec

_T = TypeVar("_T")


def encode(value: object) -> bytes:
    """A value as JSON."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value)).encode()


def decode(decoder: "msgspec.json.Decoder[_T]", data: bytes) -> _T:
    """What was encoded. Raises msgspec.ValidationError, or ValueError for what is no JSON."""
    try:
        return decoder.decode(data)
    except msgspec.DecodeError:
        return msgspec.convert(json.loads(data), decoder.type)
