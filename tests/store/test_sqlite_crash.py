"""The process dies, or its disk fails: what was acknowledged is there, and nothing that is half."""

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from given import PATIENCE_S, Clock, completed, events, numbered, there

from gateway.domain.lifecycle import Outcome
from gateway.store.port import End, Query
from gateway.store.sqlite import SqliteStore

WRITER = Path(__file__).with_name("writer.py")


async def writer(mode: str, path: Path, durability: str = "process") -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, str(WRITER), mode, str(path), durability),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


async def until_killed(path: Path, durability: str, lines: int) -> dict[str, tuple[str, int]]:
    """Run a writer until it has said so many lines; the last that it said of each key."""
    process = await writer("logs", path, durability)
    assert process.stdout is not None
    said = b""
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(lines):
            said += await process.stdout.readline()
        process.kill()
        said += await process.stdout.read()
        await process.wait()
    words = [line.split() for line in said.decode().splitlines()]
    return {key: (what, int(number)) for what, key, number in words[1:]}


@pytest.mark.parametrize("durability", ["process", "fsync"])
@pytest.mark.parametrize("seed", range(3))
async def test_what_was_acknowledged_survives_the_death_of_the_process(
    tmp_path: Path, clock: Clock, seed: int, durability: str
) -> None:
    path = tmp_path / "responses.db"
    acknowledged = await until_killed(path, durability, random.Random(seed).randrange(50, 2500))
    store = SqliteStore(path, clock=clock)
    await store.open()
    live = {response.key: response async for response in store.live()}
    newest = max(int(key.split("-")[0]) for key in acknowledged)
    for key, (what, number) in acknowledged.items():
        response = await store.get(key)
        if response is None:
            assert int(key.split("-")[0]) < newest
            assert await store.buried(f"resp_{key}", route="route")
            continue
        assert response.tail >= number
        assert (key in live) is not response.ended
        assert response.ended or what == "appended"
        assert await there(store, key) == (numbered(0, response.tail), End() if response.ended else None)
    for key, response in live.items():
        assert await there(store, key) == (numbered(0, response.tail), None)
        # It can be gone on with.
        await store.append(key, events(response.tail + 1), tail=response.tail, epoch=1)
        done: Outcome = completed(response)
        assert await store.finish(key, done, tail=response.tail + 1, epoch=1)
        assert await there(store, key) == (numbered(0, response.tail + 1), End())
    assert await store.list(Query(live=True)) == []
    await store.close()


async def test_a_disk_that_fails_is_survived_without_a_restart(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "responses.db"
    process = await writer("full", path)
    async with asyncio.timeout(PATIENCE_S):
        said, _ = await process.communicate()
    assert process.returncode == 0
    *appended, failed, after = [line.split() for line in said.decode().splitlines()[1:]]
    last = int(appended[-1][2]) if appended else -1
    assert failed == ["failed", "key", str(last)]
    assert after == ["appended", "key", str(last + 1)]
    store = SqliteStore(path, clock=clock)
    await store.open()
    assert await there(store) == (numbered(0, last + 1), None)
    await store.close()
