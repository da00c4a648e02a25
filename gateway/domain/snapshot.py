"""A response object as upstream shows it, read as far as the gateway needs it.

Read from a reply's JSON body or from the `response` of a life-cycle event; the bytes themselves are kept as they came.
"""

import zlib
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from gateway.domain.response import Status, Usage

_Part = TypeVar("_Part", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`unknown_status` is a status that no document names; `fingerprint` changes when output or usage changes."""

    id: str | None
    status: Status | None
    unknown_status: str | None
    model: str | None
    background: bool
    stored: bool | None
    error_code: str | None
    error_message: str | None
    incomplete_reason: str | None
    usage: Usage | None
    fingerprint: int
    raw: bytes


class _Error(msgspec.Struct):
    code: object = None
    message: object = None
    type: object = None


class _Cached(msgspec.Struct):
    cached_tokens: int | None = None


class _Reasoning(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Cached | None = None
    output_tokens_details: _Reasoning | None = None


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class _Object(msgspec.Struct):
    """Every field is judged on its own: one of an odd shape must not hide the others."""

    id: object = None
    status: object = None
    model: object = None
    background: object = None
    store: object = None
    error: msgspec.Raw = msgspec.Raw(b"null")
    incomplete_details: msgspec.Raw = msgspec.Raw(b"null")
    usage: msgspec.Raw = msgspec.Raw(b"null")
    output: msgspec.Raw = msgspec.Raw(b"")


class _LifeCycleEvent(msgspec.Struct):
    response: msgspec.Raw


class _ErrorEvent(msgspec.Struct):
    error: object = None
    code: object = None
    message: object = None


_STATUSES = {str(status): status for status in Status}

_object = msgspec.json.Decoder(_Object)
_life_cycle_event = msgspec.json.Decoder(_LifeCycleEvent)
_error_event = msgspec.json.Decoder(_ErrorEvent)


def read_snapshot(body: bytes) -> Snapshot | None:
    """Read a response object; None where the bytes are no JSON object."""
    try:
        found = _object.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    status = found.status if isinstance(found.status, str) else None
    known = _STATUSES.get(status or "")
    error = _part(found.error, _Error)
    incomplete = _part(found.incomplete_details, _Incomplete)
    return Snapshot(
        id=_text(found.id),
        status=known,
        unknown_status=status if known is None else None,
        model=_text(found.model),
        background=found.background is True,
        stored=found.store if isinstance(found.store, bool) else None,
        error_code=_text(error.code) or _text(error.type) if error else None,
        error_message=_text(error.message) if error else None,
        incomplete_reason=incomplete.reason if incomplete else None,
        usage=_usage(found.usage),
        fingerprint=zlib.crc32(found.usage, zlib.crc32(found.output)),
        raw=body,
    )


def embedded_snapshot(data: bytes) -> Snapshot | None:
    """Read the `response` within a life-cycle event; None where there is none."""
    try:
        return read_snapshot(bytes(_life_cycle_event.decode(data).response))
    except msgspec.DecodeError:
        return None


def error_of(data: bytes) -> tuple[str | None, str | None]:
    """(code, message) of an `error` event, nested or flat."""
    try:
        found = _error_event.decode(data)
    except msgspec.DecodeError:
        return None, None
    if isinstance(found.error, dict):
        nested = found.error
        return _text(nested.get("code")) or _text(nested.get("type")), _text(nested.get("message"))
    return _text(found.code), _text(found.message) or _text(found.error)


def _text(value: object) -> str | None:
    if value is None or isinstance(value, (dict, list, bool)):
        return None
    return str(value)


def _usage(raw: msgspec.Raw) -> Usage | None:
    found = _part(raw, _Usage)
    if found is None or (found.input_tokens is None and found.output_tokens is None):
        return None
    cached, reasoning = found.input_tokens_details, found.output_tokens_details
    return Usage(
        input=found.input_tokens or 0,
        cached=(cached.cached_tokens or 0) if cached else 0,
        output=found.output_tokens or 0,
        reasoning=(reasoning.reasoning_tokens or 0) if reasoning else 0,
    )


def _part(raw: msgspec.Raw, kind: type[_Part]) -> _Part | None:
    try:
        found: _Part | None = msgspec.json.decode(raw, type=kind | None)
    except msgspec.DecodeError:
        return None
    return found
