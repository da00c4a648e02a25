"""Where requests end early: lines that break, clients that leave or stall, an upstream or a gateway that is gone."""

import asyncio

import pytest
from aiohttp import web
from wire import PATIENCE_S, Asked, answering, dial, error_of, exchange, scripted_upstream, status_of, unnamed
from yarl import URL

from gateway.config import Address
from gateway.domain.errors import UpstreamCut
from gateway.domain.facts import RequestServed
from gateway.edge.server import client_app, listen
from gateway.relay.routing import Kind
from gateway.relay.upstream import Call, Timeouts, Upstream

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"


@pytest.mark.parametrize("broken", [SIZED, CHUNKED])
async def test_an_answer_that_breaks_off_is_seen_to_be_incomplete(parts, gateway_for, broken):
    upstream = await scripted_upstream(parts, answering(broken))
    gateway = await gateway_for(upstream.url)

    answer = await exchange(parts, gateway.url, b"GET /v1/x HTTP/1.1\r\nHost: g\r\n\r\n")

    assert status_of(answer) == 200
    assert len(answer.partition(b"\r\n\r\n")[2]) < 100
    assert not answer.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("broken", [SIZED, CHUNKED])
async def test_what_came_before_a_line_broke_is_read_although_nobody_was_reading_then(parts, broken):
    upstream = await scripted_upstream(parts, answering(broken))
    caller = Upstream(Timeouts(PATIENCE_S, PATIENCE_S, PATIENCE_S), header_limit=8192)
    await caller.open()
    parts.push_async_callback(caller.close)

    answer = await caller.send(Call("GET", URL(upstream.url), []))
    async with asyncio.timeout(PATIENCE_S):
        while answer.intact:  # noqa: ASYNC110  # a connection tells nobody but a reader that it broke
            await asyncio.sleep(0.001)

    assert await answer.chunk() == b"hello"
    with pytest.raises(UpstreamCut):
        await answer.chunk()
    answer.close()


@pytest.mark.parametrize("broken", [SIZED, CHUNKED])
async def test_an_http_1_0_client_sees_a_break_as_a_reset(parts, gateway_for, broken):
    upstream = await scripted_upstream(parts, answering(broken))
    gateway = await gateway_for(upstream.url)

    line = await dial(parts, gateway.url)
    await line.send(b"GET /v1/x HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(ConnectionResetError):
            await line.reader.read()


async def test_a_client_that_leaves_is_gone_from_upstream_too(parts, gateway_for):
    async def script(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await asked.rest()

    upstream = await scripted_upstream(parts, script)
    gateway = await gateway_for(upstream.url)

    line = await dial(parts, gateway.url)
    await line.send(b"GET /v1/x HTTP/1.1\r\nHost: g\r\n\r\n")
    await line.head()
    line.close()

    async with asyncio.timeout(PATIENCE_S):
        await upstream.lines_closed.acquire()
    assert (await gateway.facts.wait_for(RequestServed)).status == 200


async def test_a_client_that_takes_nothing_is_dropped(parts, gateway_for):
    async def script(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await asked.send(b"x" * 2**16)

    upstream = await scripted_upstream(parts, script)
    gateway = await gateway_for(upstream.url, write_timeout_s=0.2)

    line = await dial(parts, gateway.url)
    line.writer.transport.pause_reading()
    await line.send(b"GET /v1/x HTTP/1.1\r\nHost: g\r\n\r\n")

    async with asyncio.timeout(PATIENCE_S):
        await upstream.lines_closed.acquire()


async def test_an_answer_during_the_upload_reaches_the_client(parts, gateway_for):
    upstream = await scripted_upstream(parts, answering(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"))
    gateway = await gateway_for(upstream.url)

    line = await dial(parts, gateway.url)
    await line.send(b"POST /v1/files HTTP/1.1\r\nHost: g\r\nContent-Length: 10\r\n\r\n01234")
    assert status_of(await line.head()) == 413
    assert await line.exactly(2) == b"no"
    await line.send(b"56789GET /v1/next HTTP/1.1\r\nHost: g\r\n\r\n")
    assert status_of(await line.head()) == 413


async def test_expect_100_continue_is_answered_before_the_body_is_sent(parts, gateway_for):
    async def script(asked: Asked) -> None:
        await asked.exactly(5)
        await asked.send(OK)

    upstream = await scripted_upstream(parts, script)
    gateway = await gateway_for(upstream.url)

    line = await dial(parts, gateway.url)
    await line.send(
        b"POST /v1/files HTTP/1.1\r\nHost: g\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    )
    assert await line.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    await line.send(b"hello")
    assert (await line.rest()).endswith(b"ok")
    assert upstream.asked[0].header(b"expect") == []


async def test_an_http_1_0_client_gets_the_body_up_to_the_connections_end(parts, gateway_for):
    begun = asyncio.Event()

    async def in_parts(asked):
        """So that its size is not known when it begins."""
        await asked.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await begun.wait()
        await asked.send(b"0\r\n\r\n")

    upstream = await scripted_upstream(parts, in_parts)
    gateway = await gateway_for(upstream.url)
    line = await dial(parts, gateway.url)
    await line.send(b"GET /v1/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")

    head = await line.head()
    begun.set()
    assert unnamed(head) == b"HTTP/1.0 200 OK\r\n\r\n"
    assert await line.rest() == b"hello"


async def test_upstream_out_of_reach_is_said_so(parts, gateway_for):
    gateway = await gateway_for("http://127.0.0.1:9/v1")

    answer = await exchange(parts, gateway.url, b"GET /v1/models HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")

    assert status_of(answer) == 502
    assert error_of(answer)["code"] == "upstream_unreachable"
    assert b"x-gateway-error: upstream_unreachable\r\n" in answer
    assert (await gateway.facts.wait_for(RequestServed)).origin == "upstream"


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (answering(b""), 502, "upstream_lost"),
        (answering(b"no HTTP at all\r\n\r\n"), 502, "upstream_error"),
        (Asked.rest, 504, "upstream_timeout"),
    ],
)
async def test_an_upstream_without_an_answer_is_an_error_that_says_why(parts, gateway_for, script, status, code):
    upstream = await scripted_upstream(parts, script)
    gateway = await gateway_for(upstream.url, upstream_headers_s=0.2 if status == 504 else 30)

    answer = await exchange(
        parts, gateway.url, b"POST /v1/x HTTP/1.1\r\nHost: g\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )

    assert status_of(answer) == status
    assert error_of(answer)["code"] == code


async def test_a_stopping_gateway_refuses_new_work_and_closes_the_line(parts, gateway_for):
    upstream = await scripted_upstream(parts, answering(OK))
    gateway = await gateway_for(upstream.url)
    gateway.gateway.context.readiness.refusing = True

    answer = await exchange(parts, gateway.url, b"GET /v1/models HTTP/1.1\r\nHost: g\r\n\r\n")

    assert status_of(answer) == 503
    assert error_of(answer)["code"] == "gateway_draining"
    assert b"Connection: close\r\n" in answer
    assert b"Retry-After: 1\r\n" in answer
    assert upstream.asked == []


async def test_a_request_in_flight_ends_before_the_gateway_stops(parts, gateway_for):
    half_there = asyncio.Event()

    async def script(asked: Asked) -> None:
        assert await asked.exactly(5) == b"first"
        half_there.set()
        assert await asked.exactly(6) == b"second"
        await asked.send(OK)

    upstream = await scripted_upstream(parts, script)
    gateway = await gateway_for(upstream.url, drain_s=PATIENCE_S)
    line = await dial(parts, gateway.url)
    await line.send(b"PUT /v1/files/f HTTP/1.1\r\nHost: g\r\nContent-Length: 11\r\n\r\nfirst")
    async with asyncio.timeout(PATIENCE_S):
        await half_there.wait()

    async def finish() -> bytes:
        refused = await exchange(parts, gateway.url, b"GET /v1/models HTTP/1.1\r\nHost: g\r\n\r\n")
        assert status_of(refused) == 503
        await line.send(b"second")
        return await line.rest()

    _, answer = await asyncio.gather(gateway.gateway.stop(), finish())
    assert answer.endswith(b"ok")


async def test_a_fault_of_the_gateway_is_a_500_without_its_traceback(parts, gateway_for, caplog):
    async def broken(context, request, target) -> web.StreamResponse:
        raise ZeroDivisionError("secret")

    gateway = await gateway_for("http://127.0.0.1:9/v1")
    app = client_app(gateway.gateway.context, {(Kind.OTHER, "GET"): broken})
    listener = await listen(app, Address("127.0.0.1", 0), header_limit=65536)
    parts.push_async_callback(listener.close)

    url = f"http://127.0.0.1:{listener.port}"
    answer = await exchange(parts, url, b"GET /v1/models HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")

    assert status_of(answer) == 500
    assert error_of(answer)["code"] == "gateway_error"
    assert b"secret" not in answer
    assert "ZeroDivisionError" in caplog.text
    assert (await gateway.facts.wait_for(RequestServed)).origin == "gateway"
