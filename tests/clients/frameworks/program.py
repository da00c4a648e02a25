"""What the programs share: `python SCRIPT SCENE BASE_URL ARGUMENTS` plays one scene.

It says JSON lines, and goes on when it is told to.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Scene = Callable[..., Awaitable[None]]


def say(value: Any = None) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def told() -> Any:
    line = await asyncio.to_thread(sys.stdin.readline)
    if not line:
        raise EOFError("nobody is there any more")
    return json.loads(line)


async def outcome(call: Awaitable[Any]) -> dict[str, Any]:
    """How a call ends: its value, or what the application would see raised."""
    try:
        return {"value": await call}
    except Exception as error:
        return {"raised": type(error).__name__, "message": str(error)}


def play(scenes: Mapping[str, Scene]) -> None:
    scene, base_url, given = sys.argv[1:]
    asyncio.run(scenes[scene](base_url, **json.loads(given)))
