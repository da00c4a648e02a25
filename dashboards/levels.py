"""Service levels: what the gateway promises, as shares of bad events; their targets, recording rules and burn.

Rule: a level is two PromQL expressions by job, over a window `W`: bad events a second, and all events a second. All
else follows: `job:responses_gateway_<name>:ratio_rate<window>` is the share that is bad, and an alert burns when it
spends the 30 days' budget too fast in a long and in a short window. A few bad events burn nothing: where there is
little traffic one of them would be a large share. Called by `alerts` and by the dashboards.
"""

from dataclasses import dataclass
from typing import Any

Rule = dict[str, Any]

# The SRE workbook's: how much faster than in 30 days, over a long and a short window, after how long, how loudly.
BURNS = (
    (14.4, "1h", "5m", "2m", "critical"),
    (6, "6h", "30m", "15m", "critical"),
    (3, "1d", "2h", "1h", "warning"),
    (1, "3d", "6h", "3h", "warning"),
)
SHORT, LONG = ("5m", "30m", "1h", "2h"), ("6h", "1d", "3d")
FEWEST = 5
"""Bad events in the long window below which nothing burns."""
_SECONDS = {"1h": 3600, "6h": 21600, "1d": 86400, "3d": 259200}


@dataclass(frozen=True, slots=True)
class Level:
    """A promise. `target`: percent of events that are good; `bad`, `all`: PromQL by job, a second, over `W`."""

    name: str
    title: str
    alert: str
    about: str
    target: float
    bad: str
    all: str

    @property
    def budget(self) -> float:
        """The share of events that may be bad."""
        return round(1 - self.target / 100, 6)

    def recorded(self, window: str) -> str:
        """The name of the recorded share of bad events."""
        return f"job:responses_gateway_{self.name}:ratio_rate{window}"

    def recording(self, window: str) -> Rule:
        """The rule that records it; nothing where there was no event."""
        bad, everything = self.bad.replace("W", window), self.all.replace("W", window)
        return {"record": self.recorded(window), "expr": f"({bad})\n/\n({everything} > 0)"}

    def burning(self, factor: float, long: str, short: str) -> str:
        """PromQL: the budget is spent `factor` times too fast, and not by a handful of events."""
        limit = f"{factor:g} * {self.budget:g}"
        bad = self.bad.replace("W", long)
        return (
            f"{self.recorded(long)} > {limit}\nand on (job) {self.recorded(short)} > {limit}\n"
            f"and on (job) {_SECONDS[long]} * ({bad}) >= {FEWEST}"
        )


def _rate(series: str) -> str:
    return f"sum by (job) (rate(responses_gateway_{series}[W]))"


_UNTRACKED = _rate('creates_untracked_total{mode=~"background.*"}')
_REFUSED = _rate('resumes_refused_total{reason!="expired"}')
_DETECTED = _rate("completion_detection_seconds_count")

LEVELS = (
    Level(
        "requests_failed",
        "Requests",
        "ResponsesGatewayRequestsBudgetBurn",
        "requests that the gateway or its store did not fail",
        99.9,
        # Before the first bad one there is no series of them.
        _rate('http_requests_total{origin=~"gateway|store"}') + " or 0 * " + _rate("http_requests_total"),
        _rate("http_requests_total"),
    ),
    Level(
        "creates_untracked",
        "Tracked",
        "ResponsesGatewayTrackingBudgetBurn",
        "background creates that are followed to their end, of those that went upstream",
        99.9,
        _UNTRACKED,
        "(" + _UNTRACKED + " + " + _rate('responses_created_total{mode=~"background.*"}') + ")",
    ),
    Level(
        "ends_detected_late",
        "Ends seen",
        "ResponsesGatewayDetectionBudgetBurn",
        "final statuses that were known here within 40 s of upstream's own time of completion",
        99,
        # Whether a whole number has a ".0" depends on the scrape's format.
        _DETECTED + " - " + _rate('completion_detection_seconds_bucket{le=~"40(.0)?"}'),
        _DETECTED,
    ),
    Level(
        "resumes_failed",
        "Resumes",
        "ResponsesGatewayResumesBudgetBurn",
        "resumes that were served exactly from their cursor on; those past the retention left out",
        99.9,
        _REFUSED,
        "(" + _REFUSED + " + " + _rate('stream_attaches_total{kind="resume"}') + ")",
    ),
)


def groups() -> list[dict[str, Any]]:
    """The recording rules: the long windows more rarely, as they read much."""
    short = [level.recording(window) for level in LEVELS for window in SHORT]
    long = [level.recording(window) for level in LEVELS for window in LONG]
    return [
        {"name": "responses_gateway.levels", "rules": short},
        {"name": "responses_gateway.levels.long", "interval": "3m", "rules": long},
        {"name": "responses_gateway.polls", "rules": _POLLS},
    ]


_CLIENT_POLLS = "sum by (job) (rate(responses_gateway_client_polls_total[5m])) > 0"
_NEEDLESS = 'sum by (job) (rate(responses_gateway_client_polls_total{outcome="unchanged"}[5m]))'
_UPSTREAM_POLLS = "sum by (job) (rate(responses_gateway_upstream_polls_total[5m]))"
_POLLS: list[Rule] = [
    {
        "record": "job:responses_gateway_polls_saved:ratio_rate5m",
        "expr": f"clamp_min(1 - {_UPSTREAM_POLLS}\n/\n({_CLIENT_POLLS}), 0)",
    },
    {"record": "job:responses_gateway_polls_needless:ratio_rate5m", "expr": f"{_NEEDLESS}\n/\n({_CLIENT_POLLS})"},
]
