"""A real Prometheus and a real Alertmanager on free ports, with the rules of `dashboards/` made impatient."""

import asyncio
import json
import shutil
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from running import PATIENCE_S

from dashboards.__main__ import HERE

Json = dict[str, Any]
SCRAPE = "500ms"
JOB = "responses-gateway"

needs_prometheus = pytest.mark.skipif(
    not all(map(shutil.which, ("prometheus", "prometheus-alertmanager"))),
    reason="needs Prometheus and Alertmanager: apt install prometheus prometheus-alertmanager",
)


def impatient_rules() -> Json:
    """The committed rules, with every wait left out: an alert fires at the first evaluation that finds it true."""
    rules: Json = yaml.safe_load((HERE / "rules.yml").read_text(encoding="utf-8"))
    for group in rules["groups"]:
        group["interval"] = SCRAPE
        for rule in group["rules"]:
            if "alert" in rule:
                rule.update({"for": "0s", "keep_firing_for": "0s"})
    return rules


class Prometheus:
    """A Prometheus, by its HTTP API."""

    def __init__(self, http: aiohttp.ClientSession, address: str) -> None:
        self._http = http
        self.url = f"http://{address}"

    async def query(self, expression: str, **more: object) -> list[Json]:
        """An instant query's series; fails on an error and on a warning."""
        answer = await self._get("query", query=expression, **more)
        assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
        assert "warnings" not in answer, f"{expression}: {answer['warnings']}"
        result: list[Json] = answer["data"]["result"]
        return result

    async def shows(self, expression: str, value: float) -> None:
        """Wait until an instant query has one series, of this value."""
        async with asyncio.timeout(PATIENCE_S):
            while [float(one["value"][1]) for one in await self.query(expression)] != [value]:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def points(self, expression: str, at: float) -> list[tuple[dict[str, str], float]]:
        """An instant query's series as they were `at` (unix seconds): labels and value."""
        return [(one["metric"], float(one["value"][1])) for one in await self.query(expression, time=at)]

    async def data(self, path: str, **query: object) -> Any:
        """The data of any other question."""
        answer = await self._get(path, **query)
        assert answer["status"] == "success", answer
        return answer["data"]

    async def _get(self, path: str, **query: object) -> Json:
        async with self._http.get(f"{self.url}/api/v1/{path}?{urlencode(query)}") as answer:
            told: Json = await answer.json(content_type=None)
            return told


async def prometheus(
    parts: AsyncExitStack,
    folder: Path,
    gateways: Sequence[str],
    alertmanager: str | None = None,
    collectors: Sequence[str] = (),
) -> Prometheus:
    """Start one that scrapes these gateways (`host:port` of their operators' address) and loads the rules."""
    (folder / "rules.yml").write_text(yaml.safe_dump(impatient_rules()), encoding="utf-8")
    config: Json = {
        "global": {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE},
        "rule_files": [str(folder / "rules.yml")],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(targets)}]}
            for job, targets in ((JOB, gateways), ("otel-collector", collectors))
        ],
    }
    if alertmanager:
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return await start_prometheus(
        parts,
        folder,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'series'}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
        # What fires before it has found its Alertmanager is else told a minute later.
        "--rules.alert.resend-delay=1s",
    )


async def start_prometheus(parts: AsyncExitStack, folder: Path, *flags: str) -> Prometheus:
    """Start one with these flags; what it writes is in `folder`."""
    http = await _http(parts)
    return Prometheus(http, await _start(parts, http, folder / "prometheus.log", "prometheus", *flags))


async def alertmanager(parts: AsyncExitStack, folder: Path, config: Json) -> str:
    """Start one with this configuration; its `host:port`."""
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return await start_alertmanager(
        parts,
        folder,
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'alerts'}",
        "--cluster.listen-address=",
    )


async def start_alertmanager(parts: AsyncExitStack, folder: Path, *flags: str) -> str:
    """Start one with these flags; its `host:port`."""
    return await _start(parts, await _http(parts), folder / "alertmanager.log", "prometheus-alertmanager", *flags)


async def _http(parts: AsyncExitStack) -> aiohttp.ClientSession:
    limit = aiohttp.ClientTimeout(total=PATIENCE_S)
    return await parts.enter_async_context(aiohttp.ClientSession(timeout=limit))


async def _start(parts: AsyncExitStack, http: aiohttp.ClientSession, log: Path, *command: str) -> str:
    """Start a program; its address, once it is ready. It cannot say which port it took, so a free one is tried."""
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        with log.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                *command, f"--web.listen-address={address}", stdout=out, stderr=out
            )
        parts.push_async_callback(_end, process)
        if await _ready(http, address, process):
            return address
    raise AssertionError(f"{command[0]} does not start; it says why in {log}")


async def _ready(http: aiohttp.ClientSession, address: str, process: asyncio.subprocess.Process) -> bool:
    async with asyncio.timeout(PATIENCE_S):
        while process.returncode is None:
            try:
                async with http.get(f"http://{address}/-/ready") as answer:
                    if answer.status == 200:
                        return True
            except aiohttp.ClientError:
                pass  # it does not listen yet
            await asyncio.sleep(0.05)
    return False


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


class Pager:
    """What Alertmanager's webhooks reach: every notification, in order."""

    def __init__(self) -> None:
        self.told: list[Json] = []
        self.url = ""
        self._more = asyncio.Event()

    async def listen(self, parts: AsyncExitStack) -> None:
        """On a free port, until the test ends."""

        async def take(request: web.Request) -> web.Response:
            self.told.append(json.loads(await request.read()))
            self._more.set()
            return web.Response()

        app = web.Application()
        app.router.add_post("/", take)
        server = TestServer(app)
        await server.start_server()
        parts.push_async_callback(server.close)
        self.url = str(server.make_url("/"))

    async def alert(self, **labels: str) -> Json:
        """The first alert that it is told of that fires and has these labels."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                self._more.clear()
                for told in self.told:
                    for alert in told["alerts"]:
                        if alert["status"] == "firing" and labels.items() <= alert["labels"].items():
                            found: Json = alert
                            return found
                await self._more.wait()
