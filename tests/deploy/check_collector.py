"""otel-collector.yaml as a real Collector takes it. `make deploy-check` builds one and runs this: too much for CI.

It is a Collector of the core components: health check and the queue on disk, which are contrib, are taken out first.
"""

import asyncio
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import yaml
from aiohttp import web
from monitoring import Prometheus, needs_prometheus, prometheus
from promql import OF_COLLECTOR, SCRAPED
from running import PATIENCE_S, Running, Upstream
from stack import COLLECTOR_FILE, core_of, free_port
from stories import ask, until

from gateway.telemetry.receiver import Received, Receiver

BINARY = shutil.which("otelcol")
BOTH = "[otlp_http/backend, debug]"

Start = Callable[..., Awaitable["Collector"]]
Stage = Callable[..., Awaitable[Running]]

pytestmark = pytest.mark.skipif(BINARY is None, reason="needs the Collector that tests/deploy/programs.sh builds")


@dataclass
class Collector:
    """A running Collector, and all that it wrote."""

    process: asyncio.subprocess.Process
    ports: dict[int, int]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text()

    def endpoint(self, protocol: str) -> str:
        return f"http://127.0.0.1:{self.ports[4317 if protocol == 'grpc' else 4318]}"

    async def metric(self, name: str) -> float:
        """One of its own metrics, summed over its labels; 0 where there is none yet."""
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{self.ports[8888]}/metrics") as answer:
            lines = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", await answer.text(), re.M)
        return sum(map(float, lines))

    async def shows(self, name: str, fits: Callable[[float], bool]) -> None:
        """Wait until one of its own metrics is as it should be."""
        async with asyncio.timeout(PATIENCE_S):
            while not fits(await self.metric(name)):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def told_of(self, parts: AsyncExitStack, folder: Path, *alerts: str) -> Prometheus:
        """A Prometheus that scrapes it, once just these of the alerts on it fire."""
        server = await prometheus(parts, folder, [], collectors=[f"127.0.0.1:{self.ports[8888]}"])
        fires = 'ALERTS{alertname=~"ResponsesGatewayCollector.+", alertstate="firing"}'
        async with asyncio.timeout(PATIENCE_S):
            while {one["metric"]["alertname"] for one in await server.query(fires)} != set(alerts):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        return server

    async def stop(self) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        await self.process.wait()


def core_file(folder: Path, ports: dict[int, int]) -> Path:
    """The file as it is, without contrib, on free ports."""
    text = COLLECTOR_FILE.read_text()
    for written, free in ports.items():
        text = text.replace(f":{written}", f":{free}").replace(f"port: {written}", f"port: {free}")
    path = folder / "core.yaml"
    path.write_text(yaml.safe_dump(core_of(yaml.safe_load(text))))
    return path


def validate(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    path = core_file(folder, {})
    command = [str(BINARY), "validate", "--config", str(path)]
    return subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.fixture
async def collector(parts: AsyncExitStack, tmp_path: Path) -> Start:
    """Start a Collector that sends to a backend; further configuration and variables as arguments."""

    async def start(backend: str, *more: str, **environ: str) -> Collector:
        ports = {port: free_port() for port in (4317, 4318, 8888)}
        configs = [str(core_file(tmp_path, ports)), *(f"yaml:{one}" for one in more)]
        log = tmp_path / "collector.log"
        with log.open("w") as output:
            process = await asyncio.create_subprocess_exec(
                *(str(BINARY), *(part for config in configs for part in ("--config", config))),
                env={**os.environ, "OTELCOL_BACKEND_ENDPOINT": backend, **environ},
                stdout=output,
                stderr=output,
            )
        started = Collector(process, ports, log)
        parts.push_async_callback(started.stop)
        await until(lambda: process.returncode is not None or "Everything is ready" in started.said)
        assert process.returncode is None, started.said
        return started

    return start


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    yield receiver
    await receiver.close()


@pytest.fixture
def stage(simulate: Callable[..., Awaitable[Upstream]], gateway_for: Callable[..., Awaitable[Running]]) -> Stage:
    """A gateway in front of a simulator, which exports to a Collector."""

    async def start(collector: Collector, protocol: str = "http/protobuf") -> Running:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint(protocol),
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        return await gateway_for((await simulate()).url, environ=environ)

    return start


async def some_responses(gateway: Running, count: int) -> set[str]:
    """Foreground responses from create to end; their ids."""
    client = gateway.client()
    return {(await client.responses.create(**ask())).id for _ in range(count)}


def generations(receiver: Receiver) -> dict[str, Received]:
    """The generation spans that came, by the id of the response."""
    return {span.attributes["gen_ai.response.id"]: span for span in receiver.spans if span.name.startswith("chat ")}


async def arrived(receiver: Receiver, ids: set[str]) -> None:
    """Wait until the generation span of each response is there."""

    await until(lambda: ids <= generations(receiver).keys())


@pytest.mark.parametrize("exporters", ["[otlp_http/backend]", "[debug]", BOTH])
def test_the_file_is_valid_whatever_the_switch_says(tmp_path: Path, exporters: str) -> None:
    headers = "{authorization: Bearer x, x-scope: y}"
    done = validate(
        tmp_path, OTELCOL_EXPORTERS=exporters, OTELCOL_LOG_EXPORTERS=exporters, OTELCOL_BACKEND_HEADERS=headers
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_the_collector_does_not_know_is_not_valid(tmp_path: Path) -> None:
    done = validate(tmp_path, OTELCOL_EXPORTERS="[jaeger]")
    assert done.returncode == 1
    assert 'references exporter "jaeger" which is not configured' in done.stderr


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_spans_of_the_gateway_arrive_through_it(
    collector: Start, stage: Stage, receiver: Receiver, protocol: str
) -> None:
    between = await collector(await receiver.start())
    ids = await some_responses(await stage(between, protocol), 3)
    await arrived(receiver, ids)
    assert generations(receiver).keys() == ids
    for generation in generations(receiver).values():
        (parent,) = (s for s in receiver.trace(generation.trace_id) if s.span_id == generation.parent_id)
        assert (parent.name, parent.kind, generation.kind) == ("POST /v1/responses", "server", "client")
        assert generation.resource["service.name"] == "responses-gateway"
    assert not re.search(r"\t(warn|error)\t", between.said), between.said


async def test_the_switch_prints_what_goes_out_as_well(collector: Start, stage: Stage, receiver: Receiver) -> None:
    between = await collector(await receiver.start(), OTELCOL_EXPORTERS=BOTH)
    ids = await some_responses(await stage(between), 1)
    await arrived(receiver, ids)
    trace_id = receiver.spans[0].trace_id
    await until(lambda: re.search(rf"Trace ID +: {trace_id}", between.said))


async def test_without_the_switch_nothing_is_printed(collector: Start, stage: Stage, receiver: Receiver) -> None:
    between = await collector(await receiver.start())
    await arrived(receiver, await some_responses(await stage(between), 1))
    assert receiver.spans[0].trace_id not in between.said


async def test_the_backend_is_sent_the_headers_it_wants(collector: Start, stage: Stage, parts: AsyncExitStack) -> None:
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def take(request: web.Request) -> web.Response:
        seen.put_nowait(f"{request.path} {request.headers['authorization']} {request.headers['content-encoding']}")
        return web.Response()

    app = web.Application()
    app.router.add_post("/otlp/v1/traces", take)
    backend = f"{await listening(app, parts)}/otlp"
    between = await collector(backend, OTELCOL_BACKEND_HEADERS="{authorization: Bearer x}")
    await some_responses(await stage(between), 1)
    async with asyncio.timeout(PATIENCE_S):
        assert await seen.get() == "/otlp/v1/traces Bearer x gzip"


async def test_nothing_is_lost_while_the_backend_is_away(collector: Start, stage: Stage, parts: AsyncExitStack) -> None:
    first, again, port = Receiver(), Receiver(), free_port()
    parts.push_async_callback(first.close)
    parts.push_async_callback(again.close)
    between = await collector(await first.start(port=port))
    gateway = await stage(between)
    before = await some_responses(gateway, 3)
    await arrived(first, before)
    await first.close()

    meanwhile = await some_responses(gateway, 50)
    await gateway.gateway.stop(delayed=False)
    accepted = await between.metric("otelcol_receiver_accepted_spans")
    assert await between.metric("otelcol_exporter_queue_size") > len(meanwhile)
    await again.start(port=port)
    await arrived(again, meanwhile)
    await between.shows("otelcol_exporter_sent_spans", lambda spans: spans == accepted)
    assert len({span.span_id for span in (*first.spans, *again.spans)}) == accepted
    await between.shows("otelcol_exporter_queue_size", lambda spans: spans == 0)
    assert await between.metric("otelcol_exporter_send_failed_spans") == 0


async def test_told_to_stop_it_sends_what_it_has(collector: Start, stage: Stage, receiver: Receiver) -> None:
    slow = "exporters::otlp_http/backend::sending_queue::batch::flush_timeout: 1h"
    between = await collector(await receiver.start(), slow)
    gateway = await stage(between)
    ids = await some_responses(gateway, 3)
    await gateway.gateway.stop(delayed=False)
    assert await between.metric("otelcol_receiver_accepted_spans") >= len(ids)
    assert receiver.spans == ()
    await between.stop()
    await arrived(receiver, ids)


@needs_prometheus
async def test_at_its_memory_limit_it_refuses_and_counts_and_no_client_notices(
    collector: Start, stage: Stage, receiver: Receiver, parts: AsyncExitStack, tmp_path: Path
) -> None:
    limit = "processors::memory_limiter: {check_interval: 50ms, limit_mib: 1, spike_limit_mib: 0}"
    between = await collector(await receiver.start(), limit)
    assert len(await some_responses(await stage(between), 5)) == 5
    await between.shows("otelcol_receiver_refused_spans", lambda spans: spans > 0)
    assert receiver.spans == ()
    await between.told_of(parts, tmp_path, "ResponsesGatewayCollectorRefuses")


@needs_prometheus
async def test_a_queue_that_is_full_is_told_of_and_so_is_a_collector_that_is_gone(
    collector: Start, stage: Stage, parts: AsyncExitStack, tmp_path: Path
) -> None:
    small = "exporters::otlp_http/backend::sending_queue: {queue_size: 10, batch: {min_size: 1, max_size: 5}}"
    between = await collector("http://127.0.0.1:1", small)
    await some_responses(await stage(between), 10)
    await between.shows("otelcol_exporter_enqueue_failed_spans", lambda spans: spans > 0)
    full = ("QueueNearlyFull", "Refuses", "Loses")
    server = await between.told_of(parts, tmp_path, *(f"ResponsesGatewayCollector{name}" for name in full))
    await between.stop()
    await until_down(server)


async def until_down(server: Prometheus) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await server.query('ALERTS{alertname="ResponsesGatewayCollectorDown"}'):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


@needs_prometheus
async def test_what_a_backend_would_not_have_is_told_of_by_the_names_that_the_rules_know(
    collector: Start, stage: Stage, parts: AsyncExitStack, tmp_path: Path
) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=400)

    app = web.Application()
    app.router.add_post("/v1/traces", refuse)
    between = await collector(await listening(app, parts))
    await some_responses(await stage(between), 1)
    await between.shows("otelcol_exporter_send_failed_spans", lambda spans: spans > 0)
    server = await between.told_of(parts, tmp_path, "ResponsesGatewayCollectorLoses")
    for name in OF_COLLECTOR.keys() - {"otelcol_exporter_enqueue_failed_spans"}:
        found = await server.query(name)
        assert found, name
        assert {*OF_COLLECTOR[name], *SCRAPED} <= found[0]["metric"].keys()


async def listening(app: web.Application, parts: AsyncExitStack) -> str:
    """Serve on a free port; the URL."""
    runner = web.AppRunner(app)
    await runner.setup()
    parts.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}"
