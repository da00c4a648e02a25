"""Events per second as fast as they are taken, and the time that is added to each event at 2,000 a second."""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from statistics import median

from benchmarks.processes import Child, percentile
from benchmarks.stage import Stage
from benchmarks.table import Row, Sample, cpu_cells, rate_row
from benchmarks.wire import Following, WrongAnswer, request

STREAMS = 8
_FIRST_EVENTS = 1_500
_MOST_EVENTS = 80_000
_PACED_STREAMS = 40
_PACED_RATE = 50.0
_SETTLE_S = 0.5
CREATED_AND_COMPLETED = 2


def create_stream(events: int, rate: float) -> bytes:
    """A create whose stream has so many deltas, at so many a second (0: as fast as they are taken)."""
    body = {
        "model": "gpt-5.2",
        "input": "Say it.",
        "background": True,
        "stream": True,
        "metadata": {"events": str(events), "rate": str(rate)},
    }
    return request("POST", "/v1/responses", json.dumps(body).encode())


async def rows(stage: Stage) -> list[Row]:
    """The rows of events."""
    flat_out = await stage.in_turns(FlatOut(stage).measure)
    return [rate_row(f"events of {STREAMS} streams, flat out", flat_out), *await _paced(stage)]


@dataclass(slots=True)
class FlatOut:
    """Events as fast as they are taken, of `STREAMS` streams at a time. `runs`: how often each proxy, by its pid."""

    stage: Stage
    runs: Counter[int] = field(default_factory=Counter)
    _events: dict[int, int] = field(default_factory=dict)

    async def measure(self, proxy: Child) -> Sample:
        """Pour through a proxy."""
        if proxy.pid not in self._events:
            # As many as the time allows, found out with a short run that warms up as well.
            first = await self._pour(proxy, _FIRST_EVENTS)
            self._events[proxy.pid] = min(int(first.rate * self.stage.scale.seconds / STREAMS), _MOST_EVENTS)
        return await self._pour(proxy, self._events[proxy.pid])

    async def _pour(self, proxy: Child, events: int) -> Sample:
        self.runs[proxy.pid] += 1
        return await _pour(self.stage, proxy, events)


async def _pour(stage: Stage, proxy: Child, events: int) -> Sample:
    streams = [Following() for _ in range(STREAMS)]
    with stage.watch(proxy) as watch:
        for stream in streams:
            await stream.start(proxy.port, create_stream(events, 0))
        async with asyncio.timeout(120):
            await asyncio.gather(*(stream.done for stream in streams))
    expected = events + CREATED_AND_COMPLETED
    if wrong := [stream.events for stream in streams if stream.events != expected]:
        raise WrongAnswer(f"a stream had {wrong[0]} events instead of {expected}")
    return Sample(sum(stream.events for stream in streams), watch.usage)


@dataclass(frozen=True, slots=True)
class _Delays:
    p50_ms: float
    p99_ms: float


async def _paced(stage: Stage) -> list[Row]:
    delays: dict[int, list[_Delays]] = {stage.bare.pid: [], stage.gateway.pid: []}

    async def measure(proxy: Child) -> Sample:
        sample, found = await _at_a_pace(stage, proxy)
        delays[proxy.pid].append(found)
        return sample

    pairs = await stage.in_turns(measure)
    total = _PACED_STREAMS * _PACED_RATE
    name = f"time under way at {total:,.0f} events/s"
    bare, ours = delays[stage.bare.pid], delays[stage.gateway.pid]
    remarks = [
        f"{name}: only {sample.rate:,.0f} of {total:,.0f} events/s arrived ({sample.busy}): VOID"
        for pair in pairs
        for sample in pair
        if sample.rate < 0.95 * total
    ]
    return [
        Row(_delay_cells(f"{name}, median", [d.p50_ms for d in bare], [d.p50_ms for d in ours], cpu_cells(pairs))),
        Row(_delay_cells(f"{name}, p99", [d.p99_ms for d in bare], [d.p99_ms for d in ours]), tuple(remarks)),
    ]


def _delay_cells(
    name: str, bare: list[float], ours: list[float], cpu: tuple[str, ...] = ("", "", "")
) -> tuple[str, ...]:
    added = median(ours) - median(bare)
    return (name, f"{median(bare):.2f} ms", f"{median(ours):.2f} ms", f"{added:+.2f} ms", *cpu)


async def _at_a_pace(stage: Stage, proxy: Child) -> tuple[Sample, _Delays]:
    seconds = stage.scale.seconds * 2
    streams = [Following(timed=True) for _ in range(_PACED_STREAMS)]
    message = create_stream(int(_PACED_RATE * (seconds + 2 * _SETTLE_S)), _PACED_RATE)
    for stream in streams:
        await stream.start(proxy.port, message)
    await asyncio.gather(*(stream.begun for stream in streams))
    await asyncio.sleep(_SETTLE_S)
    with stage.watch(proxy) as watch:
        before = [len(stream.delays_ns) for stream in streams]
        await asyncio.sleep(seconds)
        delays = [delay for at, stream in zip(before, streams, strict=True) for delay in stream.delays_ns[at:]]
    async with asyncio.timeout(30):
        await asyncio.gather(*(stream.done for stream in streams))
    found = _Delays(percentile(delays, 50) / 1e6, percentile(delays, 99) / 1e6)
    return Sample(len(delays), watch.usage), found
