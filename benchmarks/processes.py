"""The processes of a run: starting, asking and stopping them; and what /proc says of one.

A child prints its port as a line of JSON and ends with its standard input, so none outlives the run. A line sent to it
is answered with a line of JSON.
"""

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_PROBE_S = 0.02
_START_S = 30.0


async def serve_until_told(port: int, report: Callable[[], Mapping[str, float]] = dict) -> None:
    """In a child: say the port, answer each line with a report, return at the end of standard input."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(json.dumps({"port": port}), flush=True)
    while await reader.readline():
        print(json.dumps(report()), flush=True)


class LoopProbe:
    """How late an event loop runs what is due, looked at 50 times a second."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._late_s: list[float] = []
        self._next(loop.time())

    def take(self) -> dict[str, float]:
        """Median, 99th percentile and maximum in milliseconds since the last time this was asked."""
        late, self._late_s = self._late_s, []
        return {
            "p50_ms": percentile(late, 50) * 1e3,
            "p99_ms": percentile(late, 99) * 1e3,
            "max_ms": max(late, default=0.0) * 1e3,
        }

    def _next(self, due: float) -> None:
        self._loop.call_at(due + _PROBE_S, self._look, due + _PROBE_S)

    def _look(self, due: float) -> None:
        now = self._loop.time()
        self._late_s.append(max(0.0, now - due))
        self._next(max(due, now - _PROBE_S))


def percentile(values: list[float] | list[int], percent: float) -> float:
    """Nearest rank; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))])


class Child:
    """A process that serves on a port."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port
        self.pid = process.pid

    @classmethod
    async def start(cls, module: str, *arguments: object, environ: Mapping[str, str] | None = None) -> Self:
        """Start `python -m module arguments...` and wait for its port. Raises RuntimeError if it does not come.

        `environ`: its OTEL_* variables, in place of those that the run itself may have.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *map(str, arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**{name: value for name, value in os.environ.items() if name[:5] != "OTEL_"}, **(environ or {})},
        )
        assert process.stdout is not None
        async with asyncio.timeout(_START_S):
            line = await process.stdout.readline()
        if not line:
            raise RuntimeError(f"{module} did not start")
        return cls(process, json.loads(line)["port"])

    async def ask(self) -> dict[str, Any]:
        """Its report."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"?\n")
        async with asyncio.timeout(_START_S):
            answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return answer

    async def stop(self, *, patience_s: float = 15.0) -> None:
        """Let it end; one that does not is killed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(patience_s):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """End it at once."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


def rss_bytes(pid: int) -> int:
    """Memory of a process that is in RAM. Source: proc_pid_status(5)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process had of the processors during `wall` nanoseconds: how long its threads ran, how long they wanted to
    run and were not let, and how long its child processes ran.
    """

    wall: int
    cpu: int
    waited: int
    children: int

    @property
    def busy(self) -> float:
        """Share of the time in which it ran or wanted to. More threads than one share the interpreter's lock."""
        return min(1.0, (self.cpu + self.waited) / self.wall)


class Watch:
    """Around a measurement: `usage` of each process by its name afterwards. Source: Linux, sched-stats.rst."""

    def __init__(self, **pids: int) -> None:
        self._pids = pids
        self.usage: dict[str, Usage] = {}

    def __enter__(self) -> Self:
        self._before = {name: _times(pid) for name, pid in self._pids.items()}
        self._began = time.monotonic_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wall = time.monotonic_ns() - self._began
        for name, pid in self._pids.items():
            before, after = self._before[name], _times(pid)
            self.usage[name] = Usage(wall, *(now - then for then, now in zip(before, after, strict=True)))

    @property
    def seconds(self) -> float:
        """How long it was."""
        return next(iter(self.usage.values())).wall / 1e9


def _times(pid: int) -> tuple[int, int, int]:
    """Nanoseconds of all threads: processor time, time kept waiting for a processor; processor time of all children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return (*_ran_and_waited(pid), sum(_ran_and_waited(int(child))[0] for child in children))


def _ran_and_waited(pid: int) -> tuple[int, int]:
    ran = waited = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            times = Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()
        except OSError:
            continue  # it has ended
        ran += int(times[0])
        waited += int(times[1])
    return ran, waited


class Machine:
    """What the processors do from here on, and who else keeps them busy. Source: proc_stat(5)."""

    def __init__(self) -> None:
        self._began = self._ticks()

    def told(self) -> str:
        """Shares of all processors since then: by everybody, and by others than this run, whose children have ended."""
        busy, total = (now - then for then, now in zip(self._began, self._ticks(), strict=True))
        usages = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        own = sum(usage.ru_utime + usage.ru_stime for usage in usages) * os.sysconf("SC_CLK_TCK")
        return f"processors busy {busy / total:.0%}, of it others {max(0.0, busy - own) / total:.0%}"

    def _ticks(self) -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(fields) - fields[3] - fields[4], sum(fields)
