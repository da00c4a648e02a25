"""Every request has a name of the gateway's own, which the client is shown and every line about it carries."""

import io
import json

import pytest
from running import ANYWHERE, QUICK
from stories import ask, fetch, job
from wire import Asked, answering, dial, exchange, scripted_upstream, status_of

from gateway.app import Gateway
from gateway.config import Settings
from gateway.domain.facts import Attached, Cancelled, Created, Detached, Ended, RequestServed
from gateway.telemetry.logs import configure

NAME = "x-gateway-request-id"
HOST = b"Host: g\r\nConnection: close\r\n\r\n"


def name_in(answer: bytes) -> str:
    """The name in a head; fails where there is not one."""
    head = answer.partition(b"\r\n\r\n")[0].decode("latin-1")
    (name,) = [line.partition(": ")[2] for line in head.split("\r\n") if line.lower().startswith(NAME)]
    return name


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /v1/models HTTP/1.1\r\n" + HOST, 200),
        (b"GET /nowhere HTTP/1.1\r\n" + HOST, 404),
        (b"GET /v1/../x HTTP/1.1\r\n" + HOST, 400),
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET /v1/x HTTP/1.1\r\nHost: g\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /v1/x HTTP/1.1\r\nx-gateway-request-id: mine\r\nX-Request-Id: mine\r\n" + HOST, 200),
    ],
    ids=["passed through", "not found", "refused", "no HTTP", "too large", "named by the client"],
)
async def test_every_answer_names_its_request_as_the_gateways_facts_do(parts, gateway_for, request_, status):
    upstream = await scripted_upstream(
        parts, answering(b"HTTP/1.1 200 OK\r\nX-Gateway-Request-Id: another's\r\nContent-Length: 2\r\n\r\nok")
    )
    gateway = await gateway_for(upstream.url)

    answer = await exchange(parts, gateway.url, request_)

    served = await gateway.facts.wait_for(RequestServed)
    assert status_of(answer) == status
    assert name_in(answer) == served.request_id
    assert len(name_in(answer)) == 32


async def test_an_error_of_the_gateways_and_a_websocket_are_named_too(parts, gateway_for):
    async def switch(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        await asked.rest()

    unreachable = await gateway_for("http://127.0.0.1:9/v1")
    tunnelled = await gateway_for((await scripted_upstream(parts, switch)).url)
    refused = await fetch(f"{unreachable.url}/v1/models")
    line = await dial(parts, tunnelled.url)
    await line.send(
        b"GET /v1/responses HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    switched = await line.head()
    line.close()
    assert refused.headers[NAME] == (await unreachable.facts.wait_for(RequestServed)).request_id
    assert name_in(switched) == (await tunnelled.facts.wait_for(RequestServed)).request_id


async def test_a_record_keeps_the_name_of_its_create_and_each_reader_has_its_own(stage):
    _, gateway = await stage()
    url = f"{gateway.url}/v1/responses"
    created = await fetch(url, "POST", body=job())
    response_id = created.events[0]["response"]["id"]
    resumed = await fetch(f"{url}/{response_id}?stream=true&starting_after=3")
    names = [created.headers[NAME], resumed.headers[NAME]]
    await gateway.facts.wait_for(Ended)
    await gateway.facts.wait_for(Detached, lambda left: left.request_id == names[1])
    story = (await fetch(f"{gateway.ops_url}/responses/{response_id}")).json
    assert story["request_id"] == created.headers[NAME]
    assert [fact.response.request_id for fact in gateway.facts.of(Ended)] == [created.headers[NAME]]
    assert [fact.request_id for fact in gateway.facts.of(Attached)] == names
    assert [fact.request_id for fact in gateway.facts.of(Detached)] == names
    await gateway.facts.wait_for(RequestServed, lambda served: served.request_id == names[1])
    served = [fact for fact in gateway.facts.of(RequestServed) if fact.request_id in names]
    assert {(fact.request_id, fact.response.response_id) for fact in served} == {(name, response_id) for name in names}


async def test_the_request_of_a_cancel_is_not_that_of_the_create(stage):
    _, gateway = await stage()
    url = f"{gateway.url}/v1/responses"
    created = await fetch(url, "POST", body={**ask("long"), "background": True})
    cancelled = await fetch(f"{url}/{created.json['id']}/cancel", "POST")
    fact = await gateway.facts.wait_for(Cancelled)
    assert fact.request_id == cancelled.headers[NAME]
    assert fact.response.request_id == created.headers[NAME]
    assert (await gateway.facts.wait_for(Created)).response.request_id == created.headers[NAME]


async def test_all_lines_of_a_response_lead_to_its_trace_and_each_to_its_request(parts, simulate):
    upstream, stream = await simulate(), io.StringIO()
    logs = configure("debug", "json", stream)
    gateway = Gateway(Settings(upstream=upstream.url, **{**QUICK, "listen": ANYWHERE}), logs=logs)
    await gateway.start()
    parts.push_async_callback(gateway.stop)
    url = f"{gateway.url}/v1/responses"
    created = await fetch(url, "POST", body=job())
    response_id = created.events[0]["response"]["id"]
    resumed = await fetch(f"{url}/{response_id}?stream=true&starting_after=3")
    await gateway.stop()
    logs.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    mine = [line for line in lines if line.get("response_id") == response_id]
    assert {line["event"] for line in mine} > {"response_created", "first_output", "response_resumed", "response_ended"}
    assert len({(line["trace_id"], line["span_id"], line["trace_flags"]) for line in mine}) == 1
    by_request = {name: [line["event"] for line in mine if line["request_id"] == name] for name in
                  (created.headers[NAME], resumed.headers[NAME])}  # fmt: skip
    assert by_request[resumed.headers[NAME]] == ["response_resumed", "stream_left", "request"]
    assert sum(map(len, by_request.values())) == len(mine)
