"""Responses over a WebSocket: the bytes are those of the two ends, and each response in it is observed."""

import asyncio
import json
from contextlib import AsyncExitStack

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer
from collecting import Collector
from running import PATIENCE_S
from stories import KEY, MODEL, STILL, ask, fetch
from wire import Asked, cable_to, dial, scripted_upstream
from wsproto.frame_protocol import FrameProtocol

from gateway.domain.facts import Appended, Created, Ended, FirstOutput, Refused, Surveyed, Untracked, UpstreamCut
from gateway.domain.mode import Mode
from gateway.domain.response import Ending, Status, Stuck

UPGRADE = (
    b"GET /v1/responses HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


def create(asked=None, lane=None, **more):
    """A message that asks for a response."""
    named = {} if lane is None else {"stream_id": lane}
    return {"type": "response.create", **(asked or ask()), **named, **more}


@pytest.fixture
def talk(parts):
    """Open a WebSocket to the responses of a gateway, or of upstream itself."""

    async def connect(url, **options):
        session = await parts.enter_async_context(aiohttp.ClientSession())
        options = {"headers": KEY, "max_msg_size": 0, **options}
        return await session.ws_connect(f"{url}/responses", **options)

    return connect


async def said(socket, *, until="response.completed", count=1):
    """What upstream says, up to so many messages of this type."""
    got = []
    while sum(message["type"] == until for message in got) < count:
        message = await socket.receive(timeout=PATIENCE_S)
        assert message.type is WSMsgType.TEXT, (message, got[-2:])
        got.append(json.loads(message.data))
    return got


async def test_the_sdk_talks_over_it_and_each_response_is_observed_with_a_trace_of_its_own(stage):
    upstream, gateway = await stage()
    async with gateway.client().responses.connect(
        extra_headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    ) as line:
        previous = None
        for _ in range(2):
            await line.response.create(**ask(), **({"previous_response_id": previous} if previous else {}))
            async for event in line:
                if event.type == "response.completed":
                    last, previous = event.response, event.response.id
                    break
    await gateway.facts.wait_for(Ended, lambda fact: fact.response.response_id == previous)

    first, second = (fact.response for fact in gateway.facts.of(Ended))
    assert (first.status, first.mode, first.ending) == (Status.COMPLETED, Mode.WEBSOCKET, Ending.TERMINAL)
    assert (second.usage.input, second.usage.output) == (last.usage.input_tokens, last.usage.output_tokens)
    assert (second.model, second.previous_response_id) == (last.model, first.response_id)
    assert len(gateway.facts.of(Created)) == len(gateway.facts.of(FirstOutput)) == 2
    assert len({first.trace.trace_id, second.trace.trace_id, int("a" * 32, 16)}) == 3
    assert upstream.asked("GET", "/responses") == 1


async def test_each_response_is_a_trace_of_its_own_and_links_to_the_one_it_goes_on_from(
    parts, simulate, gateway_for, talk
):
    collector = Collector()
    parts.push_async_callback(collector.close)
    await collector.open()
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    upstream = await simulate()
    gateway = await gateway_for(upstream.url, environ=environ)
    socket = await talk(f"{gateway.url}/v1", headers={**KEY, "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
    await socket.send_json(create())
    first = (await said(socket))[-1]["response"]["id"]
    await socket.send_json(create(previous_response_id=first))
    await said(socket)
    await socket.send_json(create(previous_response_id="resp_unknown"))
    await said(socket, until="error")

    chats = await collector.until(lambda: len(found := collector.named("chat gpt-5.2")) == 3 and found)
    creates = collector.named("WEBSOCKET /v1/responses")
    assert [chat.parent_id for chat in chats] == [create.span_id for create in creates]
    assert len({int("a" * 32, 16), *(int(chat.trace_id, 16) for chat in chats)}) == 4
    assert [len(chat.links) for chat in chats] == [0, 1, 0]
    assert [chat.attributes.get("gen_ai.usage.output_tokens", 0) > 0 for chat in chats] == [True, True, False]
    assert {create.attributes["gateway.mode"] for create in creates} == {"websocket"}
    assert not [create for create in creates if "http.request.method" in create.attributes]
    assert chats[2].attributes["error.type"] == "previous_response_not_found"


async def test_what_passes_is_counted_once_and_kept_nowhere(stage, talk):
    upstream, gateway = await stage()
    socket = await talk(f"{gateway.url}/v1")
    await socket.send_json(create())
    response = (await said(socket))[-1]["response"]
    await gateway.facts.wait_for(Ended)
    await fetch(f"{gateway.url}/v1/responses/{response['id']}")

    metrics = (await fetch(f"{gateway.ops_url}/metrics")).body.decode()
    counted = [line for line in metrics.splitlines() if 'mode="websocket"' in line or "model_tokens" in line]
    model, usage = response["model"], response["usage"]
    for counter in (
        f'responses_created_total{{mode="websocket",model="{model}"}} 1.0',
        f'mode="websocket",model="{model}",origin="none",status="completed"}} 1.0',
        f'tokens_total{{kind="output",model="{model}"}} {float(usage["output_tokens"])}',
    ):
        assert sum(line.endswith(counter) for line in metrics.splitlines()) == 1, (counter, counted)
    assert gateway.facts.of(Appended) == []
    assert (await fetch(f"{gateway.ops_url}/responses")).json["data"] == []
    assert upstream.asked("GET", response["id"]) == 1


@pytest.mark.parametrize("compress", [0, 15, 9])
async def test_every_byte_is_the_same_on_both_sides_of_the_gateway(parts, simulate, gateway_for, talk, compress):
    upstream = await simulate()
    behind = await cable_to(parts, upstream.url)
    gateway = await gateway_for(behind.url)
    before = await cable_to(parts, gateway.url)
    socket = await talk(f"{before.url}/v1", compress=compress, autoping=False)

    await socket.ping(b"before")
    await socket.send_json(create(ask("big", bytes=300_000)))
    await socket.send_bytes(b"\x00\xff" * 100_000)
    await socket.send_json(create(input="long " * 50_000))
    pong = await socket.receive(timeout=PATIENCE_S)
    events = await said(socket, count=2)
    await socket.close(code=4001, message=b"enough")

    assert (pong.type, pong.data) == (WSMsgType.PONG, b"before")
    assert bool(socket.compress) is bool(compress)
    (at_the_client,), (at_upstream,) = before.passed, behind.passed
    for way in ("up", "down"):
        sent, arrived = (bytes(getattr(end, way)).partition(b"\r\n\r\n")[2] for end in (at_the_client, at_upstream))
        assert sent == arrived
        assert len(sent) > 1000
    await gateway.facts.wait_for(Ended, lambda fact: fact.response.response_id == events[-1]["response"]["id"])
    assert [fact.response.status for fact in gateway.facts.of(Ended)] == [Status.COMPLETED] * 2
    assert gateway.facts.of(Untracked) == []


async def test_both_ends_see_what_they_see_without_a_gateway(parts, gateway_for):
    """Frames that no library would send, cut anywhere, up to a line that just ends."""
    from_client, from_upstream = b"\x81\x80\x00\x00\x00\x00\xff\xff\xffclient" * 99, b"\x8b\x00up\xf0\x7f" * 999

    async def script(asked: Asked) -> None:
        await asked.send(SWITCHED + b"\r\n" + from_upstream[:1])
        seen.append(await asked.exactly(len(from_client)))
        await asked.send(from_upstream[1:])
        seen.append(await asked.rest())

    async def through(url):
        line = await dial(parts, url)
        await line.send(UPGRADE)
        head = await line.head()
        await line.send(from_client)
        got = await line.exactly(len(from_upstream))
        line.close()
        await asyncio.wait_for(upstream.lines_closed.acquire(), PATIENCE_S)
        return head.split(b"\r\n")[0], got, *seen

    seen: list[bytes] = []
    upstream = await scripted_upstream(parts, script)
    direct = await through(upstream.url.replace("/base", ""))
    seen.clear()
    gateway = await gateway_for(upstream.url)
    assert await through(gateway.url) == direct
    assert direct[1:] == (from_upstream, from_client, b"")
    assert [fact.reason for fact in gateway.facts.of(Untracked)] == ["unreadable"]


async def test_lanes_are_told_apart(stage, talk):
    _, gateway = await stage()
    socket = await talk(f"{gateway.url}/v1")
    for lane in ("a", "b", "c"):
        await socket.send_json(create(lane=lane, model=f"model-{lane}"))
    created = {
        m["response"]["id"]: m["stream_id"] for m in await said(socket, count=3) if m["type"] == "response.created"
    }
    await gateway.facts.wait_for(Ended, lambda fact: len(gateway.facts.of(Ended)) == 3)

    asked = {fact.response.response_id: fact.response.model_asked for fact in gateway.facts.of(Ended)}
    assert asked == {response_id: f"model-{lane}" for response_id, lane in created.items()}


@pytest.mark.parametrize("scenario", ["fails", "fails_flat", "incomplete", "completed_incomplete"])
async def test_ends_that_are_no_success_are_told_as_they_are(stage, talk, scenario):
    _, gateway = await stage()
    socket = await talk(f"{gateway.url}/v1")
    await socket.send_json(create(ask(scenario)))
    ended = (await gateway.facts.wait_for(Ended)).response
    assert (ended.status, ended.ending) == (
        Status.FAILED if scenario.startswith("fails") else Status.INCOMPLETE,
        Ending.TERMINAL,
    )
    await socket.send_json(create())
    await gateway.facts.wait_for(Ended, lambda fact: fact.response.status is Status.COMPLETED)
    assert len(gateway.facts.of(Ended)) == 2


async def test_a_create_that_upstream_refuses_is_told_with_its_status(stage, talk):
    _, gateway = await stage()
    socket = await talk(f"{gateway.url}/v1")
    await socket.send_json(create(previous_response_id="resp_unknown"))
    refusal = (await said(socket, until="error"))[-1]
    refused = await gateway.facts.wait_for(Refused)
    assert (refused.status, refused.response.error_code) == (refusal["status"], refusal["error"]["code"])
    assert refused.response.previous_response_id == "resp_unknown"


@pytest.mark.parametrize(
    ("whose", "ending", "cuts"),
    [
        ("upstream resets", Ending.UPSTREAM_LOST, 2),
        ("upstream closes", Ending.UPSTREAM_LOST, 2),
        ("client closes", Ending.ABANDONED, 0),
        ("client resets", Ending.ABANDONED, 0),
        ("gateway stops", Ending.UPSTREAM_LOST, 0),
    ],
)
async def test_a_cut_ends_what_was_under_way_and_is_counted_by_whose_it_is(
    parts: AsyncExitStack, stage, talk, whose, ending, cuts
):
    upstream, gateway = await stage(simulated=STILL, drain_s=0.1)
    line = await cable_to(parts, gateway.url)
    socket = await talk(f"{line.url}/v1")
    for lane in ("a", "b"):
        await socket.send_json(create(lane=lane))
    events = await said(socket, until="response.in_progress", count=2)
    live = await gateway.facts.wait_for(Surveyed, lambda fact: sum(fact.live.values()) == 2)
    assert live.live == {(Status.IN_PROGRESS, Mode.WEBSOCKET): 2}

    if whose == "upstream resets":
        upstream.simulator.cut()
    elif whose == "upstream closes":
        await upstream.server.close()
    elif whose == "client closes":
        await socket.close()
    elif whose == "client resets":
        line.cut()
    else:
        await gateway.gateway.stop()
    await gateway.facts.wait_for(Ended, lambda fact: len(gateway.facts.of(Ended)) == 2)

    ended = [fact.response for fact in gateway.facts.of(Ended)]
    assert {response.response_id for response in ended} == {message["response"]["id"] for message in events}
    assert {(response.status, response.ending) for response in ended} == {(Status.IN_PROGRESS, ending)}
    assert [fact.reason for fact in gateway.facts.of(UpstreamCut)] == ["websocket"] * cuts


async def test_a_client_that_takes_nothing_is_dropped_and_was_the_one_to_leave(parts, stage):
    _, gateway = await stage(write_timeout_s=0.5)
    line = await dial(parts, gateway.url)
    line.writer.transport.pause_reading()
    ask_for = json.dumps(create(ask("big", bytes=30_000_000))).encode()
    frames = FrameProtocol(client=True, extensions=[])
    await line.send(UPGRADE.replace(b"Host: g", b"Host: g\r\nAuthorization: Bearer sk-test"))
    await line.send(bytes(frames.send_data(ask_for.decode())))
    ended = (await gateway.facts.wait_for(Ended)).response
    assert (ended.status, ended.ending) == (Status.IN_PROGRESS, Ending.ABANDONED)


async def test_silence_makes_a_response_stuck_there_too(stage, talk):
    _, gateway = await stage(patience_s=0.2)
    socket = await talk(f"{gateway.url}/v1")
    await socket.send_json(create(ask("stalls")))
    stuck = await gateway.facts.wait_for(Surveyed, lambda fact: sum(fact.stuck.values()) == 1)
    assert stuck.stuck == {(Stuck.NO_PROGRESS, MODEL): 1}


async def test_an_event_over_the_limit_passes_and_is_passed_over(stage, talk):
    _, gateway = await stage(event_limit_bytes=20_000)
    socket = await talk(f"{gateway.url}/v1")
    await socket.send_json(create(input="x" * 30_000))
    first = await said(socket)
    await socket.send_json(create(ask("big", bytes=40_000)))
    second = await said(socket)
    assert max(len(json.dumps(event)) for event in second) > 40_000
    ended = await gateway.facts.wait_for(Ended)
    assert ended.response.response_id == first[0]["response"]["id"]
    assert ended.response.model_asked is None  # what asked for it was too large to look at


async def test_what_does_not_go_to_responses_is_not_looked_at(parts, gateway_for, talk):
    async def handle(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    app = web.Application()
    app.router.add_get("/v1/{path:.*}", handle)
    server = TestServer(app)
    await server.start_server()
    parts.push_async_callback(server.close)
    gateway = await gateway_for(str(server.make_url("/v1")))
    socket = await talk(f"{gateway.url}/v1/realtime")
    event = {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}}
    await socket.send_json(event)
    assert await said(socket, until="response.created") == [event]
    await socket.close()
    assert gateway.facts.of(Created) == gateway.facts.of(Ended) == []
