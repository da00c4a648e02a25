"""Dashboards over several gateways of one store: the figures are true before, during and after the death of one."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis_server
from monitoring import Prometheus, needs_prometheus, prometheus
from processes import Process, serve
from promql import written_out
from running import PATIENCE_S
from stories import Event, job, some
from test_dashboards import LOADED, panels

MOVING: dict[str, Any] = {"queue_s": 0, "duration_s": 1200, "delta_count": 6000}
"""Five events a second, for longer than the test takes."""
FIGURES = ("Live", "Stuck", "processes", "held by none")
"""What the curves are called by which the test goes."""


def question(figure: str) -> str:
    """The first of the dashboards' panels that shows it."""
    found = [
        target["expr"]
        for dashboard in (LOADED["overview"], LOADED["runtime"])
        for panel in panels(dashboard)
        for target in panel.get("targets", ())
        if target.get("legendFormat") == figure
    ]
    return written_out(found[0])


async def shown(server: Prometheus) -> dict[str, int]:
    """The figures at this moment."""
    answers = await asyncio.gather(*(server.query(question(figure)) for figure in FIGURES))
    return {
        figure: int(float(answer[0]["value"][1])) if answer else 0
        for figure, answer in zip(FIGURES, answers, strict=True)
    }


async def until_shown(server: Prometheus, **wanted: int) -> None:
    expected = {"held by none": 0, **wanted}
    seen: dict[str, int] = {}
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not expected.items() <= (seen := await shown(server)).items():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"shown are {seen}, true are {expected}") from None


async def created(process: Process, body: dict[str, Any]) -> Event:
    (first,) = await some(await process.client().responses.create(**body), 1)
    return first


@needs_prometheus
async def test_the_figures_over_three_replicas_are_true_before_during_and_after_a_kill(
    parts: AsyncExitStack, simulate: Any, tmp_path: Path
) -> None:
    upstream, store = await simulate(speed=1.0), redis_server.url_for(tmp_path)
    settings = {"upstream_api_key": "sk-gateway", "lease_s": 20, "patience_s": 3}

    async def start(port: int = 0, ops_port: int = 0) -> Process:
        process = await serve(upstream.url, store, port=port, ops_listen=f"127.0.0.1:{ops_port}", **settings)
        parts.push_async_callback(process.close)
        return process

    replicas = [await start() for _ in range(3)]
    for one in replicas:
        await created(one, job("long", **MOVING))
        await created(one, job("stuck"))
    server = await prometheus(parts, tmp_path, [urlsplit(one.ops_url).netloc for one in replicas])
    await until_shown(server, Live=6, Stuck=3, processes=3)

    dead = replicas[0]
    await dead.kill()
    await until_shown(server, Live=4, Stuck=2)  # what is in the hands of the living
    await until_shown(server, Live=6, Stuck=3, processes=2)

    await start(dead.port, int(dead.ops_url.rpartition(":")[2]))
    await until_shown(server, Live=6, Stuck=3, processes=3)
    (most,) = await server.query(f"max_over_time(({question('Live')})[5m:500ms])")
    assert float(most["value"][1]) == 6  # none was ever shown twice
