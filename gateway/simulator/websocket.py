"""The WebSocket form of `/responses`: the same events without framing, in lanes.

Within a lane responses come one after the other, lanes go on beside each other. A response that is not stored is known
for as long as its connection lasts.
"""

import asyncio
import re
from collections import deque
from dataclasses import dataclass, field, replace

import msgspec
from aiohttp import WSMsgType, web

from gateway.simulator.answers import ApiError
from gateway.simulator.items import Json
from gateway.simulator.responses import check, chosen
from gateway.simulator.script import events
from gateway.simulator.streaming import attached, break_connection
from gateway.simulator.world import OWNER, WORLD, Interrupted, Record, World

_LANE = re.compile(r"[A-Za-z0-9_.-]{1,256}", re.ASCII)
_IN_FLIGHT = 16
_NAMED_LANES = 32


@dataclass(slots=True)
class _Line:
    """One connection: what was asked for in each lane, which lanes wait for a hand, which responses came over it."""

    socket: web.WebSocketResponse
    request: web.Request
    lanes: dict[str | None, deque[Json]] = field(default_factory=dict)
    ready: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)
    known: set[str] = field(default_factory=set)
    asked: int = 0
    over: bool = False

    async def send(self, value: Json, lane: str | None) -> None:
        """A message, which names the lane if that has a name."""
        named = value if lane is None else {**value, "stream_id": lane}
        await self.socket.send_str(msgspec.json.encode(named).decode())

    async def refuse(self, error: ApiError, lane: str | None) -> None:
        """An error, of a response that did not come about."""
        await self.send({"type": "error", "status": error.status, **error.body}, lane)


async def connect(request: web.Request) -> web.StreamResponse:
    """GET /responses with an upgrade: answers each `response.create` frame with the events of a response.

    Raises ApiError 405 without an upgrade, as any GET of this path.
    """
    socket = web.WebSocketResponse()
    if not socket.can_prepare(request):
        raise ApiError(405, f"Not allowed to GET on {request.path}.", code="method_not_supported")
    world = request.app[WORLD]
    await socket.prepare(request)
    world.sockets.add(socket)
    line = _Line(socket, request)
    try:
        await asyncio.gather(_listen(line), *(_work(world, line) for _ in range(_IN_FLIGHT)))
    finally:
        world.sockets.discard(socket)
    return socket


async def _listen(line: _Line) -> None:
    """Hand what the client asks for to the lanes, until it closes the connection."""
    try:
        async for message in line.socket:
            if message.type == WSMsgType.TEXT:
                await _hear(line, message.data)
    except ConnectionError:
        pass  # the client has gone
    finally:
        _release(line)


async def _hear(line: _Line, text: str) -> None:
    lane = None
    try:
        frame = _frame(text)
        lane = frame.get("stream_id")
        _make_room(line, lane)
    except ApiError as error:
        await line.refuse(error, lane)
        return
    line.asked += 1
    line.lanes.setdefault(lane, deque()).append(frame)
    if len(line.lanes[lane]) == 1:
        line.ready.put_nowait(lane)


async def _work(world: World, line: _Line) -> None:
    """Serve one lane after the other, one response of it at a time."""
    while True:
        lane = await line.ready.get()
        if line.over:
            return
        waiting = line.lanes[lane]
        try:
            await _serve(world, line, waiting[0], lane)
        except Interrupted as interrupted:
            _release(line)
            await break_connection(line.request, interrupted.how)
            return
        except ConnectionError:
            _release(line)  # the client has gone
            return
        line.asked -= 1
        waiting.popleft()
        if waiting:
            line.ready.put_nowait(lane)


def _release(line: _Line) -> None:
    """It is over: have every hand that waits leave."""
    line.over = True
    for _ in range(_IN_FLIGHT):
        line.ready.put_nowait(None)


def _make_room(line: _Line, lane: str | None) -> None:
    """Raises ApiError 400 where the connection carries as much as it may."""
    named = sum(name is not None for name in line.lanes)
    if line.asked >= _IN_FLIGHT or (lane is not None and lane not in line.lanes and named >= _NAMED_LANES):
        message = f"A connection carries at most {_IN_FLIGHT} responses at a time, in {_NAMED_LANES} named lanes."
        raise ApiError(400, message, param="stream_id", code="websocket_stream_limit_reached")


async def _serve(world: World, line: _Line, frame: Json, lane: str | None) -> None:
    try:
        record = _create(world, line, frame)
    except ApiError as error:
        await line.refuse(error, lane)
        return
    line.known.add(record.plan.id)
    with attached(record, line.request) as connection:
        scenario = record.plan.scenario
        for sent, event in enumerate(events(record.plan)):
            await world.wait(record, event.age_s, connection)
            if scenario.cut is not None and sent == scenario.after:
                raise Interrupted(scenario.cut)
            await line.send(event.message(), lane)
        await world.wait(record, record.plan.end_s, connection)


def _frame(text: str) -> Json:
    try:
        frame = msgspec.json.decode(text)
    except msgspec.DecodeError:
        frame = None
    if not isinstance(frame, dict) or frame.get("type") != "response.create":
        raise ApiError(400, "Expected a JSON object of type 'response.create'.", param="type")
    if not (isinstance(frame.get("stream_id", "-"), str) and _LANE.fullmatch(frame.get("stream_id", "-"))):
        raise ApiError(400, "A stream_id is 1 to 256 letters, digits, '_', '.' or '-'.", param="stream_id")
    if frame.get("background") is True:
        raise ApiError(400, "Background is not supported on WebSocket connections.", param="background")
    return frame


def _create(world: World, line: _Line, frame: Json) -> Record:
    body = {key: value for key, value in frame.items() if key not in ("type", "stream_id", "stream", "generate")}
    owner = line.request[OWNER]
    scenario = chosen(world, body)
    of_this_line = body.get("previous_response_id") in line.known
    check(world, owner, {**body, "previous_response_id": None} if of_this_line else body)
    if frame.get("generate") is False:
        scenario = replace(scenario, output=(), duration_s=0)
    return world.create(body, scenario, owner)


ROUTES = {("GET", "/responses"): connect}
