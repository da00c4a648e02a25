"""How values become bytes in a store, and back; and what is said of bytes that are damaged.

Everything that the SQLite file keeps as a blob has a CRC-32 beside it, for SQLite finds no flipped bit: wrong bytes are
never given out, the response whose they are is named instead. Called by the stores.
"""

import json
from itertools import chain
from typing import TypeVar

import msgspec

from gateway.domain.errors import StoreUnavailable
from gateway.store.rules import Entry, aliases

_T = TypeVar("_T")


def encode_entry(entry: Entry) -> bytes:
    """As JSON, which an operator can read. Raises UnicodeEncodeError if a name that is searched for is no UTF-8."""
    try:
        return msgspec.json.encode(entry)
    except UnicodeEncodeError:
        for name in chain((entry.response.key,), *aliases(entry)):
            name.encode()
        return _encode_any(entry)


def encode(value: object) -> bytes:
    """The same for a value in which nothing is searched for."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return _encode_any(value)


def decode(decoder: "msgspec.json.Decoder[_T]", data: bytes) -> _T:
    """What was encoded."""
    try:
        return decoder.decode(data)
    except msgspec.DecodeError:
        return msgspec.convert(json.loads(data), decoder.type)


def damaged(what: str, whose: str) -> StoreUnavailable:
    """The error for a blob whose checksum does not match."""
    return StoreUnavailable(f"The stored {what} of {whose} is damaged: its checksum does not match.")


def _encode_any(value: object) -> bytes:
    """Slower, and for strings too that came from a line that is no UTF-8."""
    return json.dumps(msgspec.to_builtins(value)).encode()
