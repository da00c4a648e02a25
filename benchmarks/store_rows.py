"""The stores by themselves, in this process: an SQLite file beside a Redis on this machine, if one can be started."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from statistics import median, quantiles

from benchmarks.redis_process import redis
from benchmarks.stage import Stage
from benchmarks.table import Row, Sides, plain_row
from gateway.domain.events import Event
from gateway.domain.mode import Mode
from gateway.domain.response import Response, Trace
from gateway.store.port import Store
from gateway.store.redis import RedisStore
from gateway.store.sqlite import SqliteStore

SIDES: Sides = ("SQLite", "Redis")
_LOGS = 200
_PACE_S = 0.0005
_FRAME = (
    b"event: response.output_text.delta\n"
    b'data: {"type":"response.output_text.delta","sequence_number":%d,"item_id":"msg_0123456789abcdef0123456789abcdef",'
    b'"output_index":0,"content_index":0,"delta":" token","logprobs":[],"obfuscation":"abcdefghij"}\n\n'
)
_TRACE = Trace(trace_id=1, span_id=2, parent_span_id=3, flags=1, sampled=False)


async def rows(stage: Stage) -> list[Row]:
    """How many appends a second, how soon they are acknowledged, and how soon a follower has them."""
    program = shutil.which("redis-server")
    if program is None:
        return [plain_row("stores: not measured, there is no redis-server", "", "")]
    sqlite = [await _measure(stage, lambda: _sqlite(stage.folder)) for _ in range(stage.scale.rounds)]
    shared = [await _measure(stage, lambda: _redis(stage.folder, program)) for _ in range(stage.scale.rounds)]
    (rates, acks, delays), (redis_rates, redis_acks, redis_delays) = (
        zip(*sqlite, strict=True),
        zip(*shared, strict=True),
    )
    pace = f"{1 / _PACE_S:,.0f}/s"
    return [
        plain_row(f"appends to {_LOGS} logs", f"{median(rates):,.0f}/s", f"{median(redis_rates):,.0f}/s"),
        plain_row(f"acknowledged, at {pace}: p50/p99", _percentiles(acks), _percentiles(redis_acks)),
        plain_row(f"follower (Redis: elsewhere), {pace}: p50/p99", _percentiles(delays), _percentiles(redis_delays)),
    ]


_Two = tuple[Store, Store]


@asynccontextmanager
async def _sqlite(folder: Path) -> AsyncIterator[_Two]:
    """One file; only its own process reads it."""
    store = SqliteStore(folder / f"store-{time.monotonic_ns()}.db")
    await store.open()
    yield store, store
    await store.close()


@asynccontextmanager
async def _redis(folder: Path, program: str) -> AsyncIterator[_Two]:
    """Two processes' hands on one server."""
    async with redis(folder, program) as server:
        one, two = RedisStore(server.url), RedisStore(server.url)
        await one.open()
        await two.open()
        yield one, two
        await one.close()
        await two.close()


_Sample = tuple[float, list[float], list[float]]


async def _measure(stage: Stage, begin: Callable[[], AbstractAsyncContextManager[_Two]]) -> _Sample:
    async with begin() as (store, elsewhere):
        rate = await _rate(store, stage.scale.seconds)
        return rate, *(await _paced(store, elsewhere, stage.scale.seconds))


async def _rate(store: Store, seconds: float) -> float:
    """Every log's next event as soon as the last is acknowledged: appends a second."""
    until = time.perf_counter() + seconds

    async def pump(key: str) -> int:
        await store.create(_response(key))
        number = 0
        while time.perf_counter() < until:
            await store.append(key, [_event(number)], tail=number - 1, epoch=1)
            number += 1
        return number

    began = time.perf_counter()
    done = await asyncio.gather(*[pump(f"log-{number}") for number in range(_LOGS)])
    return sum(done) / (time.perf_counter() - began)


async def _paced(store: Store, elsewhere: Store, seconds: float) -> tuple[list[float], list[float]]:
    """One log that grows at a pace, and one follower: seconds until acknowledged, and until the follower had it."""
    await store.create(_response("paced"))
    last = int(seconds / _PACE_S) - 1
    sent: list[float] = []
    acks: list[float] = []
    delays: list[float] = []

    async def follow() -> None:
        after = -1
        while after < last:
            page = await elsewhere.read("paced", after=after, wait=1)
            now = time.perf_counter()
            delays.extend(now - sent[number] for number, _ in page.frames)
            after = page.frames[-1][0] if page.frames else after

    following = asyncio.ensure_future(follow())
    await asyncio.sleep(0.1)
    began = time.perf_counter()
    for number in range(last + 1):
        await asyncio.sleep(max(began + number * _PACE_S - time.perf_counter(), 0))
        sent.append(time.perf_counter())
        await store.append("paced", [_event(number)], tail=number - 1, epoch=1)
        acks.append(time.perf_counter() - sent[-1])
    await following
    return acks, delays


def _percentiles(samples: tuple[list[float], ...]) -> str:
    """The median of the rounds' medians and 99th percentiles."""
    cuts = [quantiles(sample, n=100) for sample in samples]
    return f"{median(cut[49] for cut in cuts) * 1e3:.2f}/{median(cut[98] for cut in cuts) * 1e3:.2f} ms"


def _response(key: str) -> Response:
    return Response(key, "default", "owner", Mode.BACKGROUND_STREAM, created_at=time.time(), trace=_TRACE)


def _event(number: int) -> Event:
    frame = _FRAME % number
    return Event(number, "response.output_text.delta", frame, frame)
