"""Prometheus and Alertmanager with the flags and files that compose.yaml gives them: do they see, and do they tell?"""

import asyncio
import re
import shutil
from asyncio.subprocess import DEVNULL
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pytest
from monitoring import Pager, Prometheus, needs_prometheus, start_alertmanager, start_prometheus
from running import Running, Upstream
from stack import ROOT, SERVICES, TOKEN, mounts
from stories import ask, until

from gateway.telemetry.receiver import Receiver

pytestmark = [
    needs_prometheus,
    pytest.mark.skipif(shutil.which("wget") is None, reason="needs wget, as the images have it: apt install wget"),
]

Simulate = Callable[..., Awaitable[Upstream]]
GatewayFor = Callable[..., Awaitable[Running]]


def adapted(service: str, inside: str, folder: Path, changes: Mapping[str, str]) -> list[str]:
    """Put a file that a service sees into `folder`; the service's flags. Both with `changes` made in them."""
    text = mounts(service)[PurePosixPath(inside)].read_text()
    flags = [str(flag) for flag in SERVICES[service]["command"]]
    for written, here in changes.items():
        assert written in text + "\n".join(flags), f"{service} knows of no {written}"
        text, flags = text.replace(written, here), [flag.replace(written, here) for flag in flags]
    (folder / PurePosixPath(inside).name).write_text(text)
    return flags


async def prometheus(
    parts: AsyncExitStack, folder: Path, gateway: Running, *, token: str = TOKEN, alertmanager: str = "127.0.0.1:1"
) -> Prometheus:
    (folder / "token").write_text(token)
    changes = {
        "gateway:9464": urlsplit(gateway.ops_url).netloc,
        "alertmanager:9093": alertmanager,
        "/run/secrets/ops_token": f"{folder}/token",
        "/etc/prometheus/rules.yml": f"{ROOT}/dashboards/rules.yml",
        "/etc/prometheus/": f"{folder}/",
        "=/prometheus": f"={folder}/series",
        "interval: 15s": "interval: 500ms",
    }
    flags = adapted("prometheus", "/etc/prometheus/prometheus.yml", folder, changes)
    # What fires before it has found its Alertmanager is told a minute later.
    return await start_prometheus(parts, folder, *flags, "--rules.alert.resend-delay=1s")


async def passes(service: str, url: str) -> None:
    """The health check of a service, with the address of this test: passes while it runs, fails where nothing does."""
    check = SERVICES[service]["healthcheck"]["test"][1:]
    for address, passed in ((url, True), ("http://127.0.0.1:1", False)):
        command = [re.sub(r"http://127\.0\.0\.1:\d+", address, part) for part in check]
        process = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL, stderr=DEVNULL)
        assert (await process.wait() == 0) == passed, command


async def test_prometheus_is_let_in_with_the_token_and_keeps_the_traces_of_exemplars(
    simulate: Simulate, gateway_for: GatewayFor, parts: AsyncExitStack, tmp_path: Path
) -> None:
    traces = Receiver()
    parts.push_async_callback(traces.close)
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": await traces.start(), "OTEL_BSP_SCHEDULE_DELAY": "50"}
    gateway = await gateway_for((await simulate()).url, ops_token=TOKEN, environ=environ)
    watching = await prometheus(parts, tmp_path, gateway)
    await passes("prometheus", watching.url)
    await watching.shows('up{job="responses-gateway"}', 1)
    await gateway.client().responses.create(**ask())
    await watching.shows("sum(responses_gateway_response_duration_seconds_count)", 1)
    buckets = "responses_gateway_response_duration_seconds_bucket"
    kept = await watching.data("query_exemplars", query=buckets, start="0", end="4000000000")
    (exemplar,) = (exemplar for series in kept for exemplar in series["exemplars"])
    await until(lambda: traces.trace(exemplar["labels"]["trace_id"]))


async def test_without_the_token_prometheus_sees_a_gateway_that_is_down(
    simulate: Simulate, gateway_for: GatewayFor, parts: AsyncExitStack, tmp_path: Path
) -> None:
    gateway = await gateway_for((await simulate()).url, ops_token=TOKEN)
    watching = await prometheus(parts, tmp_path, gateway, token="another")
    await watching.shows('up{job="responses-gateway"}', 0)


async def test_the_watchdog_reaches_the_webhook_of_whoever_would_miss_it(
    simulate: Simulate, gateway_for: GatewayFor, parts: AsyncExitStack, tmp_path: Path
) -> None:
    deadman = Pager()
    await deadman.listen(parts)
    changes = {
        '# webhook_configs: [{url: "https://deadman.example.com/"': f'webhook_configs: [{{url: "{deadman.url}"',
        "/etc/alertmanager/": f"{tmp_path}/",
        "=/alertmanager": f"={tmp_path}/alerts",
    }
    flags = adapted("alertmanager", "/etc/alertmanager/alertmanager.yml", tmp_path, changes)
    manager = await start_alertmanager(parts, tmp_path, *flags)
    await passes("alertmanager", f"http://{manager}")
    gateway = await gateway_for((await simulate()).url, ops_token=TOKEN)
    await prometheus(parts, tmp_path, gateway, alertmanager=manager)
    alert = await deadman.alert(alertname="ResponsesGatewayWatchdog")
    assert alert["annotations"]["summary"]
    assert {told["receiver"] for told in deadman.told} == {"watchdog"}
