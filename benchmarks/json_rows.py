"""Requests per second: passed through, tracked creates, polls answered by the store and by the shared snapshot."""

import asyncio
import itertools
import json
from collections.abc import Iterator, Sequence

from benchmarks.processes import Child
from benchmarks.stage import Stage
from benchmarks.table import Row, Sample, rate_row
from benchmarks.wire import Asking, ask, request

_CONNECTIONS = 32
_WARM_UP_S = 0.3
_POLLED = 500

CREATE = request("POST", "/v1/responses", json.dumps({"model": "gpt-5.2", "input": "Say it."}).encode())
CREATE_BACKGROUND = request(
    "POST", "/v1/responses", json.dumps({"model": "gpt-5.2", "input": "Say it.", "background": True}).encode()
)


async def rows(stage: Stage) -> list[Row]:
    """The rows of requests."""
    models = request("GET", "/v1/models")
    finished = await _polls(stage.gateway, CREATE, _POLLED)
    running = await _polls(stage.gateway, CREATE_BACKGROUND, 1)
    return [
        await _row(stage, "pass through GET /v1/models", [models]),
        await _row(stage, "create, foreground, tracked", [CREATE]),
        await _row(stage, f"poll of {_POLLED} finished responses", finished),
        await _row(stage, "poll of one running response", running),
    ]


async def _row(stage: Stage, name: str, requests: Sequence[bytes]) -> Row:
    async def measure(proxy: Child) -> Sample:
        return await rate_of(stage, proxy, itertools.cycle(requests))

    return rate_row(name, await stage.in_turns(measure))


async def rate_of(stage: Stage, proxy: Child, requests: Iterator[bytes]) -> Sample:
    """How many requests a proxy answers, asked for as fast as it answers them."""
    asking = Asking(proxy.port, requests)
    await asking.start(_CONNECTIONS)
    await asyncio.sleep(_WARM_UP_S)
    with stage.watch(proxy) as watch:
        before = asking.answered
        await asyncio.sleep(stage.scale.seconds)
        units = asking.answered - before
    await asking.stop()
    return Sample(units, watch.usage)


async def _polls(gateway: Child, create: bytes, count: int) -> list[bytes]:
    """Polls of responses that were made through the gateway."""
    made = [json.loads(await ask(gateway.port, create))["id"] for _ in range(count)]
    return [request("GET", f"/v1/responses/{response_id}") for response_id in made]
