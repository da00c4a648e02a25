"""A little of the chaos that `make chaos` runs whole: whatever dies, each reader gets every event once, in order."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos import storms
from chaos.__main__ import run
from chaos.scene import Scene
from chaos.verdict import Figures
from redis_server import RedisServer

SEED = 7
ASKED = {"duration_s": 2, "delta_count": 60}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path).start()
    yield server
    server.kill()


async def figures_of(server: RedisServer, storm: storms.Storm) -> Figures:
    figures = await run(server.url, SEED, storm, streams=3, asked=ASKED)
    assert not any(figures.wrong.values()), figures.shown()
    assert figures.responses >= 3
    return figures


async def test_gateways_and_their_redis_are_killed_and_paused_and_every_event_is_read_once(server: RedisServer) -> None:
    async def storm(scene: Scene) -> None:
        await storms.kills(3)(scene)
        await storms.pauses(1)(scene)
        await storms.redis_kills(server, 1)(scene)

    figures = await figures_of(server, storm)
    assert sum(figures.blows.values()) == 5


async def test_a_rolling_restart_is_noticed_by_no_client(server: RedisServer) -> None:
    figures = await figures_of(server, storms.rolling_restart)
    assert figures.blows["SIGTERM"] == 3
    assert not figures.errors, figures.shown()
