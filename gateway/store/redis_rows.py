"""How a response's state becomes keys of Redis, and back. Only the modules of `redis` call this.

All keys of one response have its key in braces, and so are in one hash slot of a cluster: a hash with the record, a
stream with the log (an event's id is its position + 1), a hash with the body, one with the ends that are due. Each goes
by itself when its time is over. Of what was deleted the record says so, for a while: so whoever holds it and has not
heard can tell that from what a failover forgot.
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
    """For how long a response is kept if nobody purges it, from its last write on (milliseconds).

    One that has ended: its record, and the log of one that is not to be stored. One that lives: longer than it may, not
    counting its completion window. One that was deleted: that it was.
    """

    record_ms: int
    log_ms: int
    live_ms: int
    grave_ms: int

    def of(self, state: State) -> tuple[int, int]:
        """Its record, its log and body."""
        if state.entry is None:
            return self.grave_ms, self.grave_ms
        response = state.entry.response
        if not response.ended:
            live_ms = self.live_ms + int(response.parameters.completion_window_s * 1000)
            return live_ms, live_ms
        return self.record_ms, self.record_ms if response.stored else self.log_ms


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
    writes = found[b"writes"]
    if b"data" not in found:
        return Row(State(removed_at=float(found[b"removed"])), writes[:NAME_BYTES], writes)
    attempt, hold = found.get(b"attempt"), found[b"hold"].decode()
    state = State(
        entry=decode(_entry, found[b"data"]),
        tail=int(found[b"tail"]),
        hold=hold or None,
        attempt=decode(_attempt, attempt) if attempt else None,
    )
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
    record = list(_record_fields(row, after)) if after.entry else [b"removed", repr(after.removed_at)]
    body: list[Value] = []
    if after.body is not None:
        at = repr(after.body.at)
        body += (b"bytes", after.body.bytes, b"headers", encode(after.body.headers), b"at", at)
    log_goes = not _kept(after)
    begins = before.entry is None  # what another of this key may have left behind goes
    anew = after.entry is None or before.removed_at is not None
    had_ended, has_ended = _end_of(before), _end_of(after)
    moved = after.tail != before.tail or has_ended != had_ended
    lasts = after.entry is not before.entry or after.body is not None or begins
    record_ms, log_ms = kept.of(after) if lasts else ("", "")
    message = b""
    if after.events or has_ended != had_ended or (log_goes and _kept(before)):
        message = _message(Said(by, before.tail, (), has_ended, log_goes), after.events)
    values = (
        *(name, row.version, before.tail if moved and not begins else "", record_ms, log_ms, message),
        *(-len(record) // 2 if anew else len(record) // 2, -1 if log_goes or begins else len(body) // 2),
        *(len(ends), names.publish),
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


def _entries(events: Sequence[Event]) -> Iterator[Value]:
    for event in events:
        yield b"%d-0" % (event.number + 1)
        yield event.frame


def _message(said: Said, events: Sequence[Event]) -> bytes:
    lengths = tuple((event.number, len(event.frame)) for event in events)
    head = msgspec.msgpack.encode(structs.replace(said, events=lengths))
    return b"".join((len(head).to_bytes(_HEAD, "big"), head))
