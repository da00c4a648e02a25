"""The scene that one process has to hold: thousands of live responses being polled, and readers that follow logs.

Polled three times as often as by default, so that a short look shows what the long run would. A poll is late where it
comes later than the schedule with its jitter allows: seen from upstream, which notes when it was asked.
"""

import asyncio
import itertools
import json
import re
import time

from benchmarks.json_rows import CREATE_BACKGROUND
from benchmarks.processes import Child, LoopProbe, Usage, percentile, rss_bytes
from benchmarks.stage import Stage, start_gateway
from benchmarks.stream_rows import create_stream
from benchmarks.table import Row, plain_row
from benchmarks.wire import Following, WrongAnswer, ask, request

_JITTER = 1.1
_READERS_PER_LOG = 10
_EVENTS_PER_S = 0.5
_ID = re.compile(rb'"id":"(resp_[^"]+)"')
_WARM_UP = 50


async def rows(stage: Stage) -> list[Row]:
    """Memory and schedule, on a gateway of their own."""
    scale = stage.scale
    gateway = await start_gateway(stage.url, stage.folder / "capacity.db", scale)
    try:
        for _ in range(_WARM_UP):
            await ask(gateway.port, CREATE_BACKGROUND)
        start = rss_bytes(gateway.pid)
        await _create_live(stage, gateway)
        live = rss_bytes(gateway.pid)
        firsts, ids = await _logs(stage, gateway)
        logs = rss_bytes(gateway.pid)
        readers = await _follow(stage, gateway, ids)
        followed = rss_bytes(gateway.pid)
        scene = await _watch(stage, gateway, [*firsts, *readers])
        for stream in (*firsts, *readers):
            stream.close()
    finally:
        await gateway.kill()
    bare = await _bare_streams(stage)
    per_reader = (followed - logs) / len(readers)
    return [
        plain_row("memory per live polled response", "", f"{(live - start) / scale.live / 1024:.1f} KiB"),
        plain_row(
            "memory per follower (bare: per stream)",
            f"{bare / 1024:.1f} KiB",
            f"{per_reader / 1024:.1f} KiB",
            f"{per_reader / bare:.2f}",
        ),
        plain_row("memory in all at the end of the scene", "", f"{scene.rss / 2**20:.0f} MiB"),
        *scene.rows(stage),
    ]


class _Scene:
    """What was seen of the gateway while everything ran."""

    def __init__(
        self, usage: Usage, lag: dict[str, float], own_lag: dict[str, float], late_s: list[float], asked: int, rss: int
    ) -> None:
        self.usage = usage
        self.lag = lag
        self.own_lag = own_lag
        self.late_s = late_s
        self.asked = asked
        self.rss = rss
        self.delivered = 0

    def rows(self, stage: Stage) -> list[Row]:
        """The rows of the scene."""
        scale = stage.scale
        seconds = self.usage.wall / 1e9
        name = f"{scale.live:,} live + {scale.followers:,} followers"
        late = sum(late > 0.1 for late in self.late_s) / max(len(self.late_s), 1)
        lag = f"{self.lag['p50_ms']:.1f} / {self.lag['p99_ms']:.1f} / {self.lag['max_ms']:.0f} ms"
        own = f"{self.own_lag['p50_ms']:.1f} / {self.own_lag['p99_ms']:.1f} / {self.own_lag['max_ms']:.0f} ms"
        polls = f"{self.asked / seconds:.0f} of {scale.live / scale.poll_every_s:.0f}/s"
        events = f"{self.delivered / seconds:.0f} of {scale.followers * _EVENTS_PER_S:.0f}/s"
        return [
            plain_row(f"{name}: polls sent", "", polls),
            plain_row(f"{name}: events delivered", "", events),
            plain_row(f"{name}: polls over 0.1 s late", "", f"{late:.1%}"),
            plain_row(f"{name}: lateness of a poll, p99", "", f"{percentile(self.late_s, 99):.2f} s"),
            Row(
                (f"{name}: loop lag p50/p99/max", "", lag, "", "", "", ""),
                (f"loop lag of the load generator, which shows how busy the machine was: {own}",),
            ),
            plain_row(f"{name}: share of one core", "", f"{self.usage.cpu / self.usage.wall:.0%}"),
        ]


async def _create_live(stage: Stage, gateway: Child) -> None:
    """Over one pause of the schedule, so that the polls are spread as in a long run."""
    scale = stage.scale
    pause_s = scale.poll_every_s / scale.live
    began = time.monotonic()
    for at in range(scale.live):
        await asyncio.sleep(max(0.0, began + at * pause_s - time.monotonic()))
        await ask(gateway.port, CREATE_BACKGROUND)


async def _logs(stage: Stage, gateway: Child) -> tuple[list[Following], list[str]]:
    """Streams that go on for longer than the scene, each with its first follower."""
    message = create_stream(1_000_000, _EVENTS_PER_S)
    firsts = [Following() for _ in range(max(1, stage.scale.followers // _READERS_PER_LOG))]
    for stream in firsts:
        await stream.start(gateway.port, message)
        await stream.begun
    found = [_ID.search(stream.head) for stream in firsts]
    ids = [match[1].decode() for match in found if match is not None]
    if len(ids) != len(firsts):
        raise WrongAnswer("a stream names no response")
    return firsts, ids


async def _follow(stage: Stage, gateway: Child, ids: list[str]) -> list[Following]:
    readers = [Following() for _ in range(stage.scale.followers - len(ids))]
    for at, reader in enumerate(readers):
        await reader.start(gateway.port, request("GET", f"/v1/responses/{ids[at % len(ids)]}?stream=true"))
        await reader.begun
    return readers


async def _watch(stage: Stage, gateway: Child, streams: list[Following]) -> _Scene:
    scale = stage.scale
    own = LoopProbe(asyncio.get_running_loop())
    await gateway.ask()
    delivered = sum(stream.events for stream in streams)
    began = time.monotonic()
    with stage.watch(gateway) as watch:
        await asyncio.sleep(scale.scene_s)
    lag, own_lag = await gateway.ask(), own.take()
    until = time.monotonic()
    times: list[list[float]] = json.loads(await ask(stage.upstream.port, request("GET", "/polled")))
    pauses = [now - before for asked in times for before, now in itertools.pairwise(asked) if began <= now <= until]
    # What was due and did not come at all must not be left out.
    pauses += [until - asked[-1] for asked in times if began - 2 * scale.poll_every_s < asked[-1] < began]
    late_s = [max(0.0, pause - _JITTER * scale.poll_every_s) for pause in pauses]
    asked = sum(began <= at <= until for polls in times for at in polls)
    scene = _Scene(watch.usage["proxy"], lag, own_lag, late_s, asked, rss_bytes(gateway.pid))
    scene.delivered = sum(stream.events for stream in streams) - delivered
    return scene


async def _bare_streams(stage: Stage) -> float:
    """Memory of the bare proxy per open stream, which has a connection of its own to upstream."""
    message = create_stream(1_000_000, _EVENTS_PER_S)
    bare = await Child.start("benchmarks.bare", stage.url)
    streams = [Following() for _ in range(stage.scale.followers)]
    try:
        for _ in range(_WARM_UP):
            await ask(bare.port, request("GET", "/v1/models"))
        before = rss_bytes(bare.pid)
        for stream in streams:
            await stream.start(bare.port, message)
            await stream.begun
        return (rss_bytes(bare.pid) - before) / len(streams)
    finally:
        for stream in streams:
            stream.close()
        await bare.kill()
