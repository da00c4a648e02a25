"""Log lines as a projection of facts: milestones as they happen, one canonical line per response at its end.

Rule: the only importer of structlog. A line is made of ids, numbers and words of the gateway's own; never of a body, a
prompt or a credential. The trace's ids stand at the top level in lower-case hex, as "Trace Context in non-OTLP Log
Formats" of the OpenTelemetry specification says. Writing never blocks (`lines.py`): what a stalled reader of stdout
does not take is lost, and a line says how many were.
"""

import atexit
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import fields as dataclass_fields
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO, cast

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

from gateway.domain import facts
from gateway.domain.response import Counts, Response, Usage
from gateway.telemetry.lines import Lines, Seldom
from gateway.telemetry.spans import went_wrong

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "console"]

_WORDS_CHARACTERS: Final = 300
_NOISY: Final = ("opentelemetry.", "gateway.telemetry.export", "urllib3.", "grpc")
"""Loggers that repeat themselves while a collector is away, with tracebacks: one line a minute each is enough."""
_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}


def configure(
    level: Level = "info",
    format: Format = "auto",
    stream: TextIO | None = None,
    *,
    clock: Callable[[], float] = time.time,
) -> "Logs":
    """Set up logging of this process, stdlib's included, to one stream (stdout). `close` undoes it.

    `auto` writes JSON, and on a terminal lines for people. Of other libraries only warnings and worse are shown.
    """
    stream = sys.stdout if stream is None else stream
    console = format == "console" or (format == "auto" and stream.isatty())
    return Logs(level, Lines(stream), _render(console, colors=stream.isatty()), clock)


class Logs:
    """Writes what the facts say. Made by `configure`."""

    def __init__(self, level: Level, lines: Lines, render: list[Processor], clock: Callable[[], float]) -> None:
        self._lines, self._clock, self._least = lines, clock, _LEVELS[level]
        self._logger = structlog.wrap_logger(
            structlog.WriteLogger(cast(TextIO, lines)),
            processors=[structlog.processors.add_log_level, *render],
            wrapper_class=structlog.make_filtering_bound_logger(self._least),
            cache_logger_on_first_use=True,
        ).bind()
        self._handler = logging.StreamHandler(cast(TextIO, lines))
        self._handler.setFormatter(
            ProcessorFormatter(
                processors=[ProcessorFormatter.remove_processors_meta, *render],
                foreign_pre_chain=[structlog.processors.add_log_level, _from_record],
            )
        )
        self._handler.setLevel(max(self._least, logging.WARNING))
        self._handler.addFilter(_seldom_noise(Seldom()))
        logging.getLogger().addHandler(self._handler)
        atexit.register(self.close)
        self._seldom = Seldom()
        self._project: dict[type[facts.Fact], Callable[[Any], None]] = {
            facts.Created: self._created,
            facts.Refused: self._refused,
            facts.StatusChanged: lambda f: self._say("debug", "response_status", f, before=f.before, after=f.after),
            facts.FirstOutput: lambda f: self._say("info", "first_output", f, seconds=f.at - f.response.created_at),
            facts.Ended: self._ended,
            facts.BecameStuck: self._became_stuck,
            facts.Recovered: lambda f: self._say("info", "response_recovered", f, reason=f.reason),
            facts.Contradicted: lambda f: self._say("warning", "contradicted", f, what=f.what, detail=f.detail),
            facts.UpstreamCut: lambda f: self._say("warning", "upstream_cut", f, reason=f.reason),
            facts.Reattached: self._reattached,
            facts.TakenUp: lambda f: self._say("info", "taken_up", f, how=f.how),
            facts.UpstreamPolled: self._polled,
            facts.Attached: self._attached,
            facts.Detached: self._detached,
            facts.Cancelled: lambda f: self._say("info", "cancel_asked", f, http_status=f.status, seconds=f.seconds),
            facts.Purged: lambda f: self._say("debug", "purged", f, records=f.records),
            facts.StoreFailed: self._store_failed,
            facts.Untracked: self._untracked,
            facts.RequestServed: self._request_served,
        }

    def observe(self, fact: facts.Fact) -> None:
        """Write the line of a fact, if it has one: an observer for `Telemetry`."""
        project = self._project.get(type(fact))
        if project is not None:
            project(fact)

    def write(self, level: Level, event: str, **fields: object) -> None:
        """Write a line about the process itself: starting, listening, draining, stopped."""
        self._line(level, event, self._clock(), fields)

    def observer_removed(self, observer: object, error: Exception) -> None:
        """An observer raised and was removed: for `Telemetry(on_removed=...)`."""
        name = getattr(observer, "__qualname__", type(observer).__name__)
        self.write("error", "telemetry_observer_removed", observer=name, exc_info=error)

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what is queued, for at most `timeout_s`, and take the handler off stdlib's root logger."""
        atexit.unregister(self.close)
        logging.getLogger().removeHandler(self._handler)
        self._lines.close(timeout_s)

    # The line of each fact

    def _created(self, fact: facts.Created) -> None:
        response = fact.response
        fields = {"status": response.status, "previous_response_id": response.previous_response_id}
        self._say("info", "response_created", fact, **fields, upstream_request_id=response.upstream_request_id)

    def _refused(self, fact: facts.Refused) -> None:
        level: Level = "warning" if fact.status >= 500 else "info"
        self._say(level, "create_refused", fact, http_status=fact.status, error_code=fact.response.error_code)

    def _ended(self, fact: facts.Ended) -> None:
        level: Level = "warning" if went_wrong(fact.response) else "info"
        self._say(level, "response_ended", fact, late=fact.late, source=fact.source, **_story(fact.response, fact.at))

    def _became_stuck(self, fact: facts.BecameStuck) -> None:
        response = fact.response
        since = max(response.progress_at, response.status_at, response.created_at)
        self._say(
            "warning", "response_stuck", fact, reason=response.stuck, status=response.status, still_s=fact.at - since
        )

    def _reattached(self, fact: facts.Reattached) -> None:
        level: Level = "info" if fact.outcome == "resumed" else "warning"
        self._say(level, "upstream_reattached", fact, outcome=fact.outcome, after=fact.after, seconds=fact.seconds)

    def _polled(self, fact: facts.UpstreamPolled) -> None:
        self._say("debug", "polled", fact, outcome=fact.outcome, http_status=fact.status, seconds=fact.seconds)

    def _attached(self, fact: facts.Attached) -> None:
        level, event = _ATTACHED[fact.kind]
        self._say(level, event, fact, form=fact.form, after=fact.after, behind=fact.behind)

    def _detached(self, fact: facts.Detached) -> None:
        fields = {"kind": fact.kind, "how": fact.how, "number": fact.number, "seconds": fact.at - fact.started_at}
        self._say("debug", "stream_left", fact, **fields, delivered=fact.delivered, replayed=fact.replayed)

    def _store_failed(self, fact: facts.StoreFailed) -> None:
        kept_back = self._seldom.kept_back(f"store {fact.operation}", fact.at)
        if kept_back is not None:
            fields = {"operation": fact.operation, "reason": fact.reason}
            self._say("error", "store_failed", fact, **fields, kept_back=kept_back)

    def _untracked(self, fact: facts.Untracked) -> None:
        kept_back = self._seldom.kept_back(f"untracked {fact.reason}", fact.at)
        if kept_back is not None:
            self._say("warning", "create_untracked", fact, reason=fact.reason, kept_back=kept_back)

    def _request_served(self, fact: facts.RequestServed) -> None:
        fields = {"method": fact.method, "http_route": fact.route, "http_status": fact.status, "origin": fact.origin}
        fields |= {"streamed": fact.streamed, "received_bytes": fact.received_bytes, "sent_bytes": fact.sent_bytes}
        self._say("debug", "request", fact, **fields, seconds=fact.seconds, lifetime_s=fact.lifetime)

    def _say(self, level: Level, event: str, fact: facts.Fact, **fields: object) -> None:
        if _LEVELS[level] >= self._least:
            ids = _ids(getattr(fact, "response", None), getattr(fact, "request_id", None))
            self._line(level, event, fact.at, {**ids, **fields})

    def _line(self, level: Level, event: str, at: float, fields: Mapping[str, object]) -> None:
        if lost := self._lines.take_lost():
            self._logger.error("log_lines_lost", timestamp=_timestamp(at), lines=lost)
        shown = {name: _shown(value) for name, value in fields.items() if value is not None}
        getattr(self._logger, level)(event, timestamp=_timestamp(at), **shown)


_LEVELS: Final[dict[Level, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_ATTACHED: Final[dict[facts.AttachKind, tuple[Level, str]]] = {
    "first": ("debug", "stream_attached"),
    "replay": ("debug", "stream_replayed"),
    "resume": ("info", "response_resumed"),
}


def _ids(response: Response | None, request_id: str | None) -> dict[str, object]:
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


def _story(response: Response, at: float) -> dict[str, object]:
    """Everything about a response that a person asks for first, on one line."""
    usage, counts = response.usage, response.counts
    started, first = response.started_at, response.first_output_at
    return {
        "status": response.status,
        "ending": response.ending,
        "error_code": response.error_code,
        "incomplete_reason": response.incomplete_reason,
        "duration_s": at - response.created_at,
        "until_started_s": None if started is None else started - response.created_at,
        "until_first_output_s": None if first is None else first - response.created_at,
        "events": response.tail + 1,
        "followed": response.mode_now,
        "synthesised": response.synthesised,
        **({f"{kind}_tokens": getattr(usage, kind) for kind in _USAGE} if usage else {}),
        **{name.replace("tokens_", "continuation_tokens_"): getattr(counts, name) for name in _COUNTS},
        "previous_response_id": response.previous_response_id,
        "conversation": response.conversation,
        "upstream_request_id": response.upstream_request_id,
    }


_USAGE: Final = tuple(field.name for field in dataclass_fields(Usage))
_COUNTS: Final = tuple(field.name for field in dataclass_fields(Counts))


def _shown(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6)
    return value[:_WORDS_CHARACTERS] if isinstance(value, str) else value


def _timestamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _render(console: bool, colors: bool) -> list[Processor]:
    if not console:
        return [_in_order, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    plain = structlog.dev.plain_traceback
    return [_printable, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]


def _in_order(logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
    return {
        "timestamp": line.pop("timestamp", None),
        "level": line.pop("level", method),
        "event": line["event"],
        **line,
    }


def _printable(logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
    """A terminal acts on control characters: none from outside reaches it."""
    return {name: _plain(value) if isinstance(value, str) else value for name, value in line.items()}


def _plain(text: str) -> str:
    return text.encode(errors="backslashreplace").decode().translate(_CONTROL)


def _from_record(logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
    """A line of stdlib's logging in the shape of ours."""
    record: logging.LogRecord = line["_record"]
    event = str(line["event"])
    if record.name.startswith(_NOISY) and (error := line.pop("exc_info", None)):
        event = f"{event}: {error[0].__name__}: {error[1]}"
    kept_back = getattr(record, "kept_back", None)
    more = _ids(getattr(record, "response", None), getattr(record, "request_id", None))
    more = {name: value for name, value in {**more, "kept_back": kept_back or None}.items() if value is not None}
    return {**line, "event": _shown(event), "timestamp": _timestamp(record.created), "logger": record.name, **more}


def _seldom_noise(seldom: Seldom) -> Callable[[logging.LogRecord], bool]:
    def passes(record: logging.LogRecord) -> bool:
        if not record.name.startswith(_NOISY):
            return True
        kept_back = seldom.kept_back("telemetry", record.created)
        record.kept_back = kept_back
        return kept_back is not None

    return passes
