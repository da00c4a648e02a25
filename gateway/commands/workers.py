"""`serve --workers N`: one process that starts the others, passes on what it is told, and replaces those that die.

The workers listen on one port (SO_REUSEPORT: the system spreads new connections over them), each with an operators'
address of its own. They share a store and nothing else; this process serves nobody and holds nothing. A worker that
cannot even begin ends the start, as a single process would; one that ends later is replaced after a pause, and given up
after too many ends in a row. Called by `serve`.
"""

import asyncio
import pickle
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from gateway import child
from gateway.commands.told import LISTENING, SIGNALS
from gateway.config import Address, Settings
from gateway.telemetry.logs import Logs

# About three minutes in all, over which a store or an upstream may come back.
_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0)
_STEADY_S = 60.0


def pause_before_replacing(ends: int) -> float | None:
    """Seconds before a worker is replaced that has ended so many times in a row; None: it is given up."""
    return _PAUSES_S[ends - 1] if ends <= len(_PAUSES_S) else None


def settings_of(number: int, settings: Settings) -> Settings:
    """Those of one worker, counted from 1. The first one has the ops port that was set, the others those after it."""
    ops = settings.ops_listen
    own = Address(ops.host, ops.port + number - 1 if ops.port else 0)
    return settings.model_copy(update={"ops_listen": own})


class Worker:
    """A worker's process and this end of its line."""

    def __init__(
        self, process: asyncio.subprocess.Process, heard: asyncio.StreamReader, line: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._heard = heard
        self._line = line

    @classmethod
    async def start(cls, number: int, settings: Settings) -> "Worker":
        """Start it; it does not listen yet."""
        process, heard, line = await child.start("gateway.commands.worker", str(number))
        line.write(child.framed(pickle.dumps(settings)))
        return cls(process, heard, line)

    async def listens(self) -> bool:
        """Wait until it serves clients. False: it has ended before."""
        try:
            return await self._heard.readline() == LISTENING
        except ConnectionError:
            return False

    async def ended(self) -> int:
        """Wait for its end: its exit status, or the signal that ended it as a negative number."""
        status = await self._process.wait()
        self._line.close()
        return status

    def tell(self, which: signal.Signals) -> None:
        """Pass a signal on."""
        if self._process.returncode is None:
            self._line.write(f"{which.name}\n".encode())


class Supervisor:
    """Keeps `settings.workers` workers going. `run` may raise OSError: the address is in use."""

    def __init__(self, settings: Settings, logs: Logs) -> None:
        self._settings = settings
        self._logs = logs
        self._workers: dict[int, Worker] = {}
        self._told: list[signal.Signals] = []
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Serve until told to stop, or until no worker is left: the exit status."""
        for which in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(which, self._pass_on, which)
        with _reserved(self._settings.listen) as port:
            listen = Address(self._settings.listen.host, port)
            self._settings = self._settings.model_copy(update={"listen": listen})
            # First one alone: what stops the start is then said once.
            if (status := await self._begin(1)) is not None:
                return status
            numbers = range(1, self._settings.workers + 1)
            begun = await asyncio.gather(*map(self._begin, numbers[1:]))
            if failed := [status for status in begun if status is not None]:
                self._pass_on(signal.SIGTERM)
                await asyncio.gather(*(worker.ended() for worker in self._workers.values()))
                return max(failed)
            self._logs.write("info", "workers_listening", workers=self._settings.workers, listen=str(listen))
            statuses = await asyncio.gather(*map(self._keep, numbers))
        return 1 if any(statuses) else 0

    async def _begin(self, number: int) -> int | None:
        """Start a worker: None once it listens, else its exit status."""
        worker = await self._start(number)
        if await worker.listens():
            return None
        return _exit_status(await worker.ended())

    async def _keep(self, number: int) -> int:
        """Replace a worker whenever it has ended; the exit status of the last one."""
        ends, loop = 0, asyncio.get_running_loop()
        while True:
            since = loop.time()
            status = await self._workers[number].ended()
            if self._told:
                return _exit_status(status)
            ends = 1 if loop.time() - since > _STEADY_S else ends + 1
            pause = pause_before_replacing(ends)
            event = "worker_given_up" if pause is None else "worker_ended"
            # One that was told to stop by itself has done well.
            self._logs.write("error" if status else "info", event, worker=number, how=_how(status), replaced_in_s=pause)
            if pause is None:
                return 1
            if await self._told_within(pause):
                return 0
            await self._start(number)

    async def _start(self, number: int) -> Worker:
        worker = await Worker.start(number, settings_of(number, self._settings))
        self._workers[number] = worker
        for which in self._told:
            worker.tell(which)
        return worker

    async def _told_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._stop.wait()
        except TimeoutError:
            return False

    def _pass_on(self, which: signal.Signals) -> None:
        self._told.append(which)
        self._stop.set()
        for worker in self._workers.values():
            worker.tell(which)


@contextmanager
def _reserved(address: Address) -> Iterator[int]:
    """The port for the workers to share, kept as long as they may be replaced; a free one for 0. Raises OSError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # Without SO_REUSEPORT once: with it, somebody else who shares the port would get a part of the clients.
    socket.create_server((address.host, address.port), family=family).close()
    with socket.socket(family) as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind((address.host, address.port))
        yield kept.getsockname()[1]


def _exit_status(status: int) -> int:
    return status if status >= 0 else 1


def _how(status: int) -> str:
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name
