"""What no client should send gets an error in OpenAI's shape, and harms nobody."""

import asyncio
import re

import pytest
from wire import PATIENCE_S, Asked, answering, dial, error_of, exchange, scripted_upstream, status_of

from gateway.domain.facts import RequestServed

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HOST = b"Host: g\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /v1/models\r\n\r\n",
        b"GET /v1/models HTTP/2.0\r\nHost: g\r\n\r\n",
        b"GET /v1/models HTTP/9.9\r\nHost: g\r\n\r\n",
        b"GET /v1/mod els HTTP/1.1\r\nHost: g\r\n\r\n",
        b"GET /v1/\xff\xfe HTTP/1.1\r\nHost: g\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: g\r\nno colon\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: g\r\nX-A: 1\r\n folded\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: g\r\nX-A: a\x00b\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nNo: host\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: g\r\nHost: h\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: g\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: g\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /v1/x HTTP/1.1\r\nHost: g\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: g\r\nContent-Length: many\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_a_400_that_upstream_never_sees(parts, gateway_for, request_):
    upstream = await scripted_upstream(parts, answering(OK))
    gateway = await gateway_for(upstream.url)

    answer = await exchange(parts, gateway.url, request_)

    assert status_of(answer) == 400
    error = error_of(answer)
    assert error["type"] == "invalid_request_error"
    assert "\n" not in error["message"]
    assert upstream.asked == []
    served = await gateway.facts.wait_for(RequestServed)
    assert (served.status, served.origin, served.route) == (400, "client", "other")


async def test_a_body_that_turns_out_to_be_no_http_is_refused_while_it_is_forwarded(parts, gateway_for):
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(asked: Asked) -> None:
        got.put_nowait(await asked.exactly(len(b"3\r\nabc\r\n")))
        got.put_nowait(await asked.rest())

    upstream = await scripted_upstream(parts, script)
    gateway = await gateway_for(upstream.url)

    line = await dial(parts, gateway.url)
    await line.send(b"POST /v1/files HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    async with asyncio.timeout(PATIENCE_S):
        assert await got.get() == b"3\r\nabc\r\n"
        await line.send(b"zz\r\n")
        answer = await line.rest()
        assert await got.get() == b"", "upstream must not take it for whole"

    assert status_of(answer) == 400
    assert error_of(answer)["code"] == "invalid_request"
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "head",
    [
        b"X-Long: " + b"v" * 70_000 + b"\r\n",
        b"".join(b"X-%d: %s\r\n" % (number, b"v" * 30_000) for number in range(3)),
        b"".join(b"X-%d: v\r\n" % number for number in range(300)),
        b"X" * 70_000 + b": v\r\n",
    ],
)
async def test_a_head_over_the_limit_is_a_431(parts, gateway_for, head):
    upstream = await scripted_upstream(parts, answering(OK))
    gateway = await gateway_for(upstream.url)

    answer = await exchange(parts, gateway.url, b"GET /v1/models HTTP/1.1\r\n" + HOST + head + b"\r\n")

    assert status_of(answer) == 431
    assert error_of(answer)["code"] == "headers_too_large"
    assert upstream.asked == []


async def test_an_endless_request_line_is_a_431(parts, gateway_for):
    gateway = await gateway_for("http://127.0.0.1:9/v1")

    answer = await exchange(parts, gateway.url, b"GET /v1/" + b"x" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n")

    assert status_of(answer) == 431
    assert error_of(answer)["code"] == "headers_too_large"


async def test_the_limit_of_the_head_is_a_setting(parts, gateway_for):
    gateway = await gateway_for("http://127.0.0.1:9/v1", header_limit_bytes=1000)

    answer = await exchange(
        parts, gateway.url, b"GET /v1/models HTTP/1.1\r\n" + HOST + b"X-Long: " + b"v" * 1000 + b"\r\n\r\n"
    )

    assert status_of(answer) == 431


async def test_a_header_that_cannot_be_passed_on_unchanged_is_refused(parts, gateway_for):
    gateway = await gateway_for("http://127.0.0.1:9/v1")

    answer = await exchange(parts, gateway.url, b"GET /v1/models HTTP/1.1\r\n" + HOST + b"X-Latin: caf\xe9\r\n\r\n")

    assert status_of(answer) == 400
    assert "X-Latin" in error_of(answer)["message"]


@pytest.mark.parametrize(
    "path",
    [
        b"/v1/..",
        b"/v1/../secret",
        b"/v1/files/../../secret",
        b"/v1/./files",
        b"/v1/%2e%2e/secret",
        b"/v1/%2E%2e/secret",
        b"/v1/.%2e/secret",
        b"/v1/..%2fsecret",
        b"/v1/files%2f..%2f..%2fsecret",
        b"/v1/%252e%252e/secret",
        b"/v1/..%5csecret",
        b"/v1/responses/..",
        b"/v1/responses/%2e%2e/input_items",
        b"/openai/../secret",
        b"/openai/v1/../../secret",
        b"http://g/v1/../secret",
    ],
)
async def test_a_path_cannot_climb_out_of_upstreams_base_path(parts, gateway_for, path):
    upstream = await scripted_upstream(parts, answering(OK))
    gateway = await gateway_for(upstream.url)

    answer = await exchange(parts, gateway.url, b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n")

    assert status_of(answer) == 400
    assert error_of(answer)["code"] == "invalid_path"
    assert upstream.asked == []


@pytest.mark.parametrize(
    ("path", "arrives"),
    [
        (b"/v1/..hidden/a...b", b"/base/..hidden/a...b"),
        (b"/v1//evil.example/x", b"/base//evil.example/x"),
        (b"/v1/http://evil.example/", b"/base/http://evil.example/"),
        (b"/v1/@evil.example/", b"/base/@evil.example/"),
        (b"/v1/x%00%0d%0aX-Injected:%201", b"/base/x%00%0d%0aX-Injected:%201"),
        (b"/v1/%zz%", b"/base/%zz%"),
        (b"/v1/files/f%3Fx=1%23y", b"/base/files/f%3Fx=1%23y"),
        (b"/v1", b"/base"),
        (b"/v1/", b"/base/"),
        (b"http://elsewhere.example/v1/models?a=b", b"/base/models?a=b"),
    ],
)
async def test_an_odd_path_stays_below_upstreams_base_path_as_it_is(parts, gateway_for, path, arrives):
    upstream = await scripted_upstream(parts, answering(OK))
    gateway = await gateway_for(upstream.url)

    answer = await exchange(parts, gateway.url, b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n")

    assert status_of(answer) == 200
    assert upstream.asked[0].start == b"GET " + arrives + b" HTTP/1.1"
    assert upstream.asked[0].header(b"x-injected") == []


@pytest.mark.parametrize(
    "start", [b"GET /", b"GET /v2/models", b"GET /v1x", b"GET //v1/models", b"OPTIONS *", b"CONNECT example.org:443"]
)
async def test_outside_the_prefixes_there_is_nothing(parts, gateway_for, start):
    upstream = await scripted_upstream(parts, answering(OK))
    gateway = await gateway_for(upstream.url)

    answer = await exchange(parts, gateway.url, start + b" HTTP/1.1\r\n" + HOST + b"\r\n")

    assert status_of(answer) == 404
    assert error_of(answer)["type"] == "invalid_request_error"
    assert upstream.asked == []


async def test_after_an_error_of_the_gateways_own_the_line_goes_on(parts, gateway_for):
    upstream = await scripted_upstream(parts, answering(OK))
    gateway = await gateway_for(upstream.url)

    line = await dial(parts, gateway.url)
    await line.send(b"GET /nowhere HTTP/1.1\r\nHost: g\r\n\r\nGET /v1/models HTTP/1.1\r\n" + HOST + b"\r\n")
    answers = await line.rest()

    assert answers.startswith(b"HTTP/1.1 404 ")
    assert answers.endswith(b"\r\n\r\nok")
    assert len(set(re.findall(rb"x-gateway-request-id: (.+)\r\n", answers))) == 2


async def test_garbage_from_one_client_leaves_the_others_alone(parts, gateway_for):
    upstream = await scripted_upstream(parts, answering(OK))
    gateway = await gateway_for(upstream.url)
    requests = [b"GARBAGE\r\n\r\n", b"GET /v1/models HTTP/1.1\r\n" + HOST + b"\r\n"] * 50

    answers = await asyncio.gather(*(exchange(parts, gateway.url, request) for request in requests))

    assert [status_of(answer) for answer in answers] == [400, 200] * 50
