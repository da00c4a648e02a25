"""What the gateway has no part in passes through both ways as if it were not there."""

import asyncio
import gzip
import sys

import aiohttp
import pytest
from wire import (
    PATIENCE_S,
    Asked,
    answering,
    dial,
    exchange,
    scripted_upstream,
    status_of,
    unnamed,
)

from gateway.domain.facts import RequestServed
from gateway.relay.routing import Kind

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ODD_PATH = b"files/a%2Fb/%7Euser//c%20d/?x=%20&y=+&z&x=%2f"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "PROPFIND"])
async def test_method_path_and_query_arrive_as_sent(parts, gateway_for, method):
    upstream = await scripted_upstream(parts, answering(OK))
    gateway = await gateway_for(upstream.url)

    await exchange(
        parts, gateway.url, b"%s /v1/%s HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n" % (method.encode(), ODD_PATH)
    )

    assert upstream.asked[0].start == b"%s /base/%s HTTP/1.1" % (method.encode(), ODD_PATH)


async def test_request_headers_arrive_with_their_order_case_and_repetition(parts, gateway_for):
    upstream = await scripted_upstream(parts, answering(OK))
    gateway = await gateway_for(upstream.url)

    await exchange(
        parts,
        gateway.url,
        b"GET /v1/models HTTP/1.1\r\nhOST: gateway.example\r\nX-One: 1\r\nauthorization: Bearer sk\r\nx-two:  2a\r\n"
        b"X-Two: 2b\r\nCookie: a=b\r\nAccept-Encoding: br\r\nX-Utf8: caf\xc3\xa9\r\nOpenAI-Beta: x=v1\r\n"
        b"Connection: close, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\nPrefer: wait=1\r\n\r\n",
    )

    host, *headers = upstream.asked[0].headers
    assert host == (b"Host", upstream.url.removeprefix("http://").removesuffix("/base").encode())
    assert headers == [
        (b"X-One", b"1"),
        (b"authorization", b"Bearer sk"),
        (b"x-two", b"2a"),
        (b"x-two", b"2b"),
        (b"Cookie", b"a=b"),
        (b"Accept-Encoding", b"br"),
        (b"X-Utf8", "café".encode()),
        (b"OpenAI-Beta", b"x=v1"),
    ]


async def test_an_answer_comes_back_byte_for_byte_less_cookies_and_hop_by_hop_headers(parts, gateway_for):
    upstream = await scripted_upstream(
        parts,
        answering(
            b"HTTP/1.1 299 Fine By Me\r\nx-REQUEST-id: r1\r\nX-Multi: 1\r\nx-multi: 2\r\nX-Multi: 1\r\nServer: up/1\r\n"
            b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nSet-Cookie: a=b\r\nAlt-Svc: h3\r\nKeep-Alive: timeout=5\r\n"
            b"x-utf8: caf\xc3\xa9\r\ncontent-LENGTH: 5\r\n\r\nhello"
        ),
    )
    gateway = await gateway_for(upstream.url)

    answer = await exchange(parts, gateway.url, b"GET /v1/x HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")

    assert unnamed(answer) == (
        b"HTTP/1.1 299 Fine By Me\r\nx-REQUEST-id: r1\r\nX-Multi: 1\r\nx-multi: 2\r\nX-Multi: 1\r\nServer: up/1\r\n"
        b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nx-utf8: caf\xc3\xa9\r\ncontent-LENGTH: 5\r\nConnection: close\r\n"
        b"\r\nhello"
    )


async def test_an_answer_without_date_server_or_type_gets_none(parts, gateway_for):
    upstream = await scripted_upstream(parts, answering(b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nhi"))
    gateway = await gateway_for(upstream.url)

    answer = await exchange(parts, gateway.url, b"GET /v1/x HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")

    assert unnamed(answer) == b"HTTP/1.1 200 \r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"


@pytest.mark.parametrize(
    ("request_line", "answer"),
    [
        (b"HEAD /v1/files/f", b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n"),
        (b"DELETE /v1/files/f", b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n"),
        (b"GET /v1/files/f", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n"),
        (b"GET /v1/files/f", b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/elsewhere\r\nContent-Length: 0\r\n"),
    ],
)
async def test_answers_without_a_body_keep_their_head(parts, gateway_for, request_line, answer):
    upstream = await scripted_upstream(parts, answering(answer + b"\r\n"))
    gateway = await gateway_for(upstream.url)

    got = await exchange(parts, gateway.url, request_line + b" HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")

    assert unnamed(got) == answer + b"Connection: close\r\n\r\n"
    assert len(upstream.asked) == 1


@pytest.mark.parametrize(
    ("status", "to_blame"),
    [
        *((status, "client") for status in (400, 401, 403, 404, 422)),
        *((status, "upstream") for status in (408, 409, 429, 500, 502, 503, 529)),
    ],
)
async def test_upstreams_errors_are_the_clients_to_see_and_whoever_caused_them_is_named(
    parts, gateway_for, status, to_blame
):
    error = b"HTTP/1.1 %d Whatever\r\nx-request-id: r\r\nretry-after: 7\r\nContent-Length: 5\r\n" % status
    upstream = await scripted_upstream(parts, answering(error + b"\r\nsorry"))
    gateway = await gateway_for(upstream.url)

    answer = await exchange(parts, gateway.url, b"GET /v1/models HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")

    assert unnamed(answer) == error + b"Connection: close\r\n\r\nsorry"
    served = await gateway.facts.wait_for(RequestServed)
    assert (served.route, served.method, served.status, served.origin) == (Kind.OTHER, "GET", status, to_blame)


async def test_a_refused_credential_of_the_gateways_own_is_the_gateways_fault(parts, gateway_for):
    upstream = await scripted_upstream(parts, answering(b"HTTP/1.1 401 Whatever\r\nContent-Length: 5\r\n\r\nsorry"))
    gateway = await gateway_for(upstream.url, upstream_api_key="sk-revoked")
    await exchange(parts, gateway.url, b"GET /v1/models HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")
    assert (await gateway.facts.wait_for(RequestServed)).origin == "gateway"


async def test_compressed_bodies_stay_compressed_both_ways(parts, gateway_for):
    packed = gzip.compress(b"x" * 1000, mtime=0)

    async def script(asked: Asked) -> None:
        assert await asked.exactly(len(packed)) == packed
        await asked.send(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(packed), packed)
        )

    upstream = await scripted_upstream(parts, script)
    gateway = await gateway_for(upstream.url)

    answer = await exchange(
        parts,
        gateway.url,
        b"POST /v1/embeddings HTTP/1.1\r\nHost: g\r\nConnection: close\r\nContent-Encoding: gzip\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(packed), packed),
    )

    assert upstream.asked[0].header(b"content-encoding") == [b"gzip"]
    assert b"Content-Encoding: gzip\r\n" in answer
    assert answer.endswith(packed)


async def test_a_multipart_form_arrives_byte_for_byte(parts, gateway_for):
    got: list[bytes] = []

    async def script(asked: Asked) -> None:
        got.append(await asked.exactly(int(asked.header(b"content-length")[0])))
        await asked.send(OK)

    upstream = await scripted_upstream(parts, script)
    gateway = await gateway_for(upstream.url)
    form = aiohttp.MultipartWriter("form-data", boundary="frontier")
    form.append("batch").set_content_disposition("form-data", name="purpose")
    form.append(bytes(range(256)) * 100).set_content_disposition("form-data", name="file", filename="a.bin")
    sent = await form.as_bytes()

    async with aiohttp.ClientSession() as session:
        answer = await session.post(f"{gateway.url}/v1/files", data=sent, headers={"Content-Type": form.content_type})

    assert answer.status == 200
    assert got == [sent]
    assert upstream.asked[0].header(b"content-type") == [form.content_type.encode()]


async def test_48_kb_of_headers_pass_both_ways(parts, gateway_for):
    many = b"".join(b"X-Long-%d: %s\r\n" % (number, b"v" * 3000) for number in range(16))
    upstream = await scripted_upstream(parts, answering(b"HTTP/1.1 200 OK\r\n" + many + b"Content-Length: 0\r\n\r\n"))
    gateway = await gateway_for(upstream.url)

    one = b"Cookie: " + b"c" * 48 * 1024
    for headers in (many, one + b"\r\n"):
        answer = await exchange(
            parts, gateway.url, b"GET /v1/x HTTP/1.1\r\nHost: g\r\nConnection: close\r\n" + headers + b"\r\n"
        )
        assert status_of(answer) == 200
        assert many in answer
    assert len(upstream.asked[0].headers) == 1 + 16
    assert upstream.asked[1].header(b"cookie") == [b"c" * 48 * 1024]


async def test_an_event_stream_passes_piece_by_piece(parts, gateway_for):
    seen = asyncio.Event()

    async def script(asked: Asked) -> None:
        await asked.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"
        )
        await seen.wait()
        await asked.send(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    upstream = await scripted_upstream(parts, script)
    gateway = await gateway_for(upstream.url)

    line = await dial(parts, gateway.url)
    await line.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nConnection: close\r\nContent-Length: 15\r\n\r\n"
        b'{"stream":true}'
    )
    head = await line.head()
    assert b"Cache-Control: no-cache, no-transform\r\n" in head
    assert b"X-Accel-Buffering: no\r\n" in head
    assert head.lower().count(b"cache-control") == 1
    assert await line.exactly(14) == b"9\r\ndata: 1\n\n\r\n"
    seen.set()
    assert await line.rest() == b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
async def test_an_upload_reaches_upstream_while_the_client_still_sends(parts, gateway_for, framing):
    arrived = asyncio.Event()
    whole: list[bytes] = []

    async def script(asked: Asked) -> None:
        first = await asked.exactly(5 if "Length" in framing else 10)
        arrived.set()
        whole.append(first + await asked.exactly(5 if "Length" in framing else 15))
        await asked.send(OK)

    upstream = await scripted_upstream(parts, script)
    gateway = await gateway_for(upstream.url)

    line = await dial(parts, gateway.url)
    await line.send(b"PUT /v1/uploads/u HTTP/1.1\r\nHost: g\r\nConnection: close\r\n%s\r\n\r\n" % framing.encode())
    await line.send(b"01234" if "Length" in framing else b"5\r\n01234\r\n")
    async with asyncio.timeout(PATIENCE_S):
        await arrived.wait()
    await line.send(b"56789" if "Length" in framing else b"5\r\n56789\r\n0\r\n\r\n")
    assert (await line.rest()).endswith(b"ok")

    assert whole == [b"0123456789" if "Length" in framing else b"5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n"]
    framed = framing.split(": ")
    assert upstream.asked[0].header(framed[0].lower().encode()) == [framed[1].encode()]


SERVE_AND_WEIGH = """
import asyncio, re, resource, sys
from pathlib import Path
from gateway.app import Gateway
from gateway.config import Address, Settings

def peak_kib():
    status = Path("/proc/self/status")
    if status.exists():  # there rusage also counts the process that started this one
        return int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

async def main():
    anywhere = Address("127.0.0.1", 0)
    settings = Settings(upstream=sys.argv[1], listen=anywhere, ops_listen=anywhere, store="memory://", drain_delay_s=0)
    gateway = Gateway(settings)
    await gateway.start()
    print(gateway.url, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(peak_kib(), flush=True)
    await gateway.stop()

asyncio.run(main())
"""


async def test_100_mb_up_and_down_leave_memory_flat(parts, gateway_for):
    size, piece = 100 * 2**20, b"\0" * 2**18

    async def script(asked: Asked) -> None:
        async with asyncio.timeout(PATIENCE_S):
            left = int((asked.header(b"content-length") or [b"0"])[0])
            while left:
                left -= len(await asked.reader.read(1 << 20))
        await asked.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(0, size, len(piece)):
            await asked.send(piece)

    async def upload():
        for _ in range(0, size, len(piece)):
            yield piece

    upstream = await scripted_upstream(parts, script)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SERVE_AND_WEIGH,
        upstream.url,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    url = (await process.stdout.readline()).decode().strip()

    async def weigh() -> int:
        process.stdin.write(b"\n")
        return int(await process.stdout.readline())

    async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE_S):
        (await session.get(f"{url}/elsewhere")).close()
        before_kib = await weigh()
        answer = await session.post(f"{url}/v1/files", data=upload(), headers={"Content-Length": str(size)})
        got = sum([len(chunk) async for chunk in answer.content.iter_any()])
        after_kib = await weigh()
    process.stdin.close()
    assert await process.wait() == 0

    assert got == size
    assert after_kib - before_kib < 20 * 1024


async def test_the_gateways_own_credential_replaces_the_clients(parts, gateway_for):
    upstream = await scripted_upstream(parts, answering(OK))
    gateway = await gateway_for(upstream.url, upstream_api_key="sk-own")

    await exchange(
        parts,
        gateway.url,
        b"GET /v1/models HTTP/1.1\r\nHost: g\r\nConnection: close\r\nauthorization: Bearer sk-client\r\n"
        b"API-Key: k\r\n\r\n",
    )

    assert upstream.asked[0].header(b"authorization") == [b"Bearer sk-own"]
    assert upstream.asked[0].header(b"api-key") == []
