"""What both ends of a WebSocket say is folded into the lives of the responses that they talk about."""

import json

import pytest
from lives import a_response

from gateway.domain.facts import (
    BecameStuck,
    Created,
    Ended,
    FirstOutput,
    Recovered,
    Refused,
    StatusChanged,
    Untracked,
    UpstreamCut,
)
from gateway.domain.mode import Mode
from gateway.domain.models import ByModel
from gateway.domain.response import Ending, Status, Stuck
from gateway.domain.stuck import Patience
from gateway.domain.websocket import MAX_ASKED, MAX_LANES, Conversation

USAGE = {"input_tokens": 7, "output_tokens": 5}


class Talk:
    """A conversation, and all the facts that came of it. Every message takes a second."""

    def __init__(self):
        self.made = 0
        self.at = 100.0
        self.facts = []
        self.conversation = Conversation(self._begin)

    def _begin(self, asked):
        self.made += 1
        return a_response(response_id=None, model=None, pumped=False).but(
            key=f"key-{self.made}",
            mode=asked.mode,
            created_at=self.at,
            model_asked=asked.model,
            previous_response_id=asked.previous_response_id,
        )

    def client(self, kind="response.create", **fields):
        self._note(self.conversation.client_said, {"type": kind, "model": "gpt-5", **fields})

    def upstream(self, kind, number=None, **fields):
        numbered = {} if number is None else {"sequence_number": number}
        self._note(self.conversation.upstream_said, {"type": kind, **numbered, **fields})

    def created(self, response_id, lane=None):
        self.upstream("response.created", 0, response={"id": response_id, "status": "in_progress"}, **_in(lane))

    def delta(self, number=1, lane=None):
        self.upstream("response.output_text.delta", number, delta="x", **_in(lane))

    def completed(self, response_id, lane=None, number=2):
        whole = {"id": response_id, "status": "completed", "model": "gpt-5-x", "usage": USAGE}
        self.upstream("response.completed", number, response=whole, **_in(lane))

    def ends(self, by):
        self.facts += self.conversation.ended(by, self.at)

    def of(self, kind):
        return [fact for fact in self.facts if isinstance(fact, kind)]

    def endings(self):
        return [(fact.response.response_id, fact.response.status, fact.response.ending) for fact in self.of(Ended)]

    def _note(self, said, message):
        self.at += 1
        self.facts += said([json.dumps(message).encode()], self.at)


def _in(lane):
    return {} if lane is None else {"stream_id": lane}


@pytest.fixture
def talk():
    return Talk()


def test_a_response_is_created_brings_output_and_ends_once(talk):
    talk.client(previous_response_id="resp_0")
    talk.created("resp_1")
    talk.delta()
    talk.completed("resp_1")

    assert [type(fact) for fact in talk.facts] == [Created, StatusChanged, FirstOutput, StatusChanged, Ended]
    ended = talk.of(Ended)[0]
    assert (ended.late, ended.source) == (False, "websocket")
    response = ended.response
    assert (response.response_id, response.status, response.ending) == ("resp_1", Status.COMPLETED, Ending.TERMINAL)
    assert (response.mode, response.model_asked, response.model) == (Mode.WEBSOCKET, "gpt-5", "gpt-5-x")
    assert (response.usage.input, response.usage.output, response.previous_response_id) == (7, 5, "resp_0")
    assert (response.created_at, response.tail, response.pumped, response.logged) == (101, 2, True, False)
    assert list(talk.conversation.live) == []


def test_responses_of_one_connection_come_one_after_the_other_each_with_numbers_of_its_own(talk):
    talk.client()
    talk.client(model="gpt-6")
    for response_id in ("resp_1", "resp_2"):
        talk.created(response_id)
        talk.delta()
        talk.completed(response_id)

    assert [fact.response.model_asked for fact in talk.of(Created)] == ["gpt-5", "gpt-6"]
    assert talk.endings() == [
        ("resp_1", Status.COMPLETED, Ending.TERMINAL),
        ("resp_2", Status.COMPLETED, Ending.TERMINAL),
    ]


def test_lanes_go_on_beside_each_other(talk):
    talk.client(stream_id="a", model="model-a")
    talk.client(stream_id="b", model="model-b")
    talk.created("resp_b", "b")
    talk.created("resp_a", "a")
    talk.delta(1, "a")
    assert {response.response_id for response in talk.conversation.live} == {"resp_a", "resp_b"}
    talk.completed("resp_b", "b")
    talk.completed("resp_a", "a")

    assert {fact.response.response_id: fact.response.model_asked for fact in talk.of(Ended)} == {
        "resp_a": "model-a",
        "resp_b": "model-b",
    }
    assert [fact.response.response_id for fact in talk.of(FirstOutput)] == ["resp_a"]


def test_what_comes_together_is_what_comes_one_by_one(talk):
    together, messages = Talk(), []
    for one in (talk, together):
        for lane in ("a", "a", "b", "b", "b"):
            one.client(stream_id=lane)
    talk._note = lambda said, message: messages.append(json.dumps(message).encode())
    for lane in ("b", "a"):
        talk.created(f"resp_{lane}1", lane)
        talk.delta(1, lane)
        talk.delta(2, lane)
        talk.completed(f"resp_{lane}1", lane, 3)
        talk.created(f"resp_{lane}2", lane)
        talk.delta(1, lane)
        talk.upstream("error", 2, error={"code": "server_error", "message": "Broken."}, stream_id=lane)
    talk.upstream("response.failed", 3, response={"id": "resp_a2", "status": "failed"}, stream_id="a")
    talk.created("resp_b3", "b")
    talk.delta(1, "b")

    facts = [fact for message in messages for fact in talk.conversation.upstream_said([message], 200)]
    at_once = together.conversation.upstream_said(messages, 200)

    def told(facts):
        return sorted((fact.response.key, type(fact).__name__, str(fact.response.status)) for fact in facts)

    assert told(at_once) == told(facts)
    assert [response.tail for response in together.conversation.live] == [1]
    assert [response.tail for response in talk.conversation.live] == [1]


def test_an_error_in_place_of_a_response_is_a_refusal_and_the_next_one_is_itself(talk):
    talk.client(model="first")
    talk.client(model="second")
    talk.upstream("error", status=400, error={"code": "previous_response_not_found", "message": "No."})
    talk.created("resp_2")

    refused = talk.of(Refused)[0]
    assert (refused.status, refused.response.error_code, refused.response.model_asked) == (
        400,
        "previous_response_not_found",
        "first",
    )
    assert [fact.response.model_asked for fact in talk.of(Created)] == ["second"]


def test_an_error_event_may_be_followed_by_the_failure_and_counts_once(talk):
    talk.client()
    talk.created("resp_1")
    talk.upstream("error", 1, error={"code": "server_error", "message": "Broken."})
    assert talk.of(Ended) == []
    talk.upstream(
        "response.failed", 2, response={"id": "resp_1", "status": "failed", "error": {"code": "server_error"}}
    )

    assert talk.endings() == [("resp_1", Status.FAILED, Ending.TERMINAL)]


@pytest.mark.parametrize("then", ["another", "the end"])
def test_an_error_event_that_nothing_follows_is_a_failure(talk, then):
    talk.client()
    talk.created("resp_1")
    talk.upstream("error", 1, code="server_error", message="Flat.")
    if then == "another":
        talk.created("resp_2")
    else:
        talk.ends("upstream")

    assert talk.endings() == [("resp_1", Status.FAILED, Ending.TERMINAL)]
    assert talk.of(Ended)[0].response.error_code == "server_error"
    assert talk.of(UpstreamCut) == []


@pytest.mark.parametrize(
    ("by", "ending", "code"),
    [
        ("upstream", Ending.UPSTREAM_LOST, "upstream_lost"),
        ("client", Ending.ABANDONED, "response_abandoned"),
        ("gateway", Ending.UPSTREAM_LOST, "upstream_lost"),
        ("observer", Ending.ABANDONED, "response_abandoned"),
    ],
)
def test_whoever_ends_the_connection_ends_what_it_carries_and_what_was_asked_for(talk, by, ending, code):
    talk.client(stream_id="a")
    talk.client(stream_id="a")
    talk.client(stream_id="b")
    talk.created("resp_a", "a")
    talk.delta(1, "a")
    talk.ends(by)
    talk.ends("client")

    assert sorted(talk.endings(), key=str) == sorted(
        [("resp_a", Status.IN_PROGRESS, ending), (None, None, ending), (None, None, ending)], key=str
    )
    assert {fact.response.error_code for fact in talk.of(Ended)} == {code}
    assert len(talk.of(UpstreamCut)) == (3 if by == "upstream" else 0)
    assert list(talk.conversation.live) == []


def test_a_response_that_begins_before_the_last_one_of_its_lane_has_ended_shows_a_cut(talk):
    talk.client()
    talk.created("resp_1")
    talk.created("resp_2")
    talk.completed("resp_2")

    assert talk.endings() == [
        ("resp_1", Status.IN_PROGRESS, Ending.UPSTREAM_LOST),
        ("resp_2", Status.COMPLETED, Ending.TERMINAL),
    ]
    assert [fact.response.response_id for fact in talk.of(UpstreamCut)] == ["resp_1"]


def test_a_successor_that_nobody_asked_for_is_a_response_too(talk):
    talk.client()
    talk.created("resp_1")
    talk.client("response.steer", previous_response_id="resp_1")
    talk.upstream("response.steer.accepted", 5)
    steered = {"id": "resp_1", "status": "incomplete", "incomplete_details": {"reason": "steered"}}
    talk.upstream("response.incomplete", 3, response=steered)
    talk.created("resp_2")
    talk.completed("resp_2")

    assert talk.endings() == [
        ("resp_1", Status.INCOMPLETE, Ending.TERMINAL),
        ("resp_2", Status.COMPLETED, Ending.TERMINAL),
    ]
    assert talk.of(FirstOutput) == []


def test_no_room_refuses_what_was_asked_for_last(talk):
    talk.client(model="runs")
    talk.created("resp_1")
    talk.client(model="waits")
    talk.client(model="refused")
    talk.upstream("error", status=400, error={"code": "websocket_stream_limit_reached", "message": "Full."})
    assert [fact.response.model_asked for fact in talk.of(Refused)] == ["refused"]
    talk.completed("resp_1")
    talk.created("resp_2")
    assert [fact.response.model_asked for fact in talk.of(Created)] == ["runs", "waits"]


def test_an_error_about_the_connection_refuses_nothing(talk):
    talk.upstream("error", error={"code": "websocket_connection_limit_reached", "message": "60 minutes."})
    assert talk.facts == []


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'"text"',
        b'{"type":5}',
        b'{"type":"keepalive","sequence_number":1}',
        b'{"type":"x"}',
    ],
)
def test_other_messages_are_nobodys(talk, message):
    assert talk.conversation.client_said([message], 1) == []
    assert talk.conversation.upstream_said([message], 1) == []
    talk.client("response.inject", stream_id=["no", "name"])
    assert talk.facts == []


def test_fields_of_odd_shapes_keep_nothing_from_being_followed(talk):
    talk.client(model=5, stream_id=7)
    talk.upstream("response.created", "zero", response={"id": "resp_1", "status": "in_progress"}, stream_id=None)
    talk.upstream("response.completed", True, response={"id": "resp_1", "status": "completed", "usage": "much"})
    assert talk.endings() == [("resp_1", Status.COMPLETED, Ending.TERMINAL)]


def test_what_is_beyond_the_limits_is_not_tracked_and_told(talk):
    for lane in range(MAX_LANES):
        talk.client(stream_id=str(lane))
    assert talk.facts == []
    talk.client(stream_id="one more")
    talk.created("resp_1", "another")
    talk.client(stream_id="0")
    assert MAX_ASKED == MAX_LANES
    assert [(fact.reason, fact.mode) for fact in talk.of(Untracked)] == [("limit", Mode.WEBSOCKET)] * 3
    talk.created("resp_0", "0")
    assert len(talk.of(Created)) == 1


def test_a_lane_that_is_done_makes_room_for_another(talk):
    for lane in range(2 * MAX_LANES):
        talk.client(stream_id=str(lane))
        talk.created(f"resp_{lane}", str(lane))
        talk.completed(f"resp_{lane}", str(lane))
    assert len(talk.of(Ended)) == 2 * MAX_LANES
    assert talk.of(Untracked) == []


def test_a_response_that_stands_still_is_stuck_until_it_moves_or_ends(talk):
    patience = Patience(ByModel({}, 10.0), ByModel({}, 1.0), 1.0, 1.0)
    talk.client()
    talk.created("resp_1")
    for then in (talk.delta, lambda: talk.ends("client")):
        assert talk.conversation.look(talk.at + 9, patience) == []
        (stuck,) = talk.conversation.look(talk.at + 10, patience)
        assert isinstance(stuck, BecameStuck)
        assert (stuck.response.stuck, stuck.response.response_id) == (Stuck.NO_PROGRESS, "resp_1")
        assert talk.conversation.look(talk.at + 11, patience) == []
        then()
        assert talk.of(Recovered).pop().reason is Stuck.NO_PROGRESS
        talk.facts.clear()
