"""What clients send and upstream says stays out of what the gateway tells: its output, spans, metrics, its operators.

A secret is put in every place that can hold one, upstream says all of it back, whatever can fail is made to, and the
gateway is told to be as talkative as it can: a process of its own, from its first line to its last.
"""

import asyncio
import contextlib
import gzip
import itertools
import json
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from parrot import BEHAVIOURS, HEADERS, IDS, MARK, TRACEPARENT, Parrot, body
from running import PATIENCE_S
from wire import exchange

MODES = [{}, {"stream": True}, {"background": True}, {"background": True, "stream": True}]
OWN = {
    "GATEWAY_UPSTREAM_API_KEY": f"sk-{MARK}-of-the-gateway",
    "GATEWAY_OPS_TOKEN": f"{MARK}-of-the-operators",
    "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={MARK}-of-the-collector",
}
"""Credentials of the gateway's own."""
SEALING = {"GATEWAY_SEALING_KEYS": f"{MARK}{'A' * (43 - len(MARK))}="}
"""With which it seals those of its clients."""
SETTINGS = {
    "listen": "127.0.0.1:0",
    "ops_listen": "127.0.0.1:0",
    "store": "sqlite:///responses.db",
    "log_level": "debug",
    "body_limit_bytes": "100KiB",
    "poll_schedule_s": "0.05,0.1",
    "poll_max_age_s": "0.05",
    "patience_s": "0.1",
    "patience_polled_s": "0.1",
    "lost_after_s": "0.2",
    "upstream_retry_max_s": "0.1",
    "drain_delay_s": "0",
    "drain_s": "1",
    "cors_origins": "*",
}


@dataclass(slots=True)
class Told:
    """Everything that a gateway told, by where."""

    output: str = ""
    spans: str = ""
    operators: dict[str, str] = field(default_factory=dict)

    def everything(self) -> Iterator[tuple[str, str]]:
        yield from self.operators.items()
        yield from (("output", self.output), ("spans", self.spans))


class Sink:
    """A collector that keeps what it is sent, as text."""

    def __init__(self) -> None:
        self.text = ""

    async def take(self, request: web.Request) -> web.Response:
        message = ExportTraceServiceRequest.FromString(await request.read())
        for spans in (scope.spans for resource in message.resource_spans for scope in resource.scope_spans):
            for span in spans:
                # The one thing of a client's that a trace carries on: it is made for that.
                span.ClearField("trace_state")
                for link in span.links:
                    link.ClearField("trace_state")
        self.text += str(message)
        return web.Response()


async def collector(parts: AsyncExitStack) -> tuple[Sink, str]:
    sink = Sink()
    app = web.Application()
    app.router.add_post("/v1/traces", sink.take)
    server = TestServer(app)
    await server.start_server()
    parts.push_async_callback(server.close)
    return sink, f"http://{server.host}:{server.port}"


@dataclass(slots=True)
class Talkative:
    """A running gateway process, and where it writes."""

    process: asyncio.subprocess.Process
    files: tuple[Path, ...]
    url: str = ""
    ops_url: str = ""

    @property
    def output(self) -> str:
        return "".join(file.read_text(errors="replace") for file in self.files)

    async def wait_for(self, pattern: str) -> re.Match[str]:
        """The first place in its output that matches."""
        async with asyncio.timeout(PATIENCE_S):
            while (found := re.search(pattern, self.output)) is None:
                assert self.process.returncode is None, self.output
                await asyncio.sleep(0.02)
        return found

    async def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        async with asyncio.timeout(PATIENCE_S):
            await self.process.wait()


async def start(folder: Path, upstream: str, environ: dict[str, str], **settings: str) -> Talkative:
    files = tuple(Path(tempfile.mkstemp(dir=folder, prefix=name)[1]) for name in ("stdout-", "stderr-"))
    flags = [
        part
        for name, value in {**SETTINGS, "upstream": upstream, **settings}.items()
        for part in (f"--{name.replace('_', '-')}", value)
    ]
    with files[0].open("wb") as out, files[1].open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, Path(__file__).parent / "planted.py", "serve", *flags),
            cwd=folder,
            stdout=out,
            stderr=err,
            env={**os.environ, **environ},
        )
    gateway = Talkative(process, files)
    where = r'[\s"]{0}(?:=|": ?")(http[^\s"]+)'
    gateway.ops_url = (await gateway.wait_for(where.format("ops_url")))[1]
    gateway.url = (await gateway.wait_for(where.format("url")))[1]
    return gateway


class Clients:
    """Clients that send secrets and do not mind what becomes of it."""

    def __init__(self, gateway: Talkative, http: aiohttp.ClientSession) -> None:
        self._gateway, self._http = gateway, http
        self.ids: list[str] = []
        self._sent = 0

    async def send(self, method: str, path: str, *, said: Any = None, **headers: str) -> str:
        """Send a request, read what comes back, note the response that it names."""
        data = json.dumps(said).encode() if isinstance(said, dict) else said
        # A key names one create.
        self._sent += 1
        key = f"{HEADERS['Idempotency-Key']}-{self._sent}"
        sent = {**HEADERS, "Idempotency-Key": key, **{name.replace("_", "-"): value for name, value in headers.items()}}
        answer = ""
        with contextlib.suppress(aiohttp.ClientError):
            async with self._http.request(method, f"{self._gateway.url}{path}", data=data, headers=sent) as response:
                async for piece in response.content.iter_any():
                    answer += piece.decode(errors="replace")
        found = re.search(r'"id": "(resp_\d+)"', answer)
        if found is not None and path == "/v1/responses":
            self.ids.append(found[1])
        return answer

    async def create_in_every_way(self) -> None:
        """Each mode, whatever upstream makes of it."""
        for mode, behaviour in itertools.product(MODES, BEHAVIOURS):
            traceparent = TRACEPARENT if mode else f"{MARK}-traceparent"
            await self.send("POST", "/v1/responses", said=body(**mode), X_Behave=behaviour, traceparent=traceparent)
        await self.send("POST", "/v1/responses", said=body(model=f"{MARK} model", conversation={"id": f"{MARK} conv"}))
        await self.send("POST", "/v1/responses", said=body(conversation=IDS["conversation"]))
        await self.send("POST", "/v1/responses", said=body(previous_response_id=IDS["previous_response_id"]))
        await self.send("POST", "/v1/responses", said=body(previous_response_id=f"{MARK} previous~7"))
        await self.send("POST", f"/openai/deployments/{MARK}/responses?api-version={MARK}", said=body())
        for mode in MODES:
            await self.send(
                "POST", f"/openai/v1/responses?api-version={MARK}%20words&{MARK}&{MARK}={MARK}", said=body(**mode)
            )

    async def ask_about_each(self) -> None:
        """Polls, resumes, tickets, cancels, deletes, of one's own and of others' responses."""
        for response_id in self.ids:
            path = f"/v1/responses/{response_id}"
            for query in ("", f"?{MARK}={MARK}", "?stream=true", "?stream=true&starting_after=1"):
                await self.send("GET", path + query)
            await self.send("GET", f"{path}?stream=true&starting_after={MARK}")
            await self.send("GET", f"{path}?stream=true", Accept="text/event-stream")
            await self.send("POST", f"{path}/x-gateway-ticket")
            await self.send("GET", f"{path}?x-gateway-ticket={MARK}")
            await self.send("GET", path, Authorization=f"Bearer {MARK}-of-another")
            await self.send("GET", f"{path}/input_items?after={MARK}", X_Behave="429")
        for response_id in self.ids[::3]:
            await self.send("POST", f"/v1/responses/{response_id}/cancel")
            await self.send("DELETE", f"/v1/responses/{response_id}", X_Behave="404")

    async def send_what_no_client_should(self, parts: AsyncExitStack) -> None:
        """Bodies and requests that cannot be read, paths and methods of one's own invention."""
        for broken in (b'{"%b' % MARK.encode(), b'"%b"' % MARK.encode(), MARK.encode() + b"\xff\x00"):
            await self.send("POST", "/v1/responses", said=broken, X_Behave="400")
        await self.send("POST", "/v1/responses", said={"model": {MARK: MARK}, "input": MARK}, X_Behave="400")
        await self.send("POST", "/v1/responses", said=body(input=MARK * 50_000))
        packed = gzip.compress(json.dumps(body()).encode())
        await self.send("POST", "/v1/responses", said=packed, Content_Encoding="gzip", X_Behave="400")
        for method, path in (
            ("GET", f"/v1/files/{MARK}?x={MARK}"),
            (MARK.upper(), f"/{MARK}"),
            ("GET", f"/v1/../{MARK}"),
        ):
            await self.send(method, path, X_Behave="500")
        for raw in (
            b"%(mark)b\r\n\r\n",
            b"GET /v1/%(mark)b\xff HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n",
            b"GET /v1/x HTTP/1.1\r\nHost: %(mark)b\r\n%(mark)b no colon\r\n\r\n",
            b"GET /v1/x HTTP/1.1\r\nHost: g\r\nX-A: %(mark)b\x00\r\n\r\n",
            b"GET /v1/x HTTP/1.1\r\nHost: g\r\nConnection: close\r\nX-%(mark)b: caf\xe9\r\n\r\n",
            b"POST /v1/x HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n%(mark)b\r\n",
            b"POST /v1/x HTTP/1.1\r\nHost: g\r\nContent-Length: %(mark)b\r\n\r\n",
            b"GET /v1/realtime?m=%(mark)b HTTP/1.1\r\nHost: g\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Protocol: openai-insecure-api-key.%(mark)b\r\nSec-WebSocket-Key: %(mark)b\r\n\r\n",
        ):
            await exchange(parts, self._gateway.url, raw % {b"mark": MARK.encode()})

    async def hit_the_bugs(self) -> None:
        """Errors that nobody foresaw, and that quote what they met."""
        for where in ("bug in the handler", "bug where nobody catches", "bug in the pump"):
            await self.send("POST", "/v1/responses", said=body(stream=True, background=True, instructions=where))
        await self.send("GET", "/v1/models", X_Bug="headers")

    async def ask_as_operators(self, told: Told) -> None:
        """Everything that operators can see; and what they should not ask."""
        token = {"Authorization": f"Bearer {OWN['GATEWAY_OPS_TOKEN']}"}
        pages = ["/metrics", "/statusz", "/responses?limit=500", *(f"/responses/{one}" for one in self.ids)]
        for page in (*pages, *(f"/responses/{one}/events" for one in self.ids)):
            async with self._http.get(f"{self._gateway.ops_url}{page}", headers=token) as answer:
                told.operators[page] = told.operators.get(page, "") + await answer.text()
        openmetrics = {**token, "Accept": "application/openmetrics-text"}
        async with self._http.get(f"{self._gateway.ops_url}/metrics", headers=openmetrics) as answer:
            told.operators["OpenMetrics"] = await answer.text()
        for page in (f"/{MARK}", f"/responses/{MARK}?{MARK}", f"/responses?{MARK}={MARK}"):
            async with self._http.get(f"{self._gateway.ops_url}{page}", headers=HEADERS) as answer:
                await answer.read()


async def everything_told(parts: AsyncExitStack, folder: Path, log_format: str, own: dict[str, str]) -> Told:
    """What a gateway tells of a life full of secrets, a restart in it, and upstream gone at its end."""
    parrot, told = Parrot(), Told()
    await parrot.start(parts)
    sink, endpoint = await collector(parts)
    http = await parts.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S)))
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **own}
    for last in (False, True):
        gateway = await start(folder, parrot.url, environ, log_format=log_format)
        parts.push_async_callback(gateway.stop)
        clients = Clients(gateway, http)
        if not last:
            await clients.create_in_every_way()
            await clients.ask_about_each()
            await clients.send_what_no_client_should(parts)
            await clients.hit_the_bugs()
        await clients.ask_as_operators(told)
        if last:
            await parrot.stop()
            await clients.create_in_every_way()
            await clients.ask_about_each()
            await clients.send_what_no_client_should(parts)
        await gateway.stop()
        told.output += gateway.output
    told.spans = sink.text
    return told


@pytest.fixture
async def parts() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.mark.parametrize(
    ("log_format", "own"),
    [("json", SEALING), ("console", OWN)],
    ids=["JSON, clients' sealed keys", "console, the gateway's key"],
)
async def test_no_secret_is_told_anywhere(
    parts: AsyncExitStack, tmp_path: Path, log_format: str, own: dict[str, str]
) -> None:
    told = await everything_told(parts, tmp_path, log_format, own)
    leaks = {where: re.findall(rf".{{0,200}}{MARK}.{{0,60}}", text, re.I)[:3] for where, text in told.everything()}
    assert {where: found for where, found in leaks.items() if found} == {}
    # What they are sealed in begins so, as every token of Fernet's does.
    assert [where for where, text in told.everything() if "gAAAAA" in text] == []
    # It has told something of everything, by the names that are no secrets.
    events = ["request", "response_created", "create_refused", "polled", "response_ended", "unexpected error"]
    events += ["an error where nobody could catch it", "the task of a response failed", "exception was never retrieved"]
    assert [event for event in events if event not in told.output] == []
    for shown in ("ValueError", "model-confirmed", "model-asked", "conv_shown", "resp_0"):
        assert shown in told.output, shown
    assert "model-confirmed" in told.spans
    assert "model-confirmed" in told.operators["/metrics"]
