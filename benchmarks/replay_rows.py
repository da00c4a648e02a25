"""A long response read again from the store: while its process lives, and after a restart."""

import asyncio
import re
import time
from statistics import median

from benchmarks.processes import Child
from benchmarks.stage import Stage
from benchmarks.stream_rows import CREATED_AND_COMPLETED, create_stream
from benchmarks.table import Row, Sample, rate_row
from benchmarks.wire import Following, WrongAnswer, request

_ID = re.compile(rb'"id":"(resp_[^"]+)"')


async def rows(stage: Stage) -> list[Row]:
    """The rows of replays. The bare proxy has nothing to replay: it is given a new stream of the same length."""
    create = create_stream(stage.scale.replayed_events - CREATED_AND_COMPLETED, 0)
    first = await _read(stage, stage.gateway, create)
    found = _ID.search(first.head)
    if found is None:
        raise WrongAnswer("the stream names no response")
    replay = request("GET", f"/v1/responses/{found[1].decode()}?stream=true")
    warm = await _row(stage, "warm", create, replay, first.events)
    began = time.monotonic()
    await stage.restart()
    restarted_s = time.monotonic() - began
    cold = await _row(stage, f"after a restart ({restarted_s:.1f} s)", create, replay, first.events)
    return [warm, cold]


async def _row(stage: Stage, when: str, create: bytes, replay: bytes, expected: int) -> Row:
    async def measure(proxy: Child) -> Sample:
        with stage.watch(proxy) as watch:
            stream = await _read(stage, proxy, create if proxy is stage.bare else replay)
        if stream.events != expected:
            raise WrongAnswer(f"a replay had {stream.events} events instead of {expected}")
        return Sample(stream.events, watch.usage)

    pairs = await stage.in_turns(measure)
    bare_s, ours_s = (median(pair[side].usage["proxy"].wall / 1e9 for pair in pairs) for side in (0, 1))
    # One reader after another: nobody is the limit, the time is what it is.
    row = rate_row(f"replay of {expected:,} events {when}", pairs, limited_by_proxy=False)
    return Row(row.cells, (f"{row.cells[0]}: {ours_s:.3f} s; through the bare proxy anew: {bare_s:.3f} s",))


async def _read(stage: Stage, proxy: Child, message: bytes) -> Following:
    stream = Following()
    await stream.start(proxy.port, message)
    async with asyncio.timeout(60):
        await stream.done
    return stream
