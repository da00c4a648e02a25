"""The messages of a WebSocket in Responses mode, folded into the lives of the responses that they make.

Theory of operation. A client asks with `response.create`; what upstream says then are events as in a stream, without
framing. Both name a lane (`stream_id`; messages without one share a lane): within a lane responses come one after the
other, in the order in which they were asked for, and lanes go on beside each other. So an event belongs to the response
that its lane is at, `response.created` begins the next one that was asked for, and a terminal event ends it. An `error`
in a lane that is between two responses refuses the next one.

A response lives in its connection: whoever ends that ends it (`ended`). Nothing of it is in the store.

Rule: pure; what upstream says goes through the fold of every other response (`lifecycle.receive`). Called by
`edge.websocket_observer`, looked at by the tracker.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from msgspec import structs

from gateway.domain import mode
from gateway.domain.events import ERROR, LIFE_CYCLE, Event
from gateway.domain.facts import Created, Ended, Fact, Refused, Untracked, UpstreamCut
from gateway.domain.lifecycle import failed_by_error_event, give_up, receive
from gateway.domain.mode import Asked, Mode
from gateway.domain.response import Ending, Response, Trace
from gateway.domain.snapshot import error_of
from gateway.domain.stuck import Contact, Patience, judge, turned

Side = Literal["client", "upstream", "gateway", "observer"]
"""Who ended a connection; `observer`: it may go on, but can be read no further."""

MAX_LANES = 64
MAX_ASKED = 64
"""Of one connection. Upstream takes half as many lanes and fewer requests: what is beyond them is not tracked."""

_CREATE = "response.create"
_CREATED = "response.created"
# They are news about a request to steer, not about the response.
_STEERING = "response.steer."
# The one error that is not about the next response in line, but about the one that was asked for last.
_NO_ROOM = "websocket_stream_limit_reached"

_ENDINGS: dict[Side, tuple[Ending, str, str]] = {
    "client": (Ending.ABANDONED, "response_abandoned", "The client left the WebSocket before the response had ended."),
    "upstream": (Ending.UPSTREAM_LOST, "upstream_lost", "Upstream left the WebSocket before the response had ended."),
    "gateway": (Ending.UPSTREAM_LOST, "upstream_lost", "The gateway stopped before the response had ended."),
    "observer": (Ending.ABANDONED, "response_abandoned", "The gateway could not read this WebSocket any further."),
}


class _Head(msgspec.Struct):
    """Of a message from either side. Every field is judged on its own."""

    type: object = None
    stream_id: object = None
    sequence_number: object = None
    status: object = None


@dataclass(slots=True)
class _Lane:
    """`asked`: not answered yet, in order. `now`: the response whose events come; `created`: upstream has shown it.

    `events`: not folded yet, as a fold costs the same for many.
    """

    asked: deque[Response] = field(default_factory=deque)
    now: Response | None = None
    created: bool = False
    events: list[Event] = field(default_factory=list)

    def fold(self, at: float) -> list[Fact]:
        """Let the response have its events."""
        events, self.events = self.events, []
        if self.now is None or not events:
            return []
        step, facts = receive(self.now, events, at), list[Fact]()
        if not self.created and step.body is not None:
            self.created = True
            facts.append(Created(at, step.response))
        facts += step.facts
        return [*facts, *(self.become if step.outcome is None else self.end)(step.response, at)]

    def become(self, response: Response, at: float) -> tuple[Fact, ...]:
        """The response it is at has another value; what that means for its being stuck."""
        before, self.now = self.now, None if response.ended else response
        return () if before is None else turned(before, response, at)

    def end(self, response: Response, at: float) -> list[Fact]:
        """The response that it is at has ended."""
        response = response.but(ended_by="websocket")
        return [*self.become(response, at), Ended(at, response, late=False, source="websocket")]


_head = msgspec.json.Decoder(_Head)


class Conversation:
    """What both ends of one WebSocket have said so far. `begin` makes the response that a create asks for."""

    def __init__(self, begin: Callable[[Asked], Response]) -> None:
        self._begin = begin
        self._lanes: dict[str, _Lane] = {}
        self._traces: dict[str, Trace] = {}

    @property
    def live(self) -> Iterator[Response]:
        """The responses that have begun and not ended."""
        return (lane.now for lane in self._lanes.values() if lane.now is not None)

    def client_said(self, messages: Sequence[bytes], at: float) -> list[Fact]:
        """Messages of the client's, of which only those that ask for a response matter."""
        facts: list[Fact] = []
        for message in messages:
            head = _read(message)
            if head is None or head.type != _CREATE:
                continue
            lane = self._lane(head)
            if lane is None or sum(len(lane.asked) for lane in self._lanes.values()) >= MAX_ASKED:
                facts.append(Untracked(at, "limit", Mode.WEBSOCKET))
            else:
                lane.asked.append(self._new(mode.read(message)))
        return facts

    def upstream_said(self, messages: Sequence[bytes], at: float) -> list[Fact]:
        """Messages of upstream's, as they came together: events of the responses that their lanes are at."""
        facts: list[Fact] = []
        for message in messages:
            head = _read(message)
            if head is not None and isinstance(head.type, str) and not head.type.startswith(_STEERING):
                facts += self._event(head, head.type, message, at)
        for lane in self._lanes.values():
            facts += lane.fold(at)
        return facts

    def _event(self, head: _Head, kind: str, message: bytes, at: float) -> list[Fact]:
        lane = self._lane(head) if kind == _CREATED else self._lanes.get(_lane_of(head))
        if lane is None:
            return [Untracked(at, "limit", Mode.WEBSOCKET)] if kind == _CREATED else []
        facts = lane.fold(at) if kind in LIFE_CYCLE or kind == ERROR else []
        if kind == _CREATED:
            facts += self._left(lane, "upstream", at)
            lane.now = lane.asked.popleft() if lane.asked else self._new(None)
            lane.created = False
        if kind == ERROR and (lane.now is None or error_of(message)[0] == _NO_ROOM):
            facts += _refused(lane, head, message, at)
        elif lane.now is not None:
            lane.events.append(Event(_number(head, lane), kind, b"", message))
            if kind in LIFE_CYCLE:
                facts += lane.fold(at)
        if lane.now is None and not lane.asked:
            del self._lanes[_lane_of(head)]
        elif kind == _CREATED and lane.now is not None:
            self._remember(lane.now)
        return facts

    def ended(self, by: Side, at: float) -> list[Fact]:
        """The connection is over, and with it every response that it carried or was asked for."""
        facts: list[Fact] = []
        for lane in self._lanes.values():
            facts += self._left(lane, by, at)
            while lane.asked:
                lane.now = lane.asked.popleft()
                facts += self._left(lane, by, at)
        self._lanes.clear()
        return facts

    def look(self, now: float, patience: Patience) -> list[Fact]:
        """Judge by the clock which responses stand still."""
        facts: list[Fact] = []
        for lane in self._lanes.values():
            if lane.now is not None:
                reason = judge(lane.now, now, Contact(heard_at=now), patience)
                if reason is not lane.now.stuck:
                    counts = lane.now.counts.plus({} if reason is None else {"stucks": 1})
                    stuck_at = None if reason is None else now
                    facts += lane.become(lane.now.but(stuck=reason, stuck_at=stuck_at, counts=counts), now)
        return facts

    def _new(self, asked: Asked | None) -> Response:
        """What a create asks for; None: it was not seen, or is not readable."""
        response = self._begin(structs.replace(asked or Asked(Mode.WEBSOCKET), mode=Mode.WEBSOCKET))
        return response.but(pumped=True, previous_trace=self._traces.get(response.previous_response_id or ""))

    def _remember(self, response: Response) -> None:
        """The next one may go on from this one."""
        if response.trace.sampled and response.response_id is not None:
            self._traces[response.response_id] = response.trace
            if len(self._traces) > MAX_ASKED:
                del self._traces[next(iter(self._traces))]

    def _lane(self, head: _Head) -> _Lane | None:
        """The lane of a message, also where it is a new one; None: there are too many."""
        name = _lane_of(head)
        if name not in self._lanes and len(self._lanes) >= MAX_LANES:
            return None
        return self._lanes.setdefault(name, _Lane())

    def _left(self, lane: _Lane, by: Side, at: float) -> list[Fact]:
        """What the lane was at, if anything, comes to no end of its own."""
        response = lane.now
        if response is None:
            return []
        cut: list[Fact] = []
        if response.last_event == ERROR:
            response = failed_by_error_event(response, at).response
        else:
            cut += [UpstreamCut(at, response, "websocket")] if by == "upstream" else []
            ending, code, message = _ENDINGS[by]
            response = give_up(response, ending, at, code=code, message=message).response
        return [*cut, *lane.end(response, at)]


def _read(message: bytes) -> _Head | None:
    try:
        return _head.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _lane_of(head: _Head) -> str:
    return head.stream_id if isinstance(head.stream_id, str) else ""


def _refused(lane: _Lane, head: _Head, message: bytes, at: float) -> list[Fact]:
    if not lane.asked:
        return []  # it is about the connection
    code, words = error_of(message)
    response = lane.asked.pop() if code == _NO_ROOM else lane.asked.popleft()
    status = head.status if isinstance(head.status, int) else 0
    return [Refused(at, response.but(error_code=code, error_message=words), status)]


def _number(head: _Head, lane: _Lane) -> int:
    number, now = head.sequence_number, lane.now
    if isinstance(number, int) and number >= 0:
        return number
    return (lane.events[-1].number if lane.events else now.tail if now is not None else -1) + 1
