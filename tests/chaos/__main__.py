"""`python -m chaos [--seed N] [STORM ...]`: each storm over a scene of its own, and its figures."""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from cutting import cutting
from redis_server import RedisServer, cluster

from chaos import crowds, storms
from chaos.scene import scene
from chaos.verdict import Figures, verdict

STREAMS = 6
LONG: dict[str, Any] = {"duration_s": 6, "delta_count": 150}
SHORT: dict[str, Any] = {"duration_s": 2, "delta_count": 60}


async def _on_redis(folder: Path, seed: int, storm: storms.Storm, **settings: Any) -> Figures:
    server = RedisServer(folder).start()
    try:
        return await run(server.url, seed, storm, **settings)
    finally:
        server.kill()


async def run(
    store: str, seed: int, storm: storms.Storm, *, streams: int = STREAMS, asked: dict[str, Any] = LONG, **settings: Any
) -> Figures:
    """One storm, and its verdict."""
    async with scene(store, seed, **settings) as set_up:
        await set_up.load(streams, storm(set_up), **asked)
        return await verdict(set_up)


async def _kills(folder: Path, seed: int) -> Figures:
    return await _on_redis(folder, seed, storms.kills(50))


async def _kills_default(folder: Path, seed: int) -> Figures:
    return await _on_redis(folder, seed, storms.kills(5), lease_s=10.0, asked={**LONG, "duration_s": 30})


async def _pauses(folder: Path, seed: int) -> Figures:
    return await _on_redis(folder, seed, storms.pauses(10))


async def _rolling(folder: Path, seed: int) -> Figures:
    return await _on_redis(folder, seed, storms.rolling_restart, asked=SHORT)


async def _redis_killed(folder: Path, seed: int) -> Figures:
    server = RedisServer(folder).start()
    try:
        return await run(server.url, seed, storms.redis_kills(server, 5))
    finally:
        server.kill()


async def _out_of_reach(folder: Path, seed: int) -> Figures:
    server = RedisServer(folder).start()
    try:
        async with AsyncExitStack() as parts:
            line = await cutting(parts, server.url)
            store = line.url.replace("http://", "redis://")
            return await run(store, seed, storms.out_of_reach(line, 20))
    finally:
        server.kill()


async def _slots_moved(folder: Path, seed: int) -> Figures:
    nodes = cluster(folder)
    try:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        return await run(f"redis+cluster://{hosts}", seed, storms.moving_slots(nodes, 20))
    finally:
        for node in nodes:
            node.kill()


STORMS: dict[str, Callable[[Path, int], Awaitable[Figures | crowds.Asked]]] = {
    "kills": _kills,
    "kills-default-lease": _kills_default,
    "pauses": _pauses,
    "rolling": _rolling,
    "redis-killed": _redis_killed,
    "redis-out-of-reach": _out_of_reach,
    "slots-moved": _slots_moved,
    "crowd-sqlite": crowds.on_sqlite,
    "crowd-redis": crowds.on_redis,
    "crowd-of-three": crowds.between_three,
}


async def _run(names: list[str], seed: int) -> bool:
    good = True
    for name in names:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            figures = await STORMS[name](Path(folder), seed)
        print(f"{name} ({time.monotonic() - began:.0f} s, seed {seed})\n{figures.shown()}\n", flush=True)
        good = good and not any(figures.wrong.values())
    return good


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="of what is left to chance")
    parser.add_argument("storms", nargs="*", metavar="STORM", help=f"only these of: {', '.join(STORMS)}")
    arguments = parser.parse_args()
    if unknown := set(arguments.storms) - STORMS.keys():
        parser.error(f"there is no storm {', '.join(sorted(unknown))}")
    sys.exit(not asyncio.run(_run(arguments.storms or list(STORMS), arguments.seed)))


if __name__ == "__main__":
    main()
