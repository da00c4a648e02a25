"""A response object as upstream shows it, read as far as the gateway needs it.

Read from a reply's JSON body or from the `response` of a life-cycle event; the bytes themselves are kept as they came.
"""

import zlib
from typing import Any

import msgspec
import msgspec.structs

from gateway.domain.lenient import NULL, name, number, part, text
from gateway.domain.response import TERMINAL, Status, Usage


class Snapshot(msgspec.Struct, frozen=True):
    """`unknown_status` is a status that no document names; `fingerprint` changes when output or usage changes.

    `output_types`: which kinds of items a final output has, in order of appearance. `completed_at` is upstream's clock.
    Names and codes that do not look like any are not kept (`domain.identifiers`); `error_message` is words.
    """

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
    service_tier: str | None
    completed_at: float | None
    output_types: tuple[str, ...]
    has_output: bool
    fingerprint: int
    raw: bytes

    def but(self, **fields: Any) -> "Snapshot":
        """The same with other values in some fields."""
        return msgspec.structs.replace(self, **fields)


class _Error(msgspec.Struct):
    code: object = None
    message: object = None
    type: object = None


class _Cached(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _Reasoning(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Cached | None = None
    output_tokens_details: _Reasoning | None = None


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class _Item(msgspec.Struct):
    type: str = ""


class _Object(msgspec.Struct):
    """Every field is judged on its own: one of an odd shape must not hide the others."""

    id: object = None
    status: object = None
    model: object = None
    background: object = None
    store: object = None
    service_tier: object = None
    completed_at: object = None
    error: msgspec.Raw = NULL
    incomplete_details: msgspec.Raw = NULL
    usage: msgspec.Raw = NULL
    output: msgspec.Raw = msgspec.Raw(b"")


class _LifeCycleEvent(msgspec.Struct):
    response: msgspec.Raw


class _ErrorEvent(msgspec.Struct):
    error: object = None
    code: object = None
    message: object = None


_NO_NAME = "?"
_STATUSES = {str(status): status for status in Status}
# More kinds of items are known of no output; a list without end has no place in a record.
_OUTPUT_TYPES = 16
_NO_OUTPUT_BYTES = len("null")

_object = msgspec.json.Decoder(_Object)
_life_cycle_event = msgspec.json.Decoder(_LifeCycleEvent)
_error_event = msgspec.json.Decoder(_ErrorEvent)
_items = msgspec.json.Decoder(list[_Item])


def read_snapshot(body: bytes) -> Snapshot | None:
    """Read a response object; None where the bytes are no JSON object."""
    try:
        found = _object.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    status = found.status if isinstance(found.status, str) else None
    known = _STATUSES.get(status or "")
    error = part(found.error, _Error)
    incomplete = part(found.incomplete_details, _Incomplete)
    return Snapshot(
        id=text(found.id),
        status=known,
        unknown_status=None if status is None or known else name(status) or _NO_NAME,
        model=name(text(found.model)),
        background=found.background is True,
        stored=found.store if isinstance(found.store, bool) else None,
        error_code=name(text(error.code)) or name(error.type) if error else None,
        error_message=text(error.message) if error else None,
        incomplete_reason=name(incomplete.reason) if incomplete else None,
        usage=_usage(found.usage),
        service_tier=name(found.service_tier),
        completed_at=number(found.completed_at),
        output_types=_output_types(found.output) if known in TERMINAL else (),
        has_output=memoryview(found.output).nbytes > _NO_OUTPUT_BYTES,
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
        return name(text(nested.get("code"))) or name(nested.get("type")), text(nested.get("message"))
    return name(text(found.code)), text(found.message) or text(found.error)


def _output_types(raw: msgspec.Raw) -> tuple[str, ...]:
    try:
        kinds = dict.fromkeys(name(item.type) for item in _items.decode(raw))
    except msgspec.DecodeError:
        return ()
    return tuple(kind for kind in kinds if kind)[:_OUTPUT_TYPES]


def _usage(raw: msgspec.Raw) -> Usage | None:
    found = part(raw, _Usage)
    if found is None or (found.input_tokens is None and found.output_tokens is None):
        return None
    cached, reasoning = found.input_tokens_details, found.output_tokens_details
    return Usage(
        input=found.input_tokens or 0,
        cached=(cached.cached_tokens or 0) if cached else 0,
        output=found.output_tokens or 0,
        reasoning=(reasoning.reasoning_tokens or 0) if reasoning else 0,
        cache_written=(cached.cache_write_tokens or 0) if cached else 0,
    )
