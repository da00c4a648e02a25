"""A WebSocket through the gateway is the WebSocket of the two ends."""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer
from wire import PATIENCE_S, Asked, answering, dial, error_of, exchange, scripted_upstream, status_of, unnamed

from gateway.domain.facts import RequestServed

UPGRADE = (
    b"GET /v1/responses HTTP/1.1\r\nHost: g\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Up: 1\r\n\r\n"

Serve = Callable[[web.WebSocketResponse, web.Request], Awaitable[None]]


@pytest.fixture
def open_websocket(parts, gateway_for):
    """Connect through a gateway to an upstream that does what `serve` says."""

    async def connect(serve: Serve, *, spoken: tuple[str, ...] = (), **options) -> aiohttp.ClientWebSocketResponse:
        async def handle(request: web.Request) -> web.WebSocketResponse:
            websocket = web.WebSocketResponse(protocols=spoken, max_msg_size=0, autoping=False)
            await websocket.prepare(request)
            await serve(websocket, request)
            return websocket

        app = web.Application()
        app.router.add_get("/base/{path:.*}", handle)
        server = TestServer(app)
        await server.start_server()
        parts.push_async_callback(server.close)
        gateway = await gateway_for(str(server.make_url("/base")))
        session = await parts.enter_async_context(aiohttp.ClientSession())
        url = f"{gateway.url}/v1/responses?model=m"
        return await session.ws_connect(url, autoping=False, max_msg_size=0, **options)

    return connect


async def echo(websocket: web.WebSocketResponse, request: web.Request) -> None:
    async for message in websocket:
        if message.type is WSMsgType.TEXT:
            await websocket.send_str(message.data)
        elif message.type is WSMsgType.PING:
            await websocket.pong(message.data)
        else:
            await websocket.send_bytes(message.data)


async def heard(websocket: aiohttp.ClientWebSocketResponse) -> aiohttp.WSMessage:
    return await websocket.receive(timeout=PATIENCE_S)


async def test_messages_and_pings_pass_both_ways(open_websocket):
    websocket = await open_websocket(echo)

    await websocket.send_str('{"type":"response.create"}')
    assert (await heard(websocket)).data == '{"type":"response.create"}'
    await websocket.send_bytes(b"\x00\xff")
    assert (await heard(websocket)).data == b"\x00\xff"
    await websocket.ping(b"there?")
    pong = await heard(websocket)
    assert (pong.type, pong.data) == (WSMsgType.PONG, b"there?")


async def test_the_handshake_passes_with_its_headers_and_sub_protocol(open_websocket):
    asked: list[web.Request] = []

    async def note(websocket: web.WebSocketResponse, request: web.Request) -> None:
        asked.append(request)
        await websocket.send_str("hello")

    websocket = await open_websocket(
        note, spoken=("v1", "v2"), protocols=("v3", "v2"), headers={"Authorization": "Bearer sk"}
    )

    assert (await heard(websocket)).data == "hello"
    assert asked[0].headers["Authorization"] == "Bearer sk"
    assert asked[0].raw_path == "/base/responses?model=m"
    assert websocket.protocol == "v2"


@pytest.mark.parametrize("compress", [0, 15])
async def test_large_messages_pass_compressed_or_not(open_websocket, compress):
    websocket = await open_websocket(echo, compress=compress)
    large = "0123456789abcdef" * 2**16 * 5

    await websocket.send_str(large)
    assert (await heard(websocket)).data == large
    assert bool(websocket.compress) is bool(compress)


async def test_upstreams_close_reaches_the_client_with_code_and_reason(open_websocket):
    async def close(websocket: web.WebSocketResponse, request: web.Request) -> None:
        await websocket.close(code=4008, message=b"taken too long")

    websocket = await open_websocket(close)

    closing = await heard(websocket)
    assert (closing.type, closing.data, closing.extra) == (WSMsgType.CLOSE, 4008, "taken too long")


async def test_the_clients_close_reaches_upstream_with_code_and_reason(open_websocket):
    closed: asyncio.Queue[aiohttp.WSMessage] = asyncio.Queue()

    async def listen(websocket: web.WebSocketResponse, request: web.Request) -> None:
        closed.put_nowait(await websocket.receive())

    websocket = await open_websocket(listen)
    await websocket.close(code=4001, message=b"enough")

    async with asyncio.timeout(PATIENCE_S):
        closing = await closed.get()
    assert (closing.type, closing.data, closing.extra) == (WSMsgType.CLOSE, 4001, "enough")
    assert websocket.close_code == 1000  # upstream's answer to it


async def test_bytes_pass_as_they_are_from_the_first_on(parts, gateway_for):
    async def script(asked: Asked) -> None:
        await asked.send(SWITCHED + b"at once")
        assert await asked.exactly(5) == b"early"
        await asked.send(b"end")

    upstream = await scripted_upstream(parts, script)
    gateway = await gateway_for(upstream.url)

    line = await dial(parts, gateway.url)
    await line.send(UPGRADE + b"early")
    head = await line.head()
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"X-Up: 1\r\n" in head
    assert await line.rest() == b"at onceend"
    assert upstream.asked[0].header(b"connection") == [b"Upgrade"]
    assert upstream.asked[0].header(b"sec-websocket-key") == [b"dGhlIHNhbXBsZSBub25jZQ=="]


async def test_what_a_client_sends_right_before_it_leaves_arrives(parts, gateway_for):
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(asked: Asked) -> None:
        await asked.send(SWITCHED)
        got.put_nowait(await asked.rest())

    upstream = await scripted_upstream(parts, script)
    gateway = await gateway_for(upstream.url)

    line = await dial(parts, gateway.url)
    await line.send(UPGRADE)
    await line.head()
    await line.send(b"last words")
    line.close()

    async with asyncio.timeout(PATIENCE_S):
        assert await got.get() == b"last words"


@pytest.mark.parametrize("status", [401, 404, 426])
async def test_an_upstream_that_does_not_upgrade_has_its_say(parts, gateway_for, status):
    refusal = b"HTTP/1.1 %d No\r\nContent-Length: 5\r\n" % status
    upstream = await scripted_upstream(parts, answering(refusal + b"\r\nsorry"))
    gateway = await gateway_for(upstream.url)

    line = await dial(parts, gateway.url)
    await line.send(UPGRADE)
    assert unnamed(await line.head()) == refusal + b"\r\n"
    assert await line.exactly(5) == b"sorry"

    # The line has stayed an HTTP line.
    await line.send(b"GET /v1/models HTTP/1.1\r\nHost: g\r\n\r\n")
    assert unnamed(await line.head()) == refusal + b"\r\n"


async def test_an_upstream_out_of_reach_is_a_502(parts, gateway_for):
    gateway = await gateway_for("http://127.0.0.1:9/v1")

    line = await dial(parts, gateway.url)
    await line.send(UPGRADE)
    assert status_of(await line.head()) == 502


async def test_with_the_gateways_own_credential_websockets_are_refused(parts, gateway_for):
    upstream = await scripted_upstream(parts, answering(SWITCHED))
    gateway = await gateway_for(upstream.url, upstream_api_key="sk-own")

    answer = await exchange(parts, gateway.url, UPGRADE.replace(b"keep-alive, Upgrade", b"Upgrade, close"))

    assert status_of(answer) == 403
    assert error_of(answer)["code"] == "websocket_not_allowed"
    assert upstream.asked == []


async def test_another_upgrade_is_not_passed_on(parts, gateway_for):
    upstream = await scripted_upstream(parts, answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    gateway = await gateway_for(upstream.url)

    answer = await exchange(
        parts, gateway.url, b"GET /v1/x HTTP/1.1\r\nHost: g\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n"
    )

    assert status_of(answer) == 200
    assert upstream.asked[0].header(b"upgrade") == []


async def test_a_tunnel_is_a_served_request(parts, gateway_for):
    upstream = await scripted_upstream(parts, answering(SWITCHED))
    gateway = await gateway_for(upstream.url)

    line = await dial(parts, gateway.url)
    await line.send(UPGRADE)
    await line.rest()

    served = await gateway.facts.wait_for(RequestServed)
    assert (served.route, served.status, served.origin) == ("/responses", 101, None)
