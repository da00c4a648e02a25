"""The gateways of one store, each a process on a port of its own, which it has again when it is started again."""

import asyncio
import random
import signal
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from processes import Process, serve
from prometheus_client.parser import text_string_to_metric_families
from stories import fetch

KEY = "sk-gateway"


class Replica:
    """One gateway, through all its lives. `lines`: what it wrote in those that are over."""

    def __init__(self, upstream: str, store: str, environ: dict[str, str], settings: dict[str, Any]) -> None:
        self._start = (upstream, store)
        self._environ, self._settings = environ, settings
        self._port = 0
        self._process: Process | None = None
        self._lines: list[dict[str, Any]] = []
        self.reachable = False
        """Whether a load balancer would send clients to it."""

    async def start(self) -> None:
        self._process = await serve(*self._start, port=self._port, environ=self._environ, **self._settings)
        self._port = self._process.port
        self.reachable = True

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    @property
    def url(self) -> str:
        return self.process.url

    @property
    def lines(self) -> list[dict[str, Any]]:
        """All that it has ever written."""
        return self._lines + self.process.lines

    async def kill(self) -> None:
        """As kill -9 does; nobody is told."""
        await self.process.kill()
        self._keep_lines()

    def pause(self) -> None:
        self.process.send(signal.SIGSTOP)

    def wake(self) -> None:
        self.process.send(signal.SIGCONT)

    async def stop(self) -> int:
        """As a deployment does: no new clients, then SIGTERM. Its exit status."""
        self.reachable = False
        self.process.tell_to_stop()
        status = await self.process.stopped()
        self._keep_lines()
        return status

    async def close(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self.wake()
            await self._process.close()

    def _keep_lines(self) -> None:
        self._lines += self.process.lines
        self.process.lines.clear()


class Fleet:
    """Some replicas. `settings` are those of each."""

    def __init__(
        self,
        upstream: str,
        store: str,
        environ: dict[str, str],
        chance: random.Random,
        settings: dict[str, Any],
        *,
        count: int = 3,
    ) -> None:
        self._chance = chance
        self.replicas = [Replica(upstream, store, environ, settings) for _ in range(count)]

    async def start(self) -> None:
        await asyncio.gather(*(one.start() for one in self.replicas))

    async def close(self) -> None:
        await asyncio.gather(*(one.close() for one in self.replicas))

    def any(self, *, but: Replica | None = None) -> Replica:
        """One that a load balancer might choose."""
        some = [one for one in self.replicas if one.reachable and one is not but]
        return self._chance.choice(some or self.replicas)


async def total(replicas: Iterable[Replica], name: str) -> int:
    """A metric, over some replicas and all labels."""
    found = 0.0
    for replica in replicas:
        text = (await fetch(f"{replica.process.ops_url}/metrics")).body.decode()
        families = text_string_to_metric_families(text)
        found += sum(sample.value for family in families for sample in family.samples if sample.name == name)
    return int(found)
