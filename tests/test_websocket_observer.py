"""The observer of a WebSocket reads whatever the two ends agreed on, and stops where it cannot, alone."""

import json
import zlib

import pytest
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol

from gateway.domain.facts import Untracked
from gateway.edge.websocket_observer import Observer

CREATE = {"type": "response.create", "model": "gpt-5", "input": "words and words " * 50}
DEFLATE = "permessage-deflate"


class Heard:
    """In place of a conversation: what the observer understood."""

    def __init__(self, *, breaks=False):
        self.said = []
        self.ended_by = []
        self._breaks = breaks

    def client_said(self, messages, at):
        return self._note("client", messages)

    def upstream_said(self, messages, at):
        return self._note("upstream", messages)

    def ended(self, by, at):
        self.ended_by.append(by)
        return self._note("end", [])

    def _note(self, whose, messages):
        if self._breaks:
            raise RuntimeError("broken")
        self.said += [(whose, message) for message in messages]
        return []


@pytest.fixture
async def observer(gateway_for):
    """An observer over a gateway's own parts."""
    gateway = None

    async def make(heard, extensions="", **settings):
        nonlocal gateway
        gateway = await gateway_for("http://127.0.0.1:9/v1", **settings)
        return Observer(gateway.gateway.context, heard, extensions)

    make.untracked = lambda: [fact.reason for fact in gateway.facts.of(Untracked)]
    return make


def end(side, extensions=""):
    """What one side writes its frames with."""
    agreed = []
    if extensions:
        agreed.append(PerMessageDeflate())
        agreed[0].finalize(extensions)
    return FrameProtocol(client=side == "client", extensions=agreed)


@pytest.mark.parametrize("piece", [1, 7, 10**6])
@pytest.mark.parametrize("side", ["client", "upstream"])
@pytest.mark.parametrize(
    "extensions",
    [
        "",
        DEFLATE,
        f"{DEFLATE}; client_no_context_takeover; server_no_context_takeover",
        f"{DEFLATE}; client_max_window_bits=9; server_max_window_bits=10",
    ],
)
async def test_messages_are_read_in_fragments_between_pings_and_however_they_are_cut(observer, extensions, side, piece):
    heard, sender = Heard(), end(side, extensions)
    watching = await observer(heard, extensions)
    messages = [json.dumps({**CREATE, "number": number}).encode() for number in range(4)]
    sent = b""
    for message in messages:
        for start in range(0, len(message), 300):
            last = start + 300 >= len(message)
            sent += sender.send_data(message[start : start + 300].decode(), fin=last)
            sent += sender.ping(b"there?")
        sent += sender.send_data(b"\x00\xff binary", fin=True)
        sent += sender.send_data("", fin=True)

    for start in range(0, len(sent), piece):
        watching.sent(side, sent[start : start + piece])

    assert [message for _, message in heard.said] == messages
    assert {of for of, _ in heard.said} == {side}
    assert observer.untracked() == []


async def test_a_message_over_the_limit_is_passed_over_and_the_next_one_read(observer):
    heard, sender = Heard(), end("upstream", DEFLATE)
    watching = await observer(heard, DEFLATE, event_limit_bytes=1000)
    for message in ("a" * 1000, "b" * 1001, "c"):
        for half in (False, True):
            watching.sent("upstream", bytes(sender.send_data(message[half::2], fin=half)))
    assert [message[:1] for _, message in heard.said] == [b"a", b"c"]


@pytest.mark.parametrize(
    ("side", "data"),
    [
        ("upstream", b"\x83\x00"),  # an opcode that nobody has defined
        ("upstream", b"\xc1\x05hello"),  # a bit that nobody agreed on
        ("upstream", b"\x81\x81\x00\x00\x00\x00x"),  # a mask, which is a client's
        ("client", b"\x81\x01x"),  # no mask
        ("client", b"\x89\xfe\x00\x80"),  # a ping that is too long
    ],
)
async def test_frames_that_are_none_end_the_observation(observer, side, data):
    heard = Heard()
    watching = await observer(heard)
    watching.sent(side, data)
    watching.sent(side, bytes(end(side).send_data("later")))
    assert (heard.said, heard.ended_by, observer.untracked()) == ([], ["observer"], ["unreadable"])


@pytest.mark.parametrize("extensions", ["x-webkit-deflate-frame", f"{DEFLATE}, x-more", "bbf-usp-protocol; a=1"])
async def test_an_unknown_extension_is_not_observed(observer, extensions):
    heard = Heard()
    watching = await observer(heard, extensions)
    watching.sent("upstream", bytes(end("upstream").send_data("x")))
    assert (heard.said, heard.ended_by, observer.untracked()) == ([], ["observer"], ["unreadable"])


# No deflate at all; and a last block, after which there is no window for the next message.
@pytest.mark.parametrize("compressed", [b"\xff" * 20, zlib.compress(b"x" * 100, wbits=-15)])
async def test_what_cannot_be_inflated_ends_the_observation(observer, compressed):
    heard = Heard()
    watching = await observer(heard, DEFLATE)
    watching.sent("upstream", b"\xc1" + bytes([len(compressed)]) + compressed)
    assert (heard.said, heard.ended_by, observer.untracked()) == ([], ["observer"], ["unreadable"])


async def test_what_inflates_beyond_reason_is_not_inflated(observer):
    """A gigabyte in a megabyte: it would hold the event loop up, whether it is kept or not."""
    heard = Heard()
    watching = await observer(heard, DEFLATE)
    packer = zlib.compressobj(9, wbits=-15)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush(zlib.Z_SYNC_FLUSH)
    watching.sent("upstream", b"\xc1\x7f" + len(packed).to_bytes(8, "big") + packed)
    assert len(packed) < 2**17
    assert (heard.said, heard.ended_by, observer.untracked()) == ([], ["observer"], ["unreadable"])


async def test_an_observer_that_breaks_is_switched_off_and_raises_nothing(observer, caplog):
    heard = Heard(breaks=True)
    watching = await observer(heard)
    for _ in range(2):
        watching.sent("client", bytes(end("client").send_data("x")))
    watching.close()
    assert observer.untracked() == ["unreadable"]
    assert "the observer of a WebSocket failed" in caplog.text


@pytest.mark.parametrize(
    ("frames", "lines", "whose"),
    [
        (["upstream", "client"], ["client"], "upstream"),
        (["client", "upstream"], ["upstream"], "client"),
        ([], ["upstream", "client"], "upstream"),
        ([], [], "client"),
    ],
)
async def test_who_sent_a_close_frame_ended_it_else_whose_line_was_over_first(observer, frames, lines, whose):
    heard = Heard()
    watching = await observer(heard)
    for side in frames:
        watching.sent(side, bytes(end(side).close(1001)))
    for side in lines:
        watching.left(side)
    watching.close()
    assert heard.ended_by == [whose]
