"""Log lines as a projection of facts: milestones as they happen, one canonical line per response at its end.

Rule: a line is made of ids, numbers and words of the gateway's own; never of a body, a prompt or a credential. The
trace's ids stand at the top level in lower-case hex, as "Trace Context in non-OTLP Log Formats" of the OpenTelemetry
specification says. With `rendering` the only importer of structlog. Writing never blocks (`lines`): what a stalled
reader of stdout does not take is lost, and a line says how many were.
"""

import atexit
import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from gateway.domain import facts
from gateway.domain.response import Counts, Response, Usage
from gateway.telemetry.generation import went_wrong
from gateway.telemetry.lines import Lines, Seldom
from gateway.telemetry.rendering import KEPT_BACK, NOISY, ids, of_stdlib, render, shown, timestamp

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "console"]

_OF_A_KIND: Final = 10
"""How many lines of a kind a minute tell of the same trouble; what goes beyond is counted in the next one."""


def configure(
    level: Level = "info",
    format: Format = "auto",
    stream: TextIO | None = None,
    *,
    clock: Callable[[], float] = time.time,
    worker: int | None = None,
) -> "Logs":
    """Set up logging of this process, stdlib's included, to one stream (stdout). `close` undoes it.

    `worker`: which of several processes it is; the lines about the process itself say so.

    `auto` writes JSON, and on a terminal lines for people. Of other libraries only warnings and worse are shown.
    """
    stream = sys.stdout if stream is None else stream
    console = format == "console" or (format == "auto" and stream.isatty())
    return Logs(level, Lines(stream), render(console=console, colors=stream.isatty()), clock, worker)


class Logs:
    """Writes what the facts say. Made by `configure`."""

    def __init__(
        self,
        level: Level,
        lines: Lines,
        rendering: list[Processor],
        clock: Callable[[], float],
        worker: int | None = None,
    ) -> None:
        self._itself: dict[str, object] = {} if worker is None else {"worker": worker}
        self._lines, self._clock, self._least = lines, clock, _LEVELS[level]
        self._logger = structlog.wrap_logger(
            structlog.WriteLogger(cast(TextIO, lines)),
            processors=[structlog.processors.add_log_level, _told, *rendering],
            wrapper_class=structlog.make_filtering_bound_logger(self._least),
            cache_logger_on_first_use=True,
        ).bind()
        self._handler = _Records(cast(TextIO, lines), self._unwritable)
        self._handler.setFormatter(of_stdlib(rendering))
        self._handler.setLevel(max(self._least, logging.WARNING))
        logging.getLogger().addHandler(self._handler)
        atexit.register(self.close)
        self._seldom = Seldom()
        self._project: dict[type[facts.Fact], Callable[[Any], None]] = {
            facts.Created: self._created,
            facts.Refused: self._refused,
            facts.Joined: lambda f: self._say("info", "create_joined", f, by=f.by, retry=f.retry),
            facts.StatusChanged: lambda f: self._say("debug", "response_status", f, before=f.before, after=f.after),
            facts.FirstOutput: self._first_output,
            facts.Ended: self._ended,
            facts.BecameStuck: self._became_stuck,
            facts.Recovered: lambda f: self._say("info", "response_recovered", f, reason=f.reason),
            facts.Contradicted: lambda f: self._say("warning", "contradicted", f, what=f.what, detail=f.detail),
            facts.UpstreamCut: lambda f: self._say("warning", "upstream_cut", f, reason=f.reason),
            facts.Reattached: self._reattached,
            facts.TakenUp: lambda f: self._say("info", "taken_up", f, how=f.how),
            facts.LetGo: lambda f: self._say("info", "let_go", f, how=f.how),
            facts.UpstreamPolled: self._polled,
            facts.Attached: self._attached,
            facts.Detached: self._detached,
            facts.Cancelled: lambda f: self._say("info", "cancel_asked", f, http_status=f.status, seconds=f.seconds),
            facts.Purged: lambda f: self._say("debug", "purged", f, records=f.records),
            facts.StoreFailed: self._store_failed,
            facts.Untracked: lambda f: self._say("warning", "create_untracked", f, reason=f.reason),
            facts.RequestServed: self._request_served,
        }

    def observe(self, fact: facts.Fact) -> None:
        """Write the line of a fact, if it has one: an observer for `Telemetry`."""
        project = self._project.get(type(fact))
        if project is not None:
            project(fact)

    def write(self, level: Level, event: str, **fields: object) -> None:
        """Write a line about the process itself: starting, listening, draining, stopped."""
        self._line(level, event, self._clock(), {**self._itself, **fields})

    def observer_removed(self, observer: object, error: Exception) -> None:
        """An observer raised and was removed: for `Telemetry(on_removed=...)`."""
        name = getattr(observer, "__qualname__", type(observer).__name__)
        self.write("error", "telemetry_observer_removed", observer=name, exc_info=error)

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what is queued, for at most `timeout_s`, and take the handler off stdlib's root logger."""
        atexit.unregister(self.close)
        logging.getLogger().removeHandler(self._handler)
        self._lines.close(timeout_s)

    def _unwritable(self, record: logging.LogRecord) -> None:
        self.write("error", "log_record_unwritable", logger=record.name)

    # The line of each fact

    def _created(self, fact: facts.Created) -> None:
        response = fact.response
        if response.terminal:
            return  # the line of its end is due, and says all of this
        fields = {"status": response.status, "previous_response_id": response.previous_response_id}
        self._say("info", "response_created", fact, **fields, upstream_request_id=response.upstream_request_id)

    def _first_output(self, fact: facts.FirstOutput) -> None:
        if not fact.response.terminal:
            self._say("info", "first_output", fact, seconds=fact.at - fact.response.created_at)

    def _refused(self, fact: facts.Refused) -> None:
        level: Level = "warning" if fact.status >= 500 else "info"
        self._say(level, "create_refused", fact, http_status=fact.status, error_code=fact.response.error_code)

    def _ended(self, fact: facts.Ended) -> None:
        if fact.again:
            return
        level: Level = "warning" if went_wrong(fact.response) else "info"
        self._say(level, "response_ended", fact, late=fact.late, source=fact.source, **_story(fact.response, fact.at))

    def _became_stuck(self, fact: facts.BecameStuck) -> None:
        response = fact.response
        still_s = fact.at - response.moved_at
        self._say("warning", "response_stuck", fact, reason=response.stuck, status=response.status, still_s=still_s)

    def _reattached(self, fact: facts.Reattached) -> None:
        level: Level = "info" if fact.outcome == "resumed" else "warning"
        self._say(level, "upstream_reattached", fact, outcome=fact.outcome, after=fact.after, seconds=fact.seconds)

    def _polled(self, fact: facts.UpstreamPolled) -> None:
        level: Level = "warning" if fact.outcome == "error" else "debug"
        self._say(level, "polled", fact, outcome=fact.outcome, http_status=fact.status, seconds=fact.seconds)

    def _attached(self, fact: facts.Attached) -> None:
        level, event = _ATTACHED[fact.kind]
        self._say(level, event, fact, form=fact.form, after=fact.after, behind=fact.behind)

    def _detached(self, fact: facts.Detached) -> None:
        fields = {"kind": fact.kind, "how": fact.how, "number": fact.number, "seconds": fact.at - fact.started_at}
        self._say("debug", "stream_left", fact, **fields, delivered=fact.delivered, replayed=fact.replayed)

    def _store_failed(self, fact: facts.StoreFailed) -> None:
        self._say("error", "store_failed", fact, operation=fact.operation, reason=fact.reason)

    def _request_served(self, fact: facts.RequestServed) -> None:
        level: Level = "warning" if fact.status >= 500 else "debug"
        if _LEVELS[level] < self._least:
            return  # the usual case, and the one that counts
        fields = {"method": fact.method, "http_route": fact.route, "http_status": fact.status, "origin": fact.origin}
        fields |= {"streamed": fact.streamed, "received_bytes": fact.received_bytes, "sent_bytes": fact.sent_bytes}
        self._say(level, "request", fact, **fields, seconds=fact.seconds, lifetime_s=fact.lifetime)

    def _say(self, level: Level, event: str, fact: facts.Fact, **fields: object) -> None:
        if _LEVELS[level] < self._least:
            return
        kept_back = self._kept_back(event, fact)
        if kept_back is not None:
            belongs = ids(getattr(fact, "response", None), getattr(fact, "request_id", None))
            self._line(level, event, fact.at, {**belongs, **fields, "kept_back": kept_back or None})

    def _kept_back(self, event: str, fact: facts.Fact) -> int | None:
        """How many lines like this one were kept back; None: keep it back, too. Whoever debugs wants them all."""
        repeats = _REPEATS.get(type(fact))
        kind = repeats(fact) if repeats is not None else None
        if kind is None or self._least <= logging.DEBUG:
            return 0
        return self._seldom.kept_back(f"{event} {kind}", fact.at, _OF_A_KIND)

    def _line(self, level: Level, event: str, at: float, fields: Mapping[str, object]) -> None:
        if lost := self._lines.take_lost():
            self._logger.error("log_lines_lost", told={"timestamp": timestamp(at), "lines": lost})
        getattr(self._logger, level)(event, told={"timestamp": timestamp(at), **shown(fields)})


def _told(logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
    """What a line tells comes in one piece: one by one, each layer of structlog would copy it anew."""
    line.update(line.pop("told"))
    return line


_LEVELS: Final[dict[Level, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
# What a storm repeats, by kinds of which there are few: a failing upstream or store fails for everybody.
_REPEATS: Final[dict[type[facts.Fact], Callable[[Any], object]]] = {
    facts.Refused: lambda f: f.status,
    facts.Untracked: lambda f: f.reason,
    facts.Contradicted: lambda f: f.what,
    facts.UpstreamCut: lambda f: f.reason,
    facts.Reattached: lambda f: f.outcome,
    facts.TakenUp: lambda f: f.how,
    facts.LetGo: lambda f: f.how,
    facts.StoreFailed: lambda f: f.operation,
    facts.UpstreamPolled: lambda f: f.status if f.outcome == "error" else None,
    facts.RequestServed: lambda f: f"{f.origin} {f.status}" if f.status >= 500 else None,
}
_ATTACHED: Final[dict[facts.AttachKind, tuple[Level, str]]] = {
    "first": ("debug", "stream_attached"),
    "replay": ("debug", "stream_replayed"),
    "resume": ("info", "response_resumed"),
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


_USAGE: Final = Usage.__struct_fields__
# By which form of cursor a token came back is for metrics and spans to tell.
_COUNTS: Final = tuple(name for name in Counts.__struct_fields__ if not name.startswith("redeemed_"))


class _Records(logging.StreamHandler[TextIO]):
    """Records of stdlib's logging. Those of one place in the code repeat themselves: ten a minute are enough.

    While a collector is away many places repeat themselves, with tracebacks: of all of them one a minute.
    """

    def __init__(self, stream: TextIO, unwritable: Callable[[logging.LogRecord], None]) -> None:
        super().__init__(stream)
        self._unwritable, self._seldom = unwritable, Seldom()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write it."""
        noisy = record.name.startswith(NOISY)
        kind = "telemetry" if noisy else f"{record.pathname}:{record.lineno}"
        kept_back = self._seldom.kept_back(kind, record.created, 1 if noisy else _OF_A_KIND)
        setattr(record, KEPT_BACK, kept_back)
        return kept_back is not None

    def handleError(self, record: logging.LogRecord) -> None:  # the vendor's
        """A message that does not fit what it is filled with: stdlib would print both."""
        self._unwritable(record)
