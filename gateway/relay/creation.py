"""Creating a response: one call to upstream, and what its answer turns out to be.

The answer decides, not the request: an event stream is pumped, a response object is read, anything else is handed
through. Runs in a task of the tracker, so that a client that leaves stops nothing by leaving.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from gateway.config import Settings
from gateway.domain import mode
from gateway.domain.errors import GatewayError, StoreUnavailable, UpstreamError, UpstreamUnreachable
from gateway.domain.facts import Attempted, Refused, StoreFailed
from gateway.domain.headers import Headers, kept_with_snapshot, request_id
from gateway.domain.lifecycle import give_up
from gateway.domain.mode import Mode
from gateway.domain.response import Body, Ending, Status
from gateway.domain.snapshot import Snapshot, read_snapshot
from gateway.relay.ledger import Ledger
from gateway.relay.live import Live
from gateway.relay.poller import Poller
from gateway.relay.pump import Pump
from gateway.relay.upstream import Answer, Call, Upstream
from gateway.telemetry.observers import Telemetry

_UNANSWERED = "The gateway stopped waiting for upstream's answer; whether the response runs is not known."
_STREAM_REFUSED = frozenset({400, 404, 405, 422, 501})


class Head(NamedTuple):
    """What the client is answered: status, reason and headers, and a body unless the log is to be followed.

    `rest`: an answer too large to be looked at; its body is passed on from it. `follow`: the log is the body.
    """

    status: int
    reason: str
    headers: Headers
    body: bytes = b""
    rest: Answer | None = None
    follow: bool = False


class Creation:
    """Makes the create call of a response and follows it up. `refused` is told of each create that came to nothing."""

    def __init__(
        self,
        settings: Settings,
        upstream: Upstream,
        ledger: Ledger,
        pump: Pump,
        poller: Poller,
        telemetry: Telemetry,
        clock: Callable[[], float],
        refused: Callable[[Live, int, Headers], None],
    ) -> None:
        self._settings = settings
        self._upstream = upstream
        self._ledger = ledger
        self._pump = pump
        self._poller = poller
        self._telemetry = telemetry
        self._clock = clock
        self._on_refused = refused

    async def run(self, live: Live, call: Call, head: "asyncio.Future[Head]") -> None:
        """Call upstream and go on with its answer until the response has ended or the poller has it."""
        try:
            answer = await self._call(live, call)
            if answer.ok and answer.is_event_stream:
                await self._stream(live, answer, head)
            else:
                await self._whole(live, answer, head)
        except UpstreamUnreachable as error:
            await self._refused(live, error.status, [])
            _answer(head, error)
        except UpstreamError as error:
            error.headers = {**error.headers, "x-should-retry": "false"}
            outcome = give_up(
                live.response, Ending.UPSTREAM_LOST, self._clock(), code=error.code, message=error.message
            )
            _answer(head, error)
            await self._ledger.end_surely(live, outcome, source="create")
        finally:
            # Given up, or failed in a way that nobody foresaw: whoever waits is told.
            _answer(head, GatewayError(_UNANSWERED, headers={"x-should-retry": "false"}))

    async def _call(self, live: Live, call: Call) -> Answer:
        """The call; with `background_tracking=stream` as a stream first, and as it came where upstream refuses that.

        With a completion window there are no streams.
        """
        as_stream = live.response.mode is Mode.BACKGROUND and self._settings.background_tracking == "stream"
        if not as_stream or live.response.parameters.completion_window_s:
            return await self._attempt(live, call)
        assert isinstance(call.body, bytes)
        headers = [(name, value) for name, value in call.headers if name.lower() != "content-length"]
        answer = await self._attempt(live, call._replace(headers=headers, body=mode.streamed(call.body)))
        if answer.status not in _STREAM_REFUSED:
            return answer
        answer.close()
        return await self._attempt(live, call, resends=1)

    async def _attempt(self, live: Live, call: Call, *, resends: int = 0) -> Answer:
        at = self._clock()
        try:
            answer = await self._upstream.send(call)
        except UpstreamError as error:
            took = self._clock() - at
            self._telemetry.emit([Attempted(at, live.response, 0, took, resends, error.code)])
            raise
        live.response = live.response.but(upstream_request_id=request_id(answer.headers))
        self._telemetry.emit([Attempted(at, live.response, answer.status, answer.seconds, resends)])
        return answer

    async def _stream(self, live: Live, answer: Answer, head: "asyncio.Future[Head]") -> None:
        kept = [(name, value) for name, value in kept_with_snapshot(answer.headers) if name.lower() != "content-type"]
        live.body = Body(b"", (("Content-Type", "application/json"), *kept))
        live.response = live.response.but(pumped=True, logged=True)
        _answer(head, Head(answer.status, answer.reason, answer.headers, follow=True))
        await self._pump.run(live, answer)

    async def _whole(self, live: Live, answer: Answer, head: "asyncio.Future[Head]") -> None:
        """An answer in one piece: a response object, an error, or something that only the client understands."""
        try:
            body = await answer.peek(self._settings.event_limit_bytes)
        except UpstreamError:
            answer.close()
            raise
        if body is None:
            await self._refused(live, answer.status, answer.headers)
            _answer(head, Head(answer.status, answer.reason, answer.headers, rest=answer))
            if not live.readers:
                answer.close()
            return
        answer.close()
        snapshot = read_snapshot(body) if answer.ok else None
        if snapshot is None or (snapshot.id is None and snapshot.status is None):
            await self._refused(live, answer.status, answer.headers)
        else:
            await self._made(live, snapshot, answer.headers)
        _answer(head, Head(answer.status, answer.reason, answer.headers, body=body))

    async def _made(self, live: Live, snapshot: Snapshot, headers: Headers) -> None:
        if snapshot.status is None and not live.response.mode.background:
            snapshot = snapshot.but(status=Status.COMPLETED)  # an answer that was waited for is the end
        try:
            await self._ledger.observe(live, snapshot, headers, source="create")
        except StoreUnavailable as error:
            self._telemetry.emit([StoreFailed(self._clock(), "create", error.message)])
        self._poller.take(live)

    async def _refused(self, live: Live, status: int, headers: Headers) -> None:
        self._telemetry.emit([Refused(self._clock(), live.response, status)])
        self._on_refused(live, status, headers)
        try:
            await self._ledger.drop(live)
        except StoreUnavailable as error:
            self._telemetry.emit([StoreFailed(self._clock(), "delete", error.message)])


def _answer(head: "asyncio.Future[Head]", answer: Head | GatewayError) -> None:
    if head.done():
        return
    if isinstance(answer, Head):
        head.set_result(answer)
    else:
        head.set_exception(answer)
