"""Events as the log keeps them: a position, a type and upstream's own bytes.

The position is upstream's `sequence_number` while that ascends; `Numbering` gives one where upstream's cannot be used.
"""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gateway.domain.response import Status
from gateway.domain.sse import Decoder, Frame, encode

DONE = b"[DONE]"
KEEPALIVE = "keepalive"
LARGEST_NUMBER = 10**18 - 1
"""What a cursor can name; a number beyond it is none, and leaves stores room to count on."""
ERROR = "error"

LIFE_CYCLE: dict[str, Status] = {
    "response.created": Status.QUEUED,
    "response.queued": Status.QUEUED,
    "response.in_progress": Status.IN_PROGRESS,
    "response.completed": Status.COMPLETED,
    "response.failed": Status.FAILED,
    "response.incomplete": Status.INCOMPLETE,
}
"""The events that carry the whole response, and the status that each means where the response itself names none."""

TERMINAL_EVENT = {
    Status.COMPLETED: "response.completed",
    Status.FAILED: "response.failed",
    Status.INCOMPLETE: "response.incomplete",
}
"""The event that ends a stream, by status. None exists for `cancelled`."""

STRUCTURAL = frozenset(
    {
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_summary_part.added",
        "response.function_call_arguments.done",
        "response.code_interpreter_call_code.done",
        "response.output_item.done",
        *TERMINAL_EVENT.values(),
    }
)
"""What an accumulating client must have seen before what comes next makes sense: what has begun, and what is finished.

A call that is finished is made from these, and an end that is past is an end all the same. Text is not among them: the
client has it, and would show it twice.
"""

_HOUSEKEEPING = frozenset({*LIFE_CYCLE, KEEPALIVE, ERROR})
_TYPE_LINE = re.compile(rb"event: ?([^\r\n]+)")


class Event(Struct, frozen=True):
    """One event. `number` is its position in the log, `frame` its whole SSE frame, `data` the JSON within."""

    number: int
    type: str
    frame: bytes
    data: bytes

    @property
    def is_output(self) -> bool:
        """It carries something that the model made, rather than news about the response."""
        return self.type not in _HOUSEKEEPING


class _Head(msgspec.Struct):
    type: str = ""
    sequence_number: int | None = None


class _Identity(msgspec.Struct, frozen=True):
    type: str = ""
    item_id: str | None = None
    output_index: int | None = None
    content_index: int | None = None
    delta: msgspec.Raw = msgspec.Raw(b"")


_head = msgspec.json.Decoder(_Head)
_identity = msgspec.json.Decoder(_Identity)


def type_of(frame: bytes) -> str:
    """The type of a stored frame: its `event:` line, else the `type` of its data, which may hold others further in."""
    if line := _TYPE_LINE.match(frame):
        return line[1].decode(errors="replace")
    event = next((_read(whole) for whole in Decoder().feed(frame)), None)
    return event.type if event else ""


def same_event(data: bytes, other: bytes) -> bool:
    """Whether two deliveries under one number are one event: key order and obfuscation may differ between them."""
    try:
        one, two = _identity.decode(data), _identity.decode(other)
    except msgspec.DecodeError:
        return data == other
    return (
        (one.type, one.item_id, one.output_index, one.content_index)
        == (two.type, two.item_id, two.output_index, two.content_index)
    ) and bytes(one.delta) == bytes(two.delta)


@dataclass(slots=True)
class Numbering:
    """Gives each event of one response its position, over all its upstream connections.

    `tail`: the last position given (-1: none). `upstream`: the last number that upstream gave. `own`: upstream's
    numbers stopped ascending and positions are the gateway's own; re-attaching by cursor is off from then on.

    A `keepalive` event is held back until the next event: only then does it show whether it took a number of its own.
    """

    tail: int = -1
    upstream: int | None = None
    own: bool = False
    _held: Event | None = None

    def place(self, frames: deque[Frame]) -> tuple[list[Event], Event | None]:
        """Take frames from the left: (events that continue the log, a suspect or None).

        A suspect is an event whose number the log has passed already; placing stops behind it. It is a second delivery
        to be skipped, or the sign that upstream's numbers do not ascend: the caller compares it with the log
        (`same_event`), gives it to `renumber` where it differs, and goes on. Upstream's `[DONE]` is dropped.
        """
        placed: list[Event] = []
        while frames:
            frame = frames.popleft()
            if frame.data == DONE:
                continue
            event = _read(frame)
            if event is None:
                placed.append(self._next(Event(-1, frame.event.decode(errors="replace"), frame.raw, frame.data)))
            elif self.own:
                placed += self.renumber(event)
            elif event.type == KEEPALIVE:
                placed += self._released(event.number)
                self._held = event
            elif event.number < 0:
                placed += self.renumber(event)
            else:
                placed += self._released(event.number)
                if event.number <= self.tail:
                    return placed, event
                self.tail = self.upstream = event.number
                placed.append(event)
        return placed, None

    def renumber(self, event: Event) -> list[Event]:
        """From here on positions are the gateway's own: the event at the next one (none for a `keepalive`)."""
        self.own = True
        if event.type == KEEPALIVE:
            return []
        if event.number >= 0:
            self.upstream = event.number
        return [self._next(event)]

    def _released(self, before: int) -> list[Event]:
        held, self._held = self._held, None
        if held is None or not self.tail < held.number < before:
            return []
        self.tail = self.upstream = held.number
        return [held]

    def _next(self, event: Event) -> Event:
        self.tail += 1
        if event.number == self.tail:
            return event
        data = _spliced(event.data, self.tail)
        if data is None:
            return replace(event, number=self.tail)
        frame = event.frame.replace(event.data, data, 1) if event.data in event.frame else encode(event.type, data)
        return replace(event, number=self.tail, frame=frame, data=data)


def skipped(after: int, events: Sequence[Event]) -> list[tuple[int, int]]:
    """Where numbers jump in a batch that continues the position `after`: (the one before, how many are missing)."""
    gaps = []
    for event in events:
        if 0 <= after < event.number - 1:  # where the numbers begin is upstream's choice
            gaps.append((after, event.number - after - 1))
        after = event.number
    return gaps


def _read(frame: Frame) -> Event | None:
    try:
        head = _head.decode(frame.data)
    except msgspec.DecodeError:
        return None
    number = head.sequence_number
    if number is None or not 0 <= number <= LARGEST_NUMBER:
        number = -1
    return Event(number, head.type or frame.event.decode(errors="replace"), frame.raw, frame.data)


def _spliced(data: bytes, number: int) -> bytes | None:
    """The event's JSON with `sequence_number` set: the one field is put in or replaced, every other byte stays."""
    try:
        fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return None
    if "sequence_number" not in fields:
        end = data.rstrip()
        comma = b"," if fields else b""
        return end[:-1].rstrip() + comma + b'"sequence_number":%d}' % number
    return msgspec.json.encode(fields | {"sequence_number": msgspec.Raw(b"%d" % number)})


def synthesised_terminal(status: Status, number: int, body: bytes) -> Event:
    """The terminal event that upstream could not be heard say, made from the polled final object."""
    kind = TERMINAL_EVENT[status]
    data = b'{"type":"%b","sequence_number":%d,"response":%b}' % (kind.encode(), number, body)
    frame = encode(kind, data)
    return Event(number, kind, frame, data)


def keepalive(number: int) -> bytes:
    """The frame of the event by which upstream itself says that a silent stream lives.

    `number` is the last that this reader got: no client's cursor moves by it.
    """
    return encode(KEEPALIVE, msgspec.json.encode({"type": KEEPALIVE, "sequence_number": number}))


def nested_error(number: int, *, message: str, code: str, type: str = "server_error") -> bytes:
    """The frame that ends a reader's stream where the log has no terminal event.

    `{"type":"error","sequence_number":N,"error":{...}}`: the one shape that every official client raises on. `number`
    is the last that this reader got (0 where it got none), so that no client's cursor moves.
    """
    error = {"type": type, "code": code, "message": message, "param": None}
    return encode(ERROR, msgspec.json.encode({"type": ERROR, "sequence_number": max(number, 0), "error": error}))
