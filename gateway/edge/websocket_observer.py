"""What passes through a WebSocket, read along: frames into messages, messages into facts.

Rule: it gets copies, and cannot hold the tunnel up or break it: what it does not understand, or takes more memory than
it may, ends the observation of that WebSocket and nothing else. Messages larger than `event_limit_bytes` are passed
over. Called by `edge.websocket`. Sources: RFC 6455; RFC 7692 for `permessage-deflate`.
"""

import logging
import zlib
from collections.abc import Iterator

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, Opcode, ParseFailed, RsvBits

from gateway.domain.facts import Untracked
from gateway.domain.mode import Mode
from gateway.domain.websocket import Conversation, Side
from gateway.edge.context import Context

log = logging.getLogger("gateway")

_DEFLATE = "permessage-deflate"
# What one read may inflate to. JSON shrinks to a tenth; a thousandth is somebody's joke.
_INFLATED_BYTES = 16 * 2**20
_MAX_WINDOW_BITS = 15
# What the sender leaves out at the end of each message.
_END_OF_MESSAGE = b"\x00\x00\xff\xff"


class Observer:
    """Reads along. `extensions`: what the two ends agreed on, as upstream's handshake says."""

    def __init__(self, context: Context, conversation: Conversation, extensions: str) -> None:
        self._context = context
        self._conversation = conversation
        self._left: Side | None = None
        self._sides: dict[Side, _Messages] = {}
        limit = context.settings.event_limit_bytes
        try:
            self._sides = {side: _Messages(_inflate(extensions), side, limit) for side in ("client", "upstream")}
        except ValueError as error:
            self._stop(str(error))

    def sent(self, side: Side, data: bytes) -> None:
        """Bytes have come from this side."""
        messages = self._sides.get(side)
        if messages is None:
            return
        said = self._conversation.client_said if side == "client" else self._conversation.upstream_said
        try:
            heard = list(messages.feed(data))
            self._context.telemetry.emit(said([message for message in heard if message], self._context.clock()))
            if None in heard:
                self.left(side)
        except ParseFailed as error:
            self._stop(f"what {side} sends cannot be read: {error}")
        except Exception:
            log.exception("the observer of a WebSocket failed")
            self._stop("its observer failed")

    def left(self, side: Side) -> None:
        """This side ended the connection. The first word holds: a close frame comes before the end of the line."""
        self._left = self._left or side

    def close(self) -> None:
        """The connection is over."""
        self._end(self._left or "client")

    def _stop(self, why: str) -> None:
        log.warning("a WebSocket is not observed any further: %s", why)
        self._context.telemetry.emit([Untracked(self._context.clock(), "unreadable", Mode.WEBSOCKET)])
        self._end("observer")

    def _end(self, by: Side) -> None:
        self._sides = {}
        try:
            self._context.telemetry.emit(self._conversation.ended(by, self._context.clock()))
        except Exception:
            log.exception("the observer of a WebSocket failed")


class _Messages:
    """One side's frames, put together to its text messages of at most `limit` bytes."""

    def __init__(self, inflate: "_Inflate | None", side: Side, limit: int) -> None:
        self._inflate = inflate
        self._decoder = FrameDecoder(client=side == "upstream", extensions=[inflate] if inflate else [])
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0
        self._wanted = False

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """The messages that these bytes complete; None stands for a close frame. Raises `ParseFailed`."""
        if self._inflate is not None:
            self._inflate.budget = _INFLATED_BYTES
        self._decoder.receive_bytes(data)
        while (frame := self._decoder.process_buffer()) is not None:
            if frame.opcode is Opcode.CLOSE:
                yield None
            if frame.opcode.iscontrol():
                continue
            if frame.opcode is not Opcode.CONTINUATION:
                self._wanted = frame.opcode is Opcode.TEXT
            self._keep(bytes(frame.payload))  # type: ignore[arg-type]  # text too is bytes here
            if frame.frame_finished and frame.message_finished:
                if self._wanted:
                    yield b"".join(self._pieces)
                self._pieces, self._size = [], 0

    def _keep(self, payload: bytes) -> None:
        self._size += len(payload)
        self._wanted = self._wanted and self._size <= self._limit
        if self._wanted:
            self._pieces.append(payload)
        else:
            self._pieces = []


class _Inflate(Extension):
    """`permessage-deflate` of one side. The largest window, kept, also reads what a smaller or a new one wrote.

    wsproto's own forgets, at a ping between two fragments, that the message is compressed, and inflates without limit.
    `budget`: how many bytes more may come out.
    """

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(-_MAX_WINDOW_BITS)
        self._control = False
        self._compressed = False
        self.budget = 0

    def offer(self) -> bool:
        """Nothing is negotiated here."""
        return False

    def frame_inbound_header(self, proto: object, opcode: Opcode, rsv: RsvBits, payload_length: int) -> RsvBits:
        """A frame begins."""
        self._control = opcode.iscontrol()
        if not self._control and opcode is not Opcode.CONTINUATION:
            self._compressed = rsv.rsv1
        return RsvBits(True, False, False)

    def frame_inbound_payload_data(self, proto: object, data: bytes) -> bytes | CloseReason:
        """A piece of it has come."""
        return data if self._control or not self._compressed else self._inflated(data)

    def frame_inbound_complete(self, proto: object, fin: bool) -> bytes | CloseReason | None:
        """A frame is whole."""
        if self._control or not self._compressed or not fin:
            return None
        return self._inflated(_END_OF_MESSAGE)

    def _inflated(self, data: bytes) -> bytes | CloseReason:
        try:
            inflated = self._inflater.decompress(data, self.budget + 1)
        except zlib.error:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        self.budget -= len(inflated)
        # A last block, which the standard allows and nobody sends, ends the window that the next message needs.
        if self.budget < 0 or self._inflater.eof:
            return CloseReason.MESSAGE_TOO_BIG
        return inflated


def _inflate(extensions: str) -> _Inflate | None:
    """What undoes the compression of one side's messages. Raises ValueError for an extension that cannot be read."""
    agreed = [extension.strip() for extension in extensions.split(",") if extension.strip()]
    if not agreed:
        return None
    if len(agreed) > 1 or agreed[0].partition(";")[0].strip().lower() != _DEFLATE:
        raise ValueError(f"its extensions are not known: {extensions}")
    return _Inflate()
