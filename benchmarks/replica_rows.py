"""Several gateways on one Redis: what they carry together, how soon an event is at a client of another gateway, and how
soon one goes on with what a killed one held. For that, one of three is killed under its clients, as by `make chaos`.
"""

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from statistics import median

from chaos import storms
from chaos.__main__ import run

from benchmarks.processes import Child, Watch, percentile
from benchmarks.redis_process import redis
from benchmarks.stage import Stage, start_gateway
from benchmarks.stream_rows import CREATED_AND_COMPLETED, STREAMS, create_stream
from benchmarks.table import Row, Sides, plain_row
from benchmarks.wire import Following, WrongAnswer, request

SIDES: Sides = ("one gateway", "three gateways")
_COUNTS = (1, 2, 3)
_EVENTS = 3_000
_PACED_STREAMS = 20
_PACED_RATE = 50.0
_SETTLE_S = 0.5
_LEASES_LONG = 3
_DELTAS = 150
_SEED = 7
_ID = re.compile(rb'"id":"(resp_[^"]+)"')


@dataclass(frozen=True, slots=True)
class _Poured:
    """Events per second of all gateways together, and microseconds of processor time per event."""

    rate: float
    gateways_us: float
    redis_us: float


@dataclass(frozen=True, slots=True)
class _Side:
    """Nanoseconds that events were under way, and microseconds of processor time per event."""

    delays_ns: list[int]
    us: float


@dataclass(frozen=True, slots=True)
class _Paced:
    """Streams made at one gateway and followed there and at another, at a pace."""

    here: _Side
    elsewhere: _Side
    redis: _Side


_PARTS = ("here", "elsewhere", "redis")


async def rows(stage: Stage) -> list[Row]:
    """What one, two and three gateways carry; and the way of an event to a client here and elsewhere."""
    program = shutil.which("redis-server")
    if program is None:
        return [plain_row("several gateways: not measured, there is no redis-server", "", "")]
    poured: dict[int, list[_Poured]] = {count: [] for count in _COUNTS}
    paced: list[_Paced] = []
    for _ in range(stage.scale.rounds):
        for count in _COUNTS:
            async with _gateways(stage, program, count) as (pid, gateways):
                await _pour(stage, gateways, pid)
                poured[count].append(await _pour(stage, gateways, pid))
                if count == 2:
                    paced.append(await _paced(stage, gateways, pid))
    one, two, three = (poured[count] for count in _COUNTS)
    rows = [
        plain_row(f"events of {STREAMS} streams", _rate(one), _rate(three), f"two: {_rate(two)}"),
        plain_row("CPU per event, gateways/Redis", _times(one), _times(three), f"two: {_times(two)}"),
    ]
    return [*rows, *_paced_rows(paced), await _killed(stage, program)]


def _paced_rows(runs: Sequence[_Paced]) -> list[Row]:
    """For two gateways: what is at the one that reads upstream, and at the other."""
    pace = f"{_PACED_STREAMS * _PACED_RATE:,.0f} events/s"
    here, elsewhere, servers = ([getattr(run, name) for run in runs] for name in _PARTS)
    redis_us = f"Redis: {median(side.us for side in servers):.0f} us"
    return [
        plain_row(f"of two, reads upstream/does not, {pace}: p50/p99", _delays(here), _delays(elsewhere)),
        plain_row("the same, CPU per event", _us(here), _us(elsewhere), redis_us),
    ]


@asynccontextmanager
async def _gateways(stage: Stage, program: str, count: int) -> AsyncIterator[tuple[int, list[Child]]]:
    """A Redis of their own, by its process id, and so many gateways on it."""
    async with AsyncExitStack() as parts:
        server = await parts.enter_async_context(redis(stage.folder, program))
        gateways = []
        for _ in range(count):
            gateway = await start_gateway(stage.url, stage.folder, stage.scale, store=server.url)
            parts.push_async_callback(gateway.stop)
            gateways.append(gateway)
        yield server.pid, gateways


async def _pour(stage: Stage, gateways: Sequence[Child], redis_pid: int) -> _Poured:
    """Streams as fast as they go, spread over the gateways."""
    streams = [Following() for _ in range(STREAMS)]
    pids = {f"gateway {number}": gateway.pid for number, gateway in enumerate(gateways)}
    with Watch(**pids, redis=redis_pid, generator=os.getpid()) as watch:
        for number, stream in enumerate(streams):
            await stream.start(gateways[number % len(gateways)].port, create_stream(_EVENTS, 0))
        async with asyncio.timeout(120):
            await asyncio.gather(*(stream.done for stream in streams))
    events = sum(stream.events for stream in streams)
    if events != STREAMS * (_EVENTS + CREATED_AND_COMPLETED):
        raise WrongAnswer(f"there were {events} events")
    busy_ns = sum(watch.usage[name].cpu for name in pids)
    return _Poured(events / watch.seconds, busy_ns / events / 1e3, watch.usage["redis"].cpu / events / 1e3)


async def _paced(stage: Stage, gateways: Sequence[Child], redis_pid: int) -> _Paced:
    seconds = stage.scale.seconds * 2
    message = create_stream(int(_PACED_RATE * (seconds + 4 * _SETTLE_S)), _PACED_RATE)
    here = [Following(timed=True) for _ in range(_PACED_STREAMS)]
    elsewhere = [Following(timed=True) for _ in range(_PACED_STREAMS)]
    for stream in here:
        await stream.start(gateways[0].port, message)
    await asyncio.gather(*(stream.begun for stream in here))
    for stream, other in zip(here, elsewhere, strict=True):
        named = _ID.search(stream.head)
        if named is None:
            raise WrongAnswer("The first event names no response.")
        await other.start(gateways[1].port, request("GET", f"/v1/responses/{named[1].decode()}?stream=true"))
    await asyncio.gather(*(stream.begun for stream in elsewhere))
    await asyncio.sleep(_SETTLE_S)
    before = [[len(stream.delays_ns) for stream in streams] for streams in (here, elsewhere)]
    with Watch(here=gateways[0].pid, elsewhere=gateways[1].pid, redis=redis_pid) as watch:
        await asyncio.sleep(seconds)
    delays = [
        [delay for at, stream in zip(ats, streams, strict=True) for delay in stream.delays_ns[at:]]
        for ats, streams in zip(before, (here, elsewhere), strict=True)
    ]
    async with asyncio.timeout(60):
        await asyncio.gather(*(stream.done for stream in (*here, *elsewhere)))
    each_us = [watch.usage[name].cpu / max(len(delays[0]), 1) / 1e3 for name in _PARTS]
    return _Paced(*(_Side(found, us) for found, us in zip((*delays, []), each_us, strict=True)))


async def _killed(stage: Stage, program: str) -> Row:
    """From kill -9 of the gateway that held a response to the next event at its followers elsewhere."""
    lease_s = stage.scale.lease_s
    asked = {"duration_s": _LEASES_LONG * lease_s, "delta_count": _DELTAS}
    async with redis(stage.folder, program) as server:
        figures = await run(server.url, _SEED, storms.kills(stage.scale.kills), asked=asked, lease_s=lease_s)
    name = f"a follower's wait after kill -9, lease {lease_s:g} s: p50/max"
    waits = f"{median(figures.waits):.2f}/{max(figures.waits):.2f} s" if figures.waits else "none"
    cells = (name, "", waits, f"{stage.scale.kills} kills, {len(figures.waits)} waits", "", "", "")
    return Row(cells, (f"{name}: VOID, {figures.shown()}",) if any(figures.wrong.values()) else ())


def _rate(runs: Sequence[_Poured]) -> str:
    return f"{median(run.rate for run in runs):,.0f}/s"


def _times(runs: Sequence[_Poured]) -> str:
    gateways, servers = median(run.gateways_us for run in runs), median(run.redis_us for run in runs)
    return f"{gateways:.1f}/{servers:.1f} us"


def _delays(runs: Sequence[_Side]) -> str:
    middle = median(percentile(run.delays_ns, 50) for run in runs) / 1e6
    return f"{middle:.2f}/{median(percentile(run.delays_ns, 99) for run in runs) / 1e6:.2f} ms"


def _us(runs: Sequence[_Side]) -> str:
    return f"{median(run.us for run in runs):.0f} us"
