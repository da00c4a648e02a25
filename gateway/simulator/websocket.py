"""The WebSocket form of `/responses`: the same events without framing, one response after the other."""

import msgspec
from aiohttp import WSMsgType, web

from gateway.simulator.answers import ApiError
from gateway.simulator.items import Json
from gateway.simulator.responses import check, chosen
from gateway.simulator.script import events
from gateway.simulator.streaming import attached, break_connection
from gateway.simulator.world import OWNER, WORLD, Interrupted, Record, World


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
    try:
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                await _serve(world, request, socket, message.data)
    except Interrupted as interrupted:
        await break_connection(request, interrupted.how)
    except ConnectionError:
        pass  # the client has gone
    finally:
        world.sockets.discard(socket)
    return socket


async def _serve(world: World, request: web.Request, socket: web.WebSocketResponse, text: str) -> None:
    lane: Json = {}
    try:
        frame = _frame(text)
        lane = {"stream_id": frame["stream_id"]} if "stream_id" in frame else {}
        record = _create(world, request[OWNER], frame)
    except ApiError as error:
        await _send(socket, {"type": "error", "status": error.status, **error.body, **lane})
        return
    with attached(record, request) as connection:
        scenario = record.plan.scenario
        for sent, event in enumerate(events(record.plan)):
            await world.wait(record, event.age_s, connection)
            if scenario.cut is not None and sent == scenario.after:
                raise Interrupted(scenario.cut)
            await _send(socket, {**event.message(), **lane})
        await world.wait(record, record.plan.end_s, connection)


async def _send(socket: web.WebSocketResponse, value: Json) -> None:
    await socket.send_str(msgspec.json.encode(value).decode())


def _frame(text: str) -> Json:
    try:
        frame = msgspec.json.decode(text)
    except msgspec.DecodeError:
        frame = None
    if not isinstance(frame, dict) or frame.get("type") != "response.create":
        raise ApiError(400, "Expected a JSON object of type 'response.create'.", param="type")
    if frame.get("background") is True:
        raise ApiError(400, "Background is not supported on WebSocket connections.", param="background")
    return frame


def _create(world: World, owner: str, frame: Json) -> Record:
    body = {key: value for key, value in frame.items() if key not in ("type", "stream_id", "stream")}
    scenario = chosen(world, body)
    check(world, owner, body)
    return world.create(body, scenario, owner)


ROUTES = {("GET", "/responses"): connect}
