"""How a response is created, read from the create body: the modes.

The only reading of a create body; everything else in it passes as it came.
"""

import re
from enum import StrEnum

import msgspec
from msgspec import Struct, field

from gateway.domain.continuation import parse_token
from gateway.domain.lenient import NULL, name, number, part


class Mode(StrEnum):
    """`background` and `stream` of the create body as one value, which is also a metric label.

    `websocket`: the create came over a WebSocket, where there is neither.
    """

    FOREGROUND = "foreground"
    STREAM = "stream"
    BACKGROUND = "background"
    BACKGROUND_STREAM = "background_stream"
    WEBSOCKET = "websocket"

    @property
    def background(self) -> bool:
        """Upstream goes on without a client."""
        return self in (Mode.BACKGROUND, Mode.BACKGROUND_STREAM)

    @property
    def kept(self) -> bool:
        """The store has it."""
        return self is not Mode.WEBSOCKET

    @property
    def streamed(self) -> bool:
        """The client gets events."""
        return self in (Mode.STREAM, Mode.BACKGROUND_STREAM, Mode.WEBSOCKET)


_MODES = {
    (False, False): Mode.FOREGROUND,
    (False, True): Mode.STREAM,
    (True, False): Mode.BACKGROUND,
    (True, True): Mode.BACKGROUND_STREAM,
}


class Parameters(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the model is asked to work, as far as a create body says so; what it leaves out takes no room in a record.

    `output_type` is `text` or `json`; `prompt` and `prompt_version` name a prompt that upstream keeps.
    `completion_window_s`: how long upstream may take for less money; 0: it is to begin soon.
    """

    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    reasoning_effort: str | None = None
    output_type: str | None = None
    service_tier: str | None = None
    prompt: str | None = None
    prompt_version: str | None = None
    completion_window_s: float = 0.0


class _Body(msgspec.Struct):
    background: bool | None = None
    stream: bool | None = None
    store: bool | None = None
    model: str | None = None
    previous_response_id: str | None = None
    conversation: object = None
    # Nothing is decided by these: one of an odd shape must not keep the create from being tracked.
    max_output_tokens: object = None
    temperature: object = None
    top_p: object = None
    service_tier: object = None
    reasoning: msgspec.Raw = NULL
    text: msgspec.Raw = NULL
    prompt: msgspec.Raw = NULL
    background_options: msgspec.Raw = NULL


class _Reasoning(msgspec.Struct):
    effort: object = None


class _Format(msgspec.Struct):
    type: object = None


class _Text(msgspec.Struct):
    format: _Format | None = None


class _Prompt(msgspec.Struct):
    id: object = None
    version: object = None


class _BackgroundOptions(msgspec.Struct):
    completion_window: object = None


class Asked(Struct, frozen=True):
    """What a create body asks for, as far as the gateway needs it. `conversation` is the id or None.

    Names that are only there to be shown are None, too, where they do not look like any (`domain.identifiers`).
    """

    mode: Mode
    model: str | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: str | None = None
    parameters: Parameters = field(default_factory=Parameters)


_OUTPUT_TYPES = {"text": "text", "json_schema": "json", "json_object": "json"}
_HOURS = re.compile(r"([1-9][0-9]?)h", re.ASCII)  # `2h` and `8h` so far, else `soonest`
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
        model=name(found.model),
        store=found.store,
        previous_response_id=found.previous_response_id,
        conversation=name(conversation),
        parameters=_parameters(found),
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


def _parameters(found: _Body) -> Parameters:
    reasoning, text, prompt = part(found.reasoning, _Reasoning), part(found.text, _Text), part(found.prompt, _Prompt)
    options = part(found.background_options, _BackgroundOptions)
    window = _HOURS.fullmatch(name(options.completion_window) or "") if options and found.background else None
    output = name(text.format.type) if text and text.format else None
    limit = found.max_output_tokens
    return Parameters(
        max_output_tokens=limit if isinstance(limit, int) and not isinstance(limit, bool) else None,
        temperature=number(found.temperature),
        top_p=number(found.top_p),
        reasoning_effort=name(reasoning.effort) if reasoning else None,
        output_type=_OUTPUT_TYPES.get(output or ""),
        service_tier=name(found.service_tier),
        prompt=name(prompt.id) if prompt else None,
        prompt_version=name(prompt.version) if prompt else None,
        completion_window_s=int(window[1]) * 3600.0 if window else 0.0,
    )


def _with(body: bytes, **fields: msgspec.Raw) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(body, type=dict[str, msgspec.Raw]) | fields)
