"""The process that builds, encodes and sends spans: `python -m gateway.telemetry.exporter`, as `exporter_process` does.

That takes more of a processor than answering the requests that the spans tell of, and within one interpreter requests
would wait for it. Here they do not: this process has an interpreter of its own, and gives way to others.

It is told of by `exporter_process`, over the line; when the line ends, so does this, once it has sent what it has.
Signals are for the gateway, which says when it is over.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Sequence
from typing import Any, Final

from gateway import child
from gateway.telemetry.export import ExportsHere
from gateway.telemetry.generation import End

_LAST_S: Final = 5.0
_GIVES_WAY: Final = 5


class _Telling(logging.Handler):
    """Has the gateway log what is logged here."""

    def __init__(self, said: "_Said") -> None:
        super().__init__()
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said("logged", record.name, record.levelno, record.getMessage())


class _Said:
    """What is said to the gateway, from any thread; each message with whether the collector took the last batch."""

    def __init__(self, line: asyncio.StreamWriter) -> None:
        self._line, self._loop = line, asyncio.get_running_loop()
        self.exports: ExportsHere | None = None

    def __call__(self, kind: str, *content: Any) -> None:
        self._loop.call_soon_threadsafe(self._say, kind, content)

    def _say(self, kind: str, content: tuple[Any, ...]) -> None:
        failing = self.exports is not None and self.exports.failing
        self._line.write(child.packed((failing, kind, content)))


async def _main() -> None:
    heard, line = await asyncio.open_connection(sock=child.own_end())
    said, tasks = _Said(line), set[asyncio.Task[None]]()
    logging.basicConfig(handlers=[_Telling(said)], level=logging.WARNING)
    exports = said.exports = ExportsHere(
        await child.heard(heard),
        on_exported=lambda spans: said("exported", spans),
        on_dropped=lambda reason, spans: said("dropped", reason, spans),
        on_sent=lambda spans: said("sent", spans),
    )

    async def send(number: int, ends: Sequence[End], again: bool) -> None:
        said("answered", number, await exports.send(ends, again))

    async def flush(timeout_s: float) -> None:
        await exports.flush(timeout_s)
        said("flushed")

    with contextlib.suppress(EOFError):
        while True:
            kind, content = await child.heard(heard)
            if kind == "put":
                for finished in content:
                    exports.put(finished)
                continue
            task = asyncio.create_task((send if kind == "send" else flush)(*content))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
    await exports.close(_LAST_S)


def main() -> None:
    """Export until the line ends."""
    for which in (signal.SIGINT, signal.SIGTERM):
        signal.signal(which, signal.SIG_IGN)
    os.nice(_GIVES_WAY)
    with contextlib.suppress(EOFError):
        asyncio.run(_main())


if __name__ == "__main__":
    main()
