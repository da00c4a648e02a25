"""The codec: whatever the network does to a stream's bytes, the same frames come out, with their own bytes."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.sse import KEEPALIVE, Decoder, EventTooLarge, Frame, encode, with_id

PLAIN = b'event: response.created\ndata: {"a":1}\n\n'


def decoded(stream: bytes, *cuts: int) -> list[Frame]:
    decoder = Decoder()
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    frames = [frame for start, stop in itertools.pairwise(edges) for frame in decoder.feed(stream[start:stop])]
    return frames + decoder.end()


def test_a_frame_keeps_its_own_bytes() -> None:
    assert decoded(PLAIN) == [Frame(b"response.created", b'{"a":1}', PLAIN)]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_every_line_ending_of_the_specification_is_one(ending: bytes) -> None:
    stream = PLAIN.replace(b"\n", ending) * 2
    assert [(frame.event, frame.data) for frame in decoded(stream)] == [(b"response.created", b'{"a":1}')] * 2
    assert b"".join(frame.raw for frame in decoded(stream)) == stream


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_a_stream_may_be_cut_at_every_byte(ending: bytes) -> None:
    stream = ("event: x\ndata: äöü€𝄞\n\n: a comment\n\ndata: 1\ndata: 2\n\n").encode().replace(b"\n", ending)
    whole = decoded(stream)
    assert len(whole) == 2
    for cut in range(len(stream)):
        assert decoded(stream, cut) == whole


lines = st.sampled_from(
    [
        b"event: a",
        b"data: 1",
        b"data:2",
        b"data: {}",
        b"data",
        b": comment",
        b"id: 7",
        b"retry: 3",
        b"",
        "data: ß".encode(),
    ]
)
endings = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(st.lists(st.tuples(lines, endings), max_size=30), st.lists(st.integers(0, 400), max_size=12))
def test_where_it_is_cut_makes_no_difference(parts: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    stream = b"".join(line + ending for line, ending in parts)
    assert decoded(stream, *cuts) == decoded(stream)


@given(st.lists(st.tuples(lines, endings), max_size=30))
def test_what_came_out_decodes_to_itself(parts: list[tuple[bytes, bytes]]) -> None:
    frames = decoded(b"".join(line + ending for line, ending in parts) + b"\n\n")
    again = decoded(b"".join(frame.raw for frame in frames))
    assert [(frame.event, frame.data) for frame in again] == [(frame.event, frame.data) for frame in frames]


def test_a_byte_order_mark_at_the_start_is_no_part_of_the_first_event() -> None:
    stream = b"\xef\xbb\xbf" + PLAIN
    for cut in range(6):
        assert decoded(stream, cut) == decoded(PLAIN)


def test_comments_ids_and_retries_belong_to_the_connection_and_not_to_the_event() -> None:
    stream = b'id: 5\nevent: x\n: why not\nretry: 10\ndata: {"id":1}\n\n'
    assert [frame.raw for frame in decoded(KEEPALIVE + stream)] == [b'event: x\ndata: {"id":1}\n\n']


def test_an_event_that_was_not_finished_is_none() -> None:
    assert decoded(PLAIN + b'data: {"half":') == decoded(PLAIN)


def test_data_of_several_lines_is_joined() -> None:
    assert decoded(b"data: {\ndata: }\n\n")[0].data == b"{\n}"


def test_an_event_over_the_limit_is_refused_and_not_held_for_ever() -> None:
    decoder = Decoder(limit=100)
    with pytest.raises(EventTooLarge):
        decoder.feed(b"data: " + b"x" * 200)


def test_an_event_of_megabytes_in_small_chunks_comes_out_whole() -> None:
    stream = encode("x", b'"' + b"y" * 2_000_000 + b'"')
    decoder = Decoder()
    frames = [frame for start in range(0, len(stream), 4096) for frame in decoder.feed(stream[start : start + 4096])]
    assert [frame.raw for frame in frames] == [stream]


def test_what_is_encoded_is_one_line_of_data() -> None:
    assert encode("x", b'{\r\n "a": 1\n}') == b'event: x\ndata: {   "a": 1 }\n\n'


def test_an_event_source_is_given_the_number_as_id() -> None:
    assert with_id(7, PLAIN) == b"id: 7\n" + PLAIN
