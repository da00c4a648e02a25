"""Client programs: real libraries in a process of their own, as their users run them.

A program is told a scene, a base URL and arguments; it says JSON lines, and goes on when it is told to.
"""

import asyncio
import json
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
_LINE_BYTES = 2**24
PATIENCE_S = 180.0
"""For what a program does; beginning means importing much, which a loaded machine takes its time for."""
NODE = HERE / "node"
NODE_INSTALLED = NODE / "node_modules" / ".installed"
FRAMEWORKS = HERE / "frameworks"
FRAMEWORKS_PYTHON = HERE.parents[1] / ".venv-clients" / "bin" / "python"
FRAMEWORKS_INSTALLED = HERE.parents[1] / ".venv-clients" / ".installed"


class Program:
    """A program that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def says(self) -> Any:
        """The next thing that it says."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = await self._process.stdout.readline()
        assert line, f"it says nothing more; exit status {await self._process.wait()}"
        return json.loads(line)

    async def told(self, word: Any = None) -> None:
        """Have it go on."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(word).encode() + b"\n")
        await self._process.stdin.drain()

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._process.wait()

    async def killed(self) -> None:
        """It is gone, whatever it did."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()


def _require(installed: Path) -> None:
    """Skip the test where its client libraries are not installed."""
    if not installed.exists():
        pytest.skip(f"needs client libraries: make clients (there is no {installed.relative_to(HERE.parents[1])})")


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    return {**kept, "OPENAI_API_KEY": "sk-test"}


async def started(
    parts: AsyncExitStack, command: list[str | Path], base_url: str, arguments: dict[str, Any]
) -> Program:
    """Start a program; it is killed after the test if it has not ended by then."""
    process = await asyncio.create_subprocess_exec(
        *(*command, base_url, json.dumps(arguments)),
        env=_environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES,
    )
    program = Program(process)
    parts.push_async_callback(program.killed)
    return program


async def printed(command: list[str | Path]) -> str:
    """What a whole program prints; fails where the program does."""
    process = await asyncio.create_subprocess_exec(*command, env=_environment(), stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(PATIENCE_S):
        out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


def node_module(folder: Path, code: str) -> list[str | Path]:
    """How a module is run that finds Node's packages beside it."""
    _require(NODE_INSTALLED)
    (folder / "node_modules").symlink_to(NODE_INSTALLED.parent)
    script = folder / "example.mjs"
    script.write_text(code, encoding="utf-8")
    return ["node", script]


def framework_code(code: str) -> list[str | Path]:
    """How code is run for one of Python's frameworks."""
    _require(FRAMEWORKS_INSTALLED)
    return [FRAMEWORKS_PYTHON, "-c", code]


def node_command(script: str, scene: str) -> list[str | Path]:
    """How a scene of a Node script is run."""
    _require(NODE_INSTALLED)
    return ["node", NODE / script, scene]


def framework_command(script: str, scene: str) -> list[str | Path]:
    """The same for the frameworks of Python."""
    _require(FRAMEWORKS_INSTALLED)
    return [FRAMEWORKS_PYTHON, "-X", "utf8", FRAMEWORKS / script, scene]
