"""How a response's state becomes keys of Redis, and back. Only the modules of `redis` call this.

All keys of one response have its key in braces, and so are in one hash slot of a cluster: a hash with the record, a
stream with the log (an event's id is its position + 1), a hash with the body, one with the ends that are due.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from msgspec import Struct, structs

from gateway.domain.attempt import Attempt
from gateway.domain.encoding import decode, encode
from gateway.domain.events import Event
from gateway.domain.response import Body
from gateway.store.port import End
from gateway.store.redis_link import Call, Value, text
from gateway.store.redis_scripts import APPEND, COMMIT, NAME_BYTES, PAGE
from gateway.store.rules import LAST_POSITION, Entry, State, aliases
from gateway.store.tail import Frames

_Headers = tuple[tuple[str, str], ...]
_entry = msgspec.json.Decoder(Entry)
_attempt = msgspec.json.Decoder(Attempt)
_end = msgspec.json.Decoder(End)
_headers = msgspec.json.Decoder(_Headers)
_HEAD = 4


class Said(msgspec.Struct, frozen=True, array_like=True):
    """What a write says to the readers of a log: its tail before, the new events' numbers and lengths, its end.

    `by` names the process that wrote; `gone`: the log is not in the store any more.
    """

    by: str
    before: int
    events: tuple[tuple[int, int], ...] = ()
    end: End | None = None
    gone: bool = False


_said = msgspec.msgpack.Decoder(Said)


@dataclass(frozen=True, slots=True)
class Names:
    """The keys of one response; `publish`: the command that tells the channel."""

    publish: str
    record: bytes
    log: bytes
    body: bytes
    due: bytes
    channel: bytes
    turn: bytes

    @property
    def content(self) -> tuple[bytes, bytes]:
        """What goes when its time is over, whatever becomes of the rest."""
        return self.log, self.body


class Row(Struct, frozen=True):
    """A record as Redis has it: its version, the names of its last writes, and its place in the list of all."""

    state: State
    version: bytes = b""
    writes: bytes = b""
    order: int = 0

    def had_ended(self, by: float) -> bool:
        """Whether its tracking was over at that time (unix seconds)."""
        ended_at = self.state.entry.response.ended_at if self.state.entry is not None else None
        return ended_at is not None and ended_at <= by

    def is_named(self, route: str, response_id: str, owner: str | None) -> bool:
        """Whether it has this id for an owner, or for any."""
        names = aliases(self.state.entry)
        if owner is not None:
            return (route, response_id, owner) in names
        return any(name[:2] == (route, response_id) for name in names)


ABSENT = Row(State())


class Kept(Struct, frozen=True):
    """For how long a response that has ended is kept if nobody purges it (milliseconds): its record, its log."""

    record_ms: int
    log_ms: int


def names_of(prefix: str, publish: str, key: str) -> Names:
    """The keys of a response."""
    tag = b"%b:{%b}:" % (text(prefix), text(key))
    return Names(publish, *[tag + part for part in (b"record", b"log", b"body", b"due", b"events", b"turn")])


def row_of(found: "Mapping[bytes, bytes] | Sequence[bytes]") -> Row:
    """From the fields of the record's hash."""
    if not isinstance(found, Mapping):
        found = dict(zip(found[::2], found[1::2], strict=True))
    if not found:
        return ABSENT
    attempt, hold = found.get(b"attempt"), found[b"hold"].decode()
    state = State(
        entry=decode(_entry, found[b"data"]),
        tail=int(found[b"tail"]),
        hold=hold or None,
        attempt=decode(_attempt, attempt) if attempt else None,
    )
    writes = found[b"writes"]
    return Row(state, writes[:NAME_BYTES], writes, int(found[b"order"]))


def body_of(found: Mapping[bytes, bytes]) -> Body | None:
    """From the fields of the body's hash."""
    if not found:
        return None
    return Body(found[b"bytes"], decode(_headers, found[b"headers"]), float(found[b"at"]))


def append_of(names: Names, events: Sequence[Event], *, tail: int, epoch: int, by: str) -> Call:
    """Append to a log that ends at `tail`; `by` names this process."""
    keys = (names.record, names.log, names.channel)
    last = events[-1].number if events else tail
    return Call(APPEND, keys, (epoch, tail, last, _message(Said(by, tail), events), names.publish, *_entries(events)))


def commit_of(
    names: Names, row: Row, after: State, name: bytes, ends: Mapping[bytes, bytes], kept: Kept, *, by: str
) -> Call:
    """Write what a rule made of a row; `ends` are the fields of what is due, `by` names this process."""
    before = row.state
    record: list[Value] = list(_record_fields(row, after)) if after.entry else []
    body: list[Value] = []
    if after.body is not None:
        at = repr(after.body.at)
        body += (b"bytes", after.body.bytes, b"headers", encode(after.body.headers), b"at", at)
    goes, log_goes = after.entry is None, not _kept(after)
    begins = before.entry is None  # what another of this key may have left behind goes
    had_ended, has_ended = _end_of(before), _end_of(after)
    moved = after.tail != before.tail or has_ended != had_ended
    ended = after.entry is not None and after.entry is not before.entry and after.entry.response.ended
    record_ms, log_ms = (kept.record_ms, _log_ms(after, kept)) if ended else ("", "")
    message = b""
    if after.events or has_ended != had_ended or (log_goes and _kept(before)):
        message = _message(Said(by, before.tail, (), has_ended, log_goes), after.events)
    values = (
        *(name, row.version, before.tail if moved and not begins else "", record_ms, log_ms, message),
        *(-1 if goes else len(record) // 2, -1 if log_goes or begins else len(body) // 2, len(ends), names.publish),
        *record,
        *([] if begins else body),
        *(part for pair in ends.items() for part in pair),
        *_entries(after.events),
    )
    return Call(COMMIT, (names.record, names.log, names.body, names.due, names.channel), values)


def page_of(names: Names, after: int, limit: int) -> Call:
    """The events after a position: at most `limit` bytes, or one."""
    return Call(PAGE, (names.record, names.log), (b"%d-0" % (min(after, LAST_POSITION) + 2), limit))


def read_page(found: Sequence[bytes]) -> tuple[int, End | None, Frames]:
    """A log's tail, its end, and the frames of the page."""
    end = decode(_end, found[1]) if found[1] else None
    ids, frames = found[2::2], found[3::2]
    return int(found[0]), end, tuple((int(id.split(b"-")[0]) - 1, frame) for id, frame in zip(ids, frames, strict=True))


def read_message(message: bytes) -> tuple[Said, Frames]:
    """What was published."""
    start = _HEAD + int.from_bytes(message[:_HEAD], "big")
    said = _said.decode(message[_HEAD:start])
    frames = []
    for number, length in said.events:
        frames.append((number, message[start : start + length]))
        start += length
    return said, tuple(frames)


def settled(row: Row, after: State, name: bytes) -> Row:
    """The row that a write made."""
    return structs.replace(row, state=after.written, version=name, writes=name + row.writes) if after.entry else ABSENT


def _record_fields(row: Row, after: State) -> Iterator[Value]:
    before, entry = row.state, after.entry
    assert entry is not None
    if entry is not before.entry:
        end = encode(entry.end) if entry.end is not None else b""
        yield from (b"data", encode(entry), b"epoch", entry.response.epoch, b"end", end, b"kept", int(entry.kept))
    if before.entry is None:
        yield from (b"order", row.order)
    if after.tail != before.tail or before.entry is None:
        yield from (b"tail", after.tail)
    if after.hold != before.hold or before.entry is None:
        yield from (b"hold", after.hold or "")
    if after.attempt is not before.attempt:
        yield from (b"attempt", encode(after.attempt) if after.attempt is not None else b"")


def _kept(state: State) -> bool:
    return state.entry is not None and state.entry.kept


def _end_of(state: State) -> End | None:
    return state.entry.end if state.entry is not None else None


def _log_ms(state: State, kept: Kept) -> int:
    stored = state.entry is None or state.entry.response.stored
    return kept.record_ms if stored else kept.log_ms


def _entries(events: Sequence[Event]) -> Iterator[Value]:
    for event in events:
        yield b"%d-0" % (event.number + 1)
        yield event.frame


def _message(said: Said, events: Sequence[Event]) -> bytes:
    lengths = tuple((event.number, len(event.frame)) for event in events)
    head = msgspec.msgpack.encode(structs.replace(said, events=lengths))
    return b"".join((len(head).to_bytes(_HEAD, "big"), head))
