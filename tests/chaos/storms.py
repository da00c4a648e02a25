"""What happens to gateways and their store while clients read."""

import asyncio
from collections.abc import Awaitable, Callable

from cutting import Cutting
from redis_server import RedisServer, move_slot

from chaos.scene import Scene

Storm = Callable[[Scene], Awaitable[None]]


def kills(count: int) -> Storm:
    """One replica after the other is killed at a random moment, and started again."""

    async def storm(scene: Scene) -> None:
        for _ in range(count):
            await asyncio.sleep(scene.chance.uniform(0.2, 2.0))
            await scene.kill(scene.chance.choice(scene.fleet.replicas))

    return storm


def pauses(count: int) -> Storm:
    """One after the other is stopped for longer than its lease, and goes on as if nothing had happened."""

    async def storm(scene: Scene) -> None:
        for _ in range(count):
            await asyncio.sleep(scene.chance.uniform(0.5, 1.5))
            replica = scene.chance.choice(scene.fleet.replicas)
            replica.pause()
            scene.blows["SIGSTOP"] += 1
            await asyncio.sleep(scene.lease_s * scene.chance.uniform(1.5, 3))
            replica.wake()

    return storm


async def rolling_restart(scene: Scene) -> None:
    """Each is told to stop, and started again when it has."""
    for replica in scene.fleet.replicas:
        await asyncio.sleep(1)
        assert await replica.stop() == 0
        scene.blows["SIGTERM"] += 1
        await replica.start()


def redis_kills(server: RedisServer, count: int) -> Storm:
    """Redis is killed and started again on what it had written down."""

    async def storm(scene: Scene) -> None:
        for _ in range(count):
            await asyncio.sleep(scene.chance.uniform(1, 2))
            server.kill()
            scene.blows["kill -9 of Redis"] += 1
            await asyncio.sleep(scene.chance.uniform(0, 2 * scene.lease_s))
            await asyncio.to_thread(server.start)
        await asyncio.sleep(1)

    return storm


def moving_slots(nodes: list[RedisServer], count: int) -> Storm:
    """Slots with keys of responses move from one node of a cluster to another, with all that is in them."""

    async def storm(scene: Scene) -> None:
        for _ in range(count):
            await asyncio.sleep(scene.chance.uniform(0.2, 1.0))
            source, target = scene.chance.sample(nodes, 2)
            keys = [line for line in source.ask("KEYS", "*").splitlines() if line.startswith("responses:{")]
            if keys:
                slot = int(source.ask("CLUSTER", "KEYSLOT", scene.chance.choice(keys)).removeprefix(":"))
                await asyncio.to_thread(move_slot, slot, source, target, nodes)
                scene.blows["slot moved"] += 1

    return storm


def out_of_reach(line: Cutting, seconds: float) -> Storm:
    """Nothing comes through to Redis for a while, and connections hang; then they are cut, and it is there again."""

    async def storm(scene: Scene) -> None:
        await asyncio.sleep(1)
        line.passing.clear()
        scene.blows[f"Redis out of reach for {seconds:g} s"] += 1
        await asyncio.sleep(seconds)
        line.cut()
        line.passing.set()
        await asyncio.sleep(2)

    return storm
