"""Positions: upstream's own numbers while they ascend, the gateway's where they do not."""

import json
from collections import deque
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.events import (
    LARGEST_NUMBER,
    Event,
    Numbering,
    nested_error,
    same_event,
    synthesised_terminal,
    type_of,
)
from gateway.domain.response import Status
from gateway.domain.sse import Decoder, Frame, encode


def frames(*events: dict[str, Any] | bytes) -> deque[Frame]:
    stream = b"".join(
        encode(event["type"], json.dumps(event).encode()) if isinstance(event, dict) else event for event in events
    )
    return deque(Decoder().feed(stream))


def delta(number: int | None, text: str = "x") -> dict[str, Any]:
    event: dict[str, Any] = {"type": "response.output_text.delta", "item_id": "m", "delta": text}
    return event if number is None else {**event, "sequence_number": number}


def numbers(events: list[Event]) -> list[int]:
    return [event.number for event in events]


def placed(numbering: Numbering, *events: dict[str, Any] | bytes) -> list[Event]:
    """What the pump makes of it when every suspect is another event than the one in the log."""
    rest, out = frames(*events), []
    while rest:
        more, suspect = numbering.place(rest)
        out += more + (numbering.renumber(suspect) if suspect else [])
    return out


def test_numbers_that_ascend_are_the_positions_and_bytes_stay() -> None:
    events = placed(Numbering(), delta(0), delta(1), delta(5))
    assert numbers(events) == [0, 1, 5]
    assert [event.frame for event in events] == [frame.raw for frame in frames(delta(0), delta(1), delta(5))]


def test_a_number_that_the_log_has_passed_stops_the_placing_until_somebody_judges() -> None:
    numbering, rest = Numbering(tail=7, upstream=7), frames(delta(8), delta(3), delta(9))
    first, suspect = numbering.place(rest)
    assert (numbers(first), suspect and suspect.number) == ([8], 3)
    assert numbers(numbering.place(rest)[0]) == [9]


def test_a_missing_number_is_spliced_in_and_nothing_else_is_changed() -> None:
    (event,) = placed(Numbering(tail=4), delta(None))
    assert event.number == 5
    assert event.data == b'{"type": "response.output_text.delta", "item_id": "m", "delta": "x","sequence_number":5}'
    assert event.frame == encode(event.type, event.data)


def test_where_numbers_restart_positions_go_on_and_say_so() -> None:
    numbering = Numbering()
    events = placed(numbering, delta(0), delta(1), delta(0, "y"), delta(1, "z"), delta(2, "a"))
    assert numbers(events) == [0, 1, 2, 3, 4]
    assert [json.loads(event.data)["sequence_number"] for event in events] == [0, 1, 2, 3, 4]
    assert (numbering.own, numbering.upstream) == (True, 2)


def test_a_frame_that_is_no_json_takes_the_next_position_unchanged() -> None:
    garbage = b"event: odd\ndata: {not json\n\n"
    events = placed(Numbering(), delta(0), garbage, delta(2))
    assert numbers(events) == [0, 1, 2]
    assert events[1].frame == garbage


def test_a_number_that_no_cursor_can_name_is_none() -> None:
    events = placed(Numbering(), delta(0), delta(LARGEST_NUMBER + 1), delta(-3))
    assert numbers(events) == [0, 1, 2]


def test_a_keepalive_with_a_number_of_its_own_is_an_event() -> None:
    keepalive = {"type": "keepalive", "sequence_number": 1}
    assert numbers(placed(Numbering(), delta(0), keepalive, delta(2))) == [0, 1, 2]


def test_keepalives_in_a_row_are_each_an_event() -> None:
    silence = [{"type": "keepalive", "sequence_number": number} for number in (1, 2, 3)]
    assert numbers(placed(Numbering(), delta(0), *silence, delta(4))) == [0, 1, 2, 3, 4]


def test_a_keepalive_that_takes_no_number_leaves_no_trace() -> None:
    for number in (0, 1):
        numbering = Numbering()
        keepalive = {"type": "keepalive", "sequence_number": number}
        assert numbers(placed(numbering, delta(0), keepalive, delta(1))) == [0, 1]
        assert not numbering.own


def test_the_end_marker_of_other_apis_is_not_logged() -> None:
    assert placed(Numbering(), delta(0), b"data: [DONE]\n\n")[1:] == []


def test_a_second_delivery_is_known_whatever_its_key_order_and_obfuscation() -> None:
    one = b'{"type":"d","sequence_number":1,"item_id":"m","delta":"x","obfuscation":"aa"}'
    two = b'{"obfuscation":"b","delta":"x","item_id":"m","sequence_number":1,"type":"d"}'
    assert same_event(one, two)
    assert not same_event(one, two.replace(b'"x"', b'"y"'))
    assert not same_event(one, two.replace(b'"d"', b'"e"'))


def test_the_type_of_a_stored_frame_is_found_with_and_without_its_event_line() -> None:
    assert type_of(b'event: a.b\ndata: {"type":"a.b"}\n\n') == "a.b"
    assert type_of(b'data: {"sequence_number":1, "type" : "c"}\n\n') == "c"
    assert type_of(b'data: {"item":{"type":"message"},"type":"response.output_item.added"}\n\n').endswith(".added")
    assert type_of(b"data: nothing\n\n") == ""


def test_an_end_made_from_the_final_object_is_one_event_with_that_object() -> None:
    event = synthesised_terminal(Status.INCOMPLETE, 9, b'{\n "id": "resp_1"\n}')
    (frame,) = Decoder().feed(event.frame)
    said = json.loads(frame.data)
    assert said == {"type": "response.incomplete", "sequence_number": 9, "response": {"id": "resp_1"}}


def test_the_nested_error_carries_the_readers_last_number() -> None:
    (frame,) = Decoder().feed(nested_error(4, message="m", code="c"))
    said = json.loads(frame.data)
    assert (said["type"], said["sequence_number"], said["error"]["code"]) == ("error", 4, "c")
    assert b'"sequence_number":0' in nested_error(-1, message="m", code="c")


given_numbers = st.lists(st.one_of(st.none(), st.integers(-2, 12)), max_size=40)


@given(given_numbers)
def test_whatever_upstream_numbers_positions_ascend_and_no_event_is_lost(said: list[int | None]) -> None:
    events = placed(Numbering(), *[delta(number, str(index)) for index, number in enumerate(said)])
    assert [json.loads(event.data)["delta"] for event in events] == [str(index) for index in range(len(said))]
    positions = numbers(events)
    assert positions == sorted(set(positions))
    assert [json.loads(event.data)["sequence_number"] for event in events] == positions
