"""How a log line looks: one JSON object, or on a terminal a line for people. Lines of stdlib's logging in our shape.

Rule: what nobody here wrote may quote a client. So an error is shown as where it was raised and of which kind, and a
message of another library as its code has it, both without the words that they were filled with. Used by `logs.py`.
"""

import errno
import json
import logging
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec
import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

from gateway.domain.response import Response

OWN_LOGGERS: Final = ("gateway", "opentelemetry", "urllib3", "grpc")
"""Their messages are filled with names of ours, and with what a collector answers."""
NOISY: Final = ("opentelemetry.", "gateway.telemetry.export", "urllib3.", "grpc")
"""Loggers that repeat themselves while a collector is away, with tracebacks: one line a minute each is enough."""
KEPT_BACK: Final = "kept_back"
"""On a record: how many like it were not written."""

_WORDS_CHARACTERS: Final = 300
_SHORT: Final[dict[type, Callable[[Any], object]]] = {
    float: lambda value: round(value, 6),
    str: lambda value: value[:_WORDS_CHARACTERS],
}
_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_FOR_MACHINES: Final = frozenset({"key", "route", "span_id", "trace_flags", "source", "followed"})
_LAST: Final = ("mode", "model", "response_id", "request_id", "upstream_request_id", "trace_id")


def render(*, console: bool, colors: bool) -> list[Processor]:
    """The processors that make a text of a line."""
    if not console:
        return [_wordless, _in_order, _json]
    return [_wordless, _for_people(colors=colors)]


def of_stdlib(rendering: Iterable[Processor]) -> logging.Formatter:
    """What formats the records of stdlib's logging with these processors."""
    return ProcessorFormatter(
        processors=[ProcessorFormatter.remove_processors_meta, *rendering],
        foreign_pre_chain=[structlog.processors.add_log_level, _from_record],
    )


def ids(response: Response | None, request_id: str | None) -> dict[str, object]:
    """What a line belongs to; without a request of its own it belongs to the one that created the response."""
    if response is None:
        return {"request_id": request_id}
    trace = response.trace
    return {
        "request_id": request_id or response.request_id,
        "response_id": response.response_id,
        "key": response.key,
        "mode": response.mode,
        "route": response.route,
        "model": response.model or response.model_asked,
        "trace_id": f"{trace.trace_id:032x}",
        "span_id": f"{trace.span_id:016x}",
        "trace_flags": f"{trace.flags:02x}",
    }


def shown(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields that have a value, as short as they may be."""
    told = {name: value for name, value in fields.items() if value is not None}
    return {name: _SHORT[type(value)](value) if type(value) in _SHORT else value for name, value in told.items()}


def timestamp(at: float) -> str:
    """A time in unix seconds, in UTC."""
    second = int(at)
    return f"{_second(second)}.{int((at - second) * 1000):03}Z"


@lru_cache(maxsize=4)
def _second(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _from_record(logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
    record: logging.LogRecord = line["_record"]
    event = str(line["event"] if record.name.startswith(OWN_LOGGERS) else record.msg).partition("\n")[0]
    error = line.pop("exc_info", None)
    if record.name.startswith(NOISY) and error:
        # It quotes the collector at most, and without its words there would be no telling what is wrong with that.
        event, error = f"{event}: {error[0].__name__}: {error[1]}", None
    found = ids(getattr(record, "response", None), getattr(record, "request_id", None))
    found |= {"kept_back": getattr(record, KEPT_BACK, None) or None, "exc_info": error}
    said = {"event": event[:_WORDS_CHARACTERS], "timestamp": timestamp(record.created), "logger": record.name}
    return {**line, **said, **shown(found)}


def _wordless(logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
    error = line.pop("exc_info", None)
    error = error[1] if isinstance(error, tuple) else error
    if isinstance(error, BaseException):
        line["exception"] = "\n".join(reversed(list(_causes(error))))
    return line


def _causes(error: BaseException | None) -> Iterator[str]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        kind = type(error)
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        number = errno.errorcode.get(error.errno or 0) if isinstance(error, OSError) else None
        yield f"{''.join(traceback.format_tb(error.__traceback__))}{name}{f' {number}' if number else ''}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _in_order(logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
    first = {"timestamp": line.pop("timestamp", None), "level": line.pop("level", method), "event": line.pop("event")}
    return {**first, **line}


def _json(logger: WrappedLogger, method: str, line: EventDict) -> str:
    """ASCII, as whatever reads stdout need not take UTF-8; msgspec is fast, and cannot do what is neither."""
    try:
        encoded = msgspec.json.encode(line)
    except (UnicodeEncodeError, TypeError):
        encoded = b"\xff"
    return encoded.decode() if encoded.isascii() else json.dumps(line, default=repr)


def _for_people(*, colors: bool) -> Processor:
    """One line: time of day, level, event, what is news, and the ids at its end.

    Left out is what is none or zero, and what only machines look for. An error is in the lines below.
    """

    def style(text: str, *codes: int) -> str:
        return "".join((*(f"\x1b[{code}m" for code in codes), text, "\x1b[0m")) if colors else text

    def renders(logger: WrappedLogger, method: str, line: EventDict) -> str:
        at = datetime.fromisoformat(line.pop("timestamp")).astimezone()
        level, event, error = line.pop("level"), _plain(line.pop("event")), line.pop("exception", None)
        news = [name for name in line if name not in _LAST and name not in _FOR_MACHINES and line[name]]
        last = [name for name in _LAST if name in line and name not in _less(line, level)]
        told = [f"{style(f'{name}=', _DIM)}{_plain(_one_word(line[name]))}" for name in (*news, *last)]
        time_of_day = style(f"{at:%H:%M:%S}.{at.microsecond // 1000:03}", _DIM)
        head = f"{time_of_day} {style(f'{level:7}', _COLORS[level])} {style(f'{event:20}' if told else event, _BOLD)}"
        return f"{' '.join((head, *told))}{f'{chr(10)}{error}' if error else ''}"

    return renders


_DIM, _BOLD = 2, 1
_COLORS: Final = {"debug": _DIM, "info": 36, "warning": 33, "error": 31}


def _less(line: EventDict, level: str) -> frozenset[str]:
    """Ids that nobody needs: of a trace that is not sampled, and where all is well more than one."""
    sampled = int(line.get("trace_flags", "0"), 16) & 1
    well = level in ("debug", "info") and "response_id" in line
    return frozenset((() if sampled else ("trace_id",)) + (("request_id", "upstream_request_id") if well else ()))


def _one_word(value: object) -> str:
    text = f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return text if text and not any(map(str.isspace, text)) else json.dumps(text)


def _plain(text: str) -> str:
    """A terminal acts on control characters: none from outside reaches it."""
    return text.encode(errors="backslashreplace").decode().translate(_CONTROL)
