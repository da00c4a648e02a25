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
from typing import Final

from gateway import child
from gateway.domain.encoding import decode, encode
from gateway.telemetry.environment import otlp_exporter
from gateway.telemetry.export import ExportsHere, Options
from gateway.telemetry.messages import (
    OPTIONS,
    TOLD,
    Answered,
    Dropped,
    Exported,
    Flush,
    Flushed,
    Logged,
    Put,
    Said,
    Send,
    Sent,
    What,
)

_LAST_S: Final = 5.0
_GIVES_WAY: Final = 19


class _Line:
    """What is said to the gateway, from any thread."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer, self._loop = writer, asyncio.get_running_loop()
        self.exports: ExportsHere | None = None

    def say(self, what: What) -> None:
        """Say it, with whether the collector took the last batch."""
        self._loop.call_soon_threadsafe(self._say, what)

    def _say(self, what: What) -> None:
        failing = self.exports is not None and self.exports.failing
        self._writer.write(child.framed(encode(Said(failing, what))))


class _Telling(logging.Handler):
    """Has the gateway log what is logged here."""

    def __init__(self, line: _Line) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        self._line.say(Logged(record.name, record.levelno, record.getMessage()))


async def _main() -> None:
    reader, writer = await asyncio.open_connection(sock=child.own_end())
    line = _Line(writer)
    logging.basicConfig(handlers=[_Telling(line)], level=logging.WARNING)
    with contextlib.suppress(EOFError):
        exports = line.exports = _exports(decode(OPTIONS, await child.heard(reader)), line)
        try:
            await _work(exports, reader, line)
        finally:
            await exports.close(_LAST_S)


async def _work(exports: ExportsHere, reader: asyncio.StreamReader, line: _Line) -> None:
    tasks = set[asyncio.Task[None]]()
    while True:
        message = decode(TOLD, await child.heard(reader))
        if isinstance(message, Put):
            for finished in message.finished:
                exports.put(finished)
        else:
            task = asyncio.create_task(_answer(message, exports, line))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


def _exports(options: Options, line: _Line) -> ExportsHere:
    return ExportsHere(
        options,
        lambda: otlp_exporter(options.environ, options.endpoint),
        on_exported=lambda spans: line.say(Exported(spans)),
        on_dropped=lambda reason, spans: line.say(Dropped(reason, spans)),
        on_sent=lambda spans: line.say(Sent(spans)),
    )


async def _answer(message: Send | Flush, exports: ExportsHere, line: _Line) -> None:
    if isinstance(message, Send):
        line.say(Answered(message.number, await exports.send(message.ends, message.again)))
    else:
        await exports.flush(message.timeout_s)
        line.say(Flushed())


def main() -> None:
    """Export until the line ends."""
    for which in (signal.SIGINT, signal.SIGTERM):
        signal.signal(which, signal.SIG_IGN)
    os.nice(_GIVES_WAY)
    asyncio.run(_main())


if __name__ == "__main__":
    main()
