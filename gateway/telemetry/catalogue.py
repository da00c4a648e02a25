"""The catalogue of metrics: the whole contract with dashboards and alerts, as a table.

Rule: values only; `series.py` makes the series from it, README's table is made from it. Every label has a bounded set
of values: those that are named here have their series from the start, those of a model from when its name is learnt, so
that a rate starts at 0 and not at nothing. A gauge that has nothing to show has no series.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from gateway.domain import facts
from gateway.domain.attempt import JoinedBy
from gateway.domain.continuation import CursorForm
from gateway.domain.errors import Origin
from gateway.domain.mode import Mode
from gateway.domain.response import TERMINAL, Ending, Status, Stuck
from gateway.telemetry import names

Kind = Literal["counter", "gauge", "histogram"]
MODEL = "model"
"""The label that a setting bounds; a metric that has `_MODEL` for it has every model that is known."""
NO_STATUS = "none"
"""The `status` of a response before upstream has named one."""
UNKNOWN = "unknown"
"""A model that upstream has not confirmed, a mode that could not be read."""

# From 0.1 s to 8 h: a short answer and a night of research.
_LIFETIME = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 28800, 86400)
# By model too: fewer, as each is a series for every model.
_QUEUE = (0.5, 1, 2, 5, 10, 30, 60, 300, 600, 1800, 7200, 28800)
_WAIT = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200, 28800)
# 40 s: the longest pause of the poll schedule, its jitter and a slow answer.
_DETECTION = (0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 120, 300, 1800, 28800)
_HEADERS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 600)
_POLL = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LAG = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300)
_APPEND = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
_PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
_BATCH = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_POLLS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)
_EVENTS = (0, 1, 5, 10, 50, 100, 500, 1000, 5000, 10000, 50000)

_MODES = tuple(Mode)
_ENDED = tuple(status for status in Status if status in TERMINAL)
_OPEN = (NO_STATUS, *(status for status in Status if status not in TERMINAL))
_POLLED = get_args(facts.PollOutcome)
_OBSERVED = get_args(facts.Observed)
_GIVEN_UP = tuple(ending for ending in Ending if ending is not Ending.TERMINAL)
_REASONS = tuple(Stuck)
_FORMS = tuple(CursorForm)
_LEARNT: tuple[str, ...] = ()
_MODEL = (UNKNOWN,)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `labels` maps each label to the values that it has from the start; others are learnt to a limit."""

    name: str
    kind: Kind
    help: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()


METRICS: tuple[Metric, ...] = (
    # Responses
    Metric(names.CREATED, "counter", "Responses that upstream accepted.", {"mode": _MODES, "model": _MODEL}),
    Metric(names.LIVE, "gauge", "Responses in this process's hands, by status.", {"status": _OPEN, "mode": _MODES}),
    Metric(
        names.OLDEST_CREATED,
        "gauge",
        "When the oldest live response of this status was created, or its completion window was over.",
        {"status": ()},
    ),
    Metric(
        names.OLDEST_PROGRESS,
        "gauge",
        "When the live response of this status that has stood still longest moved last.",
        {"status": ()},
    ),
    Metric(names.EXPIRY, "gauge", "When upstream will forget the first live response that it does not answer for."),
    Metric(
        names.TERMINAL,
        "counter",
        "Responses whose final status is known, each once; error_type and origin (who is to blame) of failed ones.",
        {"status": _ENDED, "mode": _MODES, "model": _MODEL, "error_type": ("none",), "origin": ("none",)},
    ),
    Metric(names.LATE, "counter", "Final statuses that came after the tracking was given up.", {"status": _ENDED}),
    Metric(
        names.GIVEN_UP,
        "counter",
        "Responses whose tracking ended without a final status, and why.",
        {"ending": _GIVEN_UP, "mode": _MODES},
    ),
    Metric(
        names.REFUSED,
        "counter",
        "Creates that upstream, or the way to it, refused.",
        {"mode": _MODES, "status_class": ("4xx", "5xx")},
    ),
    Metric(
        names.UNTRACKED,
        "counter",
        "Creates that went upstream untracked.",
        {"reason": ("store", "not_json", "limit", "unreadable"), "mode": (*_MODES, UNKNOWN)},
    ),
    Metric(
        names.JOINED,
        "counter",
        "Creates that were sent again and got the response of the first one; by what they were known.",
        {"by": get_args(JoinedBy)},
    ),
    Metric(names.DURATION, "histogram", "Create to final status.", {"mode": _MODES, "status": _ENDED}, _LIFETIME),
    Metric(
        names.QUEUE,
        "histogram",
        "Create to leaving `queued`, of background responses without a completion window.",
        {"observed": _OBSERVED, "model": _MODEL},
        _QUEUE,
    ),
    Metric(
        names.FIRST_OUTPUT,
        "histogram",
        "Create to the first output.",
        {"mode": _MODES, "observed": _OBSERVED},
        _WAIT,
    ),
    Metric(
        names.PER_TOKEN,
        "histogram",
        "First output to end, per output token, of streamed responses.",
        {"mode": _MODES},
        _PER_TOKEN,
    ),
    Metric(names.CANCELS, "counter", "Cancels that were asked for.", {"status_class": ("2xx", "4xx", "5xx")}),
    Metric(
        names.TAKEN_UP,
        "counter",
        "Live responses that no process held and that were taken up.",
        {"how": ("pumped", "polled", "waits_for_owner", "ended")},
    ),
    Metric(
        names.LET_GO,
        "counter",
        "Live responses that went to another process, or were left for one.",
        {"how": ("taken", "handed_over")},
    ),
    Metric(names.UNHELD, "gauge", "Live responses of the store that no process holds; every process shows the same."),
    Metric(names.PROCESSES, "gauge", "Processes that live on the store; every process shows the same."),
    Metric(
        names.STUCK,
        "gauge",
        "Responses in this process's hands that should move and do not, by reason.",
        {"reason": _REASONS, "model": _MODEL},
    ),
    Metric(
        names.BECAME_STUCK,
        "counter",
        "Times that a response became stuck.",
        {"reason": _REASONS, "model": _MODEL},
    ),
    Metric(
        names.RECOVERED,
        "counter",
        "Times that a stuck response moved again, or ended.",
        {"reason": _REASONS, "model": _MODEL},
    ),
    Metric(names.CONTRADICTIONS, "counter", "Things that upstream said and that cannot be.", {"what": _LEARNT}),
    Metric(
        names.TOKENS,
        "counter",
        "Tokens of the model, once per response. Cached is part of input, reasoning part of output.",
        {"kind": ("input", "cached", "output", "reasoning"), "model": _MODEL},
    ),
    Metric(names.COST, "counter", "What the tokens cost by the setting `prices`, in its currency.", {"model": _LEARNT}),
    # Polls
    Metric(
        names.CLIENT_POLLS,
        "counter",
        "Polls of clients, and who answered them: the store, an upstream poll shared with others, or one of its own.",
        {"outcome": _POLLED, "served": get_args(facts.Served)},
    ),
    Metric(names.UPSTREAM_POLLS, "counter", "Polls that upstream got.", {"outcome": _POLLED}),
    Metric(
        names.POLLS_PER_RESPONSE,
        "histogram",
        "Polls of one response over its life, by clients and of upstream.",
        {"mode": _MODES, "by": ("client", "gateway")},
        _POLLS,
    ),
    Metric(names.POLL_SECONDS, "histogram", "How long upstream took to answer a poll.", {}, _POLL),
    Metric(names.POLL_LAG, "histogram", "How much later than due upstream was polled.", {}, _LAG),
    Metric(
        names.DETECTION,
        "histogram",
        "Upstream's `completed_at` to the gateway's knowing it; never below 0.",
        {"observed": _OBSERVED},
        _DETECTION,
    ),
    Metric(names.DETECTION_CLAMPED, "counter", "Detections that upstream's clock dated into the future: taken as 0."),
    Metric(
        names.PICKUP,
        "histogram",
        "The gateway's knowing of an end to the first client's; background responses only.",
        {"by": _OBSERVED},
        _LIFETIME,
    ),
    # Streams
    Metric(names.FOLLOWERS, "gauge", "Clients that read a stream."),
    Metric(
        names.ATTACHES,
        "counter",
        "Readers of a stream: the first, a resume at a cursor, a replay from the start; and how the cursor was given.",
        {"kind": get_args(facts.AttachKind), "form": _FORMS},
    ),
    Metric(
        names.RESUMES_REFUSED,
        "counter",
        "Resumes that were not served from their cursor on.",
        {"reason": get_args(facts.ResumeRefusal)},
    ),
    Metric(names.BEHIND, "histogram", "Events that a resuming reader had to catch up with.", {}, _EVENTS),
    Metric(
        names.DISCONNECTS,
        "counter",
        "Readers that left before the end of the stream: client (left, slow) or gateway (drain, error).",
        {"side": ("client", "gateway"), "reason": ("left", "slow", "drain", "error")},
    ),
    Metric(names.DELIVERED, "counter", "Events delivered to readers, counted when each leaves."),
    Metric(names.REPLAYED, "counter", "Delivered events that were in the log before their reader came."),
    Metric(
        names.DELIVERY,
        "histogram",
        "Upstream's bytes to the write to a reader that keeps up; sampled once a second per reader.",
        {},
        _APPEND,
    ),
    Metric(names.APPENDED, "counter", "Events written to logs."),
    Metric(names.APPEND_SECONDS, "histogram", "Until a batch of events was in the log.", {}, _APPEND),
    Metric(names.APPEND_BATCH, "histogram", "Events written to a log at a time.", {}, _BATCH),
    Metric(names.CUTS, "counter", "Upstream streams that broke off without a terminal event.", {"reason": _LEARNT}),
    Metric(
        names.REATTACHES,
        "counter",
        "Attempts to go on reading an upstream stream at its last number.",
        {"outcome": ("resumed", "refused", "failed")},
    ),
    Metric(names.GAPS, "counter", "Times that upstream's sequence numbers jumped."),
    # Continuation tokens
    Metric(names.TOKENS_ISSUED, "counter", "Continuation tokens shown to clients."),
    Metric(
        names.TOKENS_REDEEMED,
        "counter",
        "Continuation tokens that came back.",
        {"how": ("poll", "resume"), "form": _FORMS},
    ),
    Metric(names.TOKENS_OUTSTANDING, "gauge", "Live responses whose continuation token has not come back."),
    # HTTP
    Metric(
        names.REQUESTS,
        "counter",
        "Requests of clients; origin: who is to blame for an error.",
        {"route": _LEARNT, "method": _LEARNT, "status_class": _LEARNT, "origin": ("none", *get_args(Origin))},
    ),
    Metric(names.IN_FLIGHT, "gauge", "Requests of clients that are being answered."),
    Metric(names.HEADERS_SECONDS, "histogram", "Until a request's headers were written.", {"route": _LEARNT}, _HEADERS),
    Metric(names.STREAM_SECONDS, "histogram", "How long streamed answers lasted.", {"route": _LEARNT}, _LIFETIME),
    Metric(
        names.HTTP_BYTES,
        "counter",
        "Bytes of clients' requests and of their answers, without heads.",
        {"direction": ("received", "sent")},
    ),
    # The gateway itself
    Metric(names.LOOP_LAG, "histogram", "How much later than due the event loop ran something.", {}, _LAG),
    Metric(names.UPSTREAM_REACHABLE, "gauge", "Whether upstream answered the last request, in whatever way (1 or 0)."),
    Metric(names.STORE_BYTES, "gauge", "Bytes that the store takes."),
    Metric(names.STORE_FREE, "gauge", "Bytes that the store's disk has left."),
    Metric(names.STORE_CAPACITY, "gauge", "Bytes of the store's disk."),
    Metric(names.STORE_FAILURES, "counter", "Things the store could not do.", {"operation": _LEARNT}),
    Metric(names.PURGED, "counter", "Records whose content, or which themselves, were deleted after their retention."),
    Metric(names.SPANS_EXPORTED, "counter", "Spans that the collector took."),
    Metric(
        names.SPANS_DROPPED,
        "counter",
        "Spans that were lost.",
        {"reason": ("queue_full", "export_failed", "shutdown", "expired")},
    ),
    Metric(names.SPANS_DUE, "gauge", "Generation spans that the collector has not taken yet; they are kept, and sent."),
    Metric(names.OBSERVERS_REMOVED, "counter", "Parts of the telemetry that raised and were switched off."),
    Metric(names.BUILD, "gauge", "Always 1; the version that is running.", {"version": _LEARNT, "python": _LEARNT}),
)


def table(used: Mapping[str, tuple[str, str]] | None = None) -> str:
    """The metrics as a Markdown table, for README. `used`: by metric the panels and the alerts that use it, as text."""
    rows = ["| metric | type | labels | meaning | panels | alerts |", "|---|---|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        panels, alerts = (used or {}).get(metric.name, ("", ""))
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} | {panels} | {alerts} |")
    return "\n".join(rows) + "\n"
