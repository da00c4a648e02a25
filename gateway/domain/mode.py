"""How a response is created, read from the create body: the four modes.

The only reading of a create body; everything else in it passes as it came.
"""

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from gateway.domain.continuation import parse_token


class Mode(StrEnum):
    """`background` and `stream` of the create body as one value, which is also a metric label."""

    FOREGROUND = "foreground"
    STREAM = "stream"
    BACKGROUND = "background"
    BACKGROUND_STREAM = "background_stream"

    @property
    def background(self) -> bool:
        """Upstream goes on without a client."""
        return self in (Mode.BACKGROUND, Mode.BACKGROUND_STREAM)

    @property
    def streamed(self) -> bool:
        """The client asked for events."""
        return self in (Mode.STREAM, Mode.BACKGROUND_STREAM)


_MODES = {
    (False, False): Mode.FOREGROUND,
    (False, True): Mode.STREAM,
    (True, False): Mode.BACKGROUND,
    (True, True): Mode.BACKGROUND_STREAM,
}


class _Body(msgspec.Struct):
    background: bool | None = None
    stream: bool | None = None
    store: bool | None = None
    model: str | None = None
    previous_response_id: str | None = None
    conversation: object = None
    service_tier: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a create body asks for, as far as the gateway needs it. `conversation` is the id or None."""

    mode: Mode
    model: str | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: str | None = None
    service_tier: str | None = None


_decoder = msgspec.json.Decoder(_Body)


def read(body: bytes) -> Asked | None:
    """Read a create body; None where it is not one (no JSON object, or a field of the wrong type): upstream decides."""
    try:
        found = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    conversation = found.conversation
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    return Asked(
        mode=_MODES[bool(found.background), bool(found.stream)],
        model=found.model,
        store=found.store,
        previous_response_id=found.previous_response_id,
        conversation=conversation if isinstance(conversation, str) else None,
        service_tier=found.service_tier,
    )


def streamed(body: bytes) -> bytes:
    """The same create body with `stream: true`; every other field keeps its bytes."""
    return _with(body, stream=msgspec.Raw(b"true"))


def without_cursor(body: bytes, asked: Asked) -> bytes:
    """The same create body with a `~N` suffix taken off `previous_response_id`, which upstream does not know."""
    previous = asked.previous_response_id
    if previous is None or parse_token(previous).after is None:
        return body
    return _with(body, previous_response_id=msgspec.Raw(msgspec.json.encode(parse_token(previous).response_id)))


def _with(body: bytes, **fields: msgspec.Raw) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(body, type=dict[str, msgspec.Raw]) | fields)
