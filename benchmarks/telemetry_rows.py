"""What telemetry costs: a gateway that exports traces beside one that does not, in turns. Both count and log.

The collector is a process of its own (`sink`). A row is void where a span was dropped, or a generation did not come.
"""

import asyncio
import itertools
import operator
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import fmean, median

from benchmarks.json_rows import CREATE, rate_of
from benchmarks.processes import Child, percentile
from benchmarks.stage import Stage, start_gateway
from benchmarks.stream_rows import STREAMS, FlatOut
from benchmarks.table import Row, Sample, cpu_cells, rate_row
from benchmarks.wire import HOST, Pacing, request

SIDES = ("traces off", "traces on")
_PER_S = 500.0
_CONNECTIONS = 64
_SETTLE_S = 0.5
_PATIENCE_S = 30.0
# What happens to one side in a hundredth of its time happens rarely: it takes many turns to be anybody's.
_PACED_TURNS = 4
_ALL, _FEW = "1", "0.01"


@dataclass(slots=True)
class _Pair:
    """Two gateways, alike but for the traces of the second; and where those go."""

    off: Child
    on: Child
    sink: Child

    async def voids(self, made: int | None) -> tuple[str, ...]:
        """What keeps a row from counting, once everything that was exported has come. `made`: how many generations."""
        for _ in range(int(_PATIENCE_S / _SETTLE_S)):
            ours, came = await self.on.ask(), await self.sink.ask()
            if made is None or came["generations"] >= made:
                break
            await asyncio.sleep(_SETTLE_S)
        found = [f"{ours['spans_dropped']:.0f} spans were dropped"] if ours["spans_dropped"] else []
        if made is not None and came["generations"] != made:
            found.append(f"of {made} generations {came['generations']:.0f} came")
        return tuple(found)


async def rows(stage: Stage) -> list[Row]:
    """The rows of what telemetry costs."""
    async with AsyncExitStack() as parts:
        few = await _start(stage, parts, "few", _FEW)
        found = [
            await _rates(stage, few, "pass through GET /v1/models, 1 % sampled", request("GET", "/v1/models")),
            await _rates(stage, few, "create, foreground, 1 % sampled", CREATE),
        ]
    async with AsyncExitStack() as parts:
        found += await _paced(stage, await _start(stage, parts, "paced", _ALL))
    async with AsyncExitStack() as parts:
        found.append(await _events(stage, await _start(stage, parts, "events", _ALL)))
    return found


async def _start(stage: Stage, parts: AsyncExitStack, name: str, share: str) -> _Pair:
    sink = await Child.start("benchmarks.sink")
    parts.push_async_callback(sink.kill)
    exporting = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{sink.port}",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": share,
    }
    off = await start_gateway(stage.url, stage.folder / f"{name}-off.db", stage.scale)
    parts.push_async_callback(off.kill)
    on = await start_gateway(stage.url, stage.folder / f"{name}-on.db", stage.scale, environ=exporting)
    parts.push_async_callback(on.kill)
    return _Pair(off, on, sink)


async def _rates(stage: Stage, pair: _Pair, name: str, message: bytes) -> Row:
    async def measure(gateway: Child) -> Sample:
        return await rate_of(stage, gateway, itertools.cycle([message]))

    pairs = await stage.in_turns(measure, (pair.off, pair.on))
    return _judged(rate_row(name, pairs, sides=SIDES), await pair.voids(None))


async def _events(stage: Stage, pair: _Pair) -> Row:
    flat_out = FlatOut(stage)
    pairs = await stage.in_turns(flat_out.measure, (pair.off, pair.on))
    row = rate_row(f"events of {STREAMS} streams, flat out, all sampled", pairs, sides=SIDES)
    return _judged(row, await pair.voids(STREAMS * flat_out.runs[pair.on.pid]))


async def _paced(stage: Stage, pair: _Pair) -> list[Row]:
    taken: dict[int, list[list[int]]] = {pair.off.pid: [], pair.on.pid: []}
    made, name = 0, f"create at {_PER_S:,.0f}/s, all sampled"

    async def measure(gateway: Child) -> Sample:
        nonlocal made
        pacing = Pacing(gateway.port, CREATE, _PER_S)
        await pacing.start(_CONNECTIONS)
        await asyncio.sleep(_SETTLE_S)
        with stage.watch(gateway) as watch:
            before = len(pacing.taken_ns)
            await asyncio.sleep(stage.scale.seconds)
            taken[gateway.pid].append(pacing.taken_ns[before:])
        await pacing.stop()
        made += len(pacing.taken_ns) if gateway is pair.on else 0
        return Sample(len(taken[gateway.pid][-1]), watch.usage)

    pairs = await stage.in_turns(measure, (pair.off, pair.on), times=_PACED_TURNS)
    slow = [
        f"only {rate:,.0f}/s were answered ({side[-1].busy})"
        for side in zip(*pairs, strict=True)
        if (rate := fmean(sample.rate for sample in side)) < 0.98 * _PER_S
    ]
    voids = (*slow, *await pair.voids(made))
    off, on = (taken[gateway.pid] for gateway in (pair.off, pair.on))
    middle = _times(f"{name}, median", off, on, 50, cpu_cells(pairs))
    return [_judged(middle, voids), _judged(_times(f"{name}, p99", off, on, 99), voids)]


def _times(
    name: str, off: Sequence[list[int]], on: Sequence[list[int]], percent: float, cpu: tuple[str, ...] = ("", "", "")
) -> Row:
    """Of the turns' percentiles the medians, and the median of what the second of a pair has more than the first."""
    before, after = ([percentile(times, percent) / 1e6 for times in side] for side in (off, on))
    added = median(map(operator.sub, after, before))
    return Row((name, f"{median(before):.2f} ms", f"{median(after):.2f} ms", f"{added:+.2f} ms", *cpu))


def _judged(row: Row, voids: Sequence[str]) -> Row:
    if not voids:
        return row
    name, *cells = row.cells
    return Row((name, *cells[:2], "void", *cells[3:]), (*row.remarks, *(f"{name}: VOID, {why}" for why in voids)))
