"""JSON that is read field by field: one of an odd shape must not hide the others.

A field is declared as `object`, or as `msgspec.Raw` where it holds more, and judged here. Used by what reads bodies.
"""

from functools import cache
from typing import TypeVar

import msgspec

from gateway.domain.identifiers import identifier

NULL = msgspec.Raw(b"null")
_Part = TypeVar("_Part", bound=msgspec.Struct)


def part(raw: msgspec.Raw, kind: type[_Part]) -> _Part | None:
    """An object within; None where it is none."""
    try:
        found: _Part | None = _decoder(kind).decode(raw)
    except msgspec.DecodeError:
        return None
    return found


@cache
def _decoder(kind: type[_Part]) -> "msgspec.json.Decoder[_Part | None]":
    """Made once: that takes longer than what it decodes."""
    return msgspec.json.Decoder(kind | None)


def text(value: object) -> str | None:
    """A text, or what is said of a number."""
    if value is None or isinstance(value, (dict, list, bool)):
        return None
    return str(value)


def name(value: object) -> str | None:
    """An id, a name or a code, as it may be shown; None where it does not look like one."""
    return identifier(value) if isinstance(value, str) else None


def number(value: object) -> float | None:
    """A number, as far as a float can hold it."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None
