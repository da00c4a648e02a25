"""Alerts: what a person is told, when, how loudly, and where to look.

Rule: a page (`critical`) is for what users notice and the gateway is to blame for; everything else that a person
should act on is a `warning`; habits of clients are panels, not alerts. Every alert names the gateway that can be asked
for more, leads to a panel and to its own heading in `RUNBOOK.md`. What upstream's being away explains is silent then.
"""

from typing import Any

from dashboards import background, collector, levels, overview, runtime
from dashboards.alert import WHERE, Alert

JOB = "responses-gateway"
"""The name of the scrape job: all that is known of a gateway that cannot be scraped."""
_AWAY = "\nunless on (job, instance)\navg_over_time(responses_gateway_upstream_reachable[10m]) < 0.5"


def _sum(series: str, by: str = "job, instance", window: str = "") -> str:
    inner = f"increase(responses_gateway_{series}[{window}])" if window else f"responses_gateway_{series}"
    return f"sum by ({by}) ({inner})"


def _share(bad: str, everything: str, limit: float, window: str, by: str = "job, instance") -> str:
    """PromQL: more than `limit` of all are bad, and not only a handful."""
    some = _sum(bad, by, window)
    return f"{some}\n/\n{_sum(everything, by, window)} > {limit:g}\nand on ({by}) {some} >= {levels.FEWEST}"


def _over(share: float, histogram: str, limit: float, window: str, by: str = "job, instance") -> str:
    """PromQL: a quantile of a histogram is over its limit, and not only by a handful."""
    name = f"responses_gateway_{histogram}"
    return (
        f"histogram_quantile({share:g}, sum by ({by}, le) (rate({name}_bucket[{window}]))) > {limit:g}\n"
        f"and on ({by}) {_sum(f'{histogram}_count', by, window)} >= {levels.FEWEST}"
    )


def _oldest(status: str, limit_s: int) -> str:
    oldest = f'responses_gateway_oldest_live_created_timestamp_seconds{{status="{status}"}}'
    return f"time() - min by (job, instance, status) ({oldest}) > {limit_s}"


_ASKED = "\nor ".join(
    f"{_sum(f'{counter}_total', window='10m')} > 0"
    for counter in ("http_requests", "upstream_polls", "upstream_reattaches")
)
_STUCK = _sum("responses_stuck", "job, instance, reason")
_STUCK_MODELS = _sum("responses_stuck", "job, instance, reason, model")

ALERTS: tuple[Alert, ...] = (
    Alert(
        "ResponsesGatewayWatchdog",
        "none",
        "vector(1)",
        "",
        "",
        "Alerting works.",
        "This alert always fires. Whoever receives it should raise the alarm when it stays away: then no other alert "
        "can be relied on.",
        (overview.DASHBOARD, "Now"),
        "always: it is missed where it stays away",
    ),
    Alert(
        "ResponsesGatewayDown",
        "critical",
        f'up{{job="{JOB}"}} == 0',
        "2m",
        "2m",
        f"The gateway {WHERE} cannot be scraped.",
        "Prometheus gets no metrics from it: the process is gone, hangs, or cannot be reached. Its clients are cut "
        "off.",
        (overview.DASHBOARD, "Now"),
        "no scrape for 2 minutes",
    ),
    Alert(
        "ResponsesGatewayMissing",
        "critical",
        f'absent(up{{job="{JOB}"}})',
        "5m",
        "2m",
        "No gateway is known to Prometheus.",
        f"There is no target of the job {JOB}: discovery finds none, or the job has another name.",
        (overview.DASHBOARD, "Now"),
        "Prometheus has no gateway to scrape",
    ),
    *(
        Alert(
            level.alert,
            severity,
            level.burning(factor, long, short),
            wait,
            "5m",
            f"The error budget of the service level {level.title} is burning in {{{{ $labels.job }}}}.",
            f"{{{{ $value | humanizePercentage }}}} bad in the last {long}; of {level.about} {level.target:g} % are "
            f"promised. At this rate the budget of 30 days lasts less than {30 / factor:.2g} days.",
            (overview.DASHBOARD, "Error budget burn"),
            "the budget of 30 days would last less than 2 or 5 (page), 10 or 30 days (warning)",
            (("long", long), ("short", short)),
        )
        for level in levels.LEVELS
        for factor, long, short, wait, severity in levels.BURNS
    ),
    Alert(
        "ResponsesGatewayStoreFailing",
        "critical",
        f"{_sum('store_failures_total', window='5m')} >= 3\nor\n"
        + _sum('creates_untracked_total{reason="store"}', window="5m")
        + " >= 1",
        "2m",
        "5m",
        f"The store of {WHERE} fails.",
        "{{ $value | humanize }} operations in 5 minutes. Creates go upstream untracked, or are refused; streams wait.",
        (runtime.DASHBOARD, "What the store could not do"),
        "3 operations in 5 minutes, or a create that went upstream untracked for it",
    ),
    Alert(
        "ResponsesGatewayResponsesStuck",
        "warning",
        # A few of many may be odd prompts; of few, one matters. For one reason it may be several models.
        f"{_STUCK_MODELS} > 0\nand on (job, instance, reason) (\n"
        f"{_STUCK} >= 10\nor\n{_STUCK} > on (job, instance) group_left 0.05 * {_sum('responses_live')}\n)" + _AWAY,
        "5m",
        "10m",
        f"Responses of {{{{ $labels.model }}}} are stuck at {WHERE}: {{{{ $labels.reason }}}}.",
        "{{ $value }} of this model should move and do not, for the reason {{ $labels.reason }}. "
        "`responses-gateway responses list --stuck` names them, the dashboard has their traces.",
        (background.DASHBOARD, background.STUCK_NOW),
        "for one reason 10 of them, or more than 5 % of those that run",
    ),
    Alert(
        "ResponsesGatewayOldestLive",
        "warning",
        "\nor\n".join((_oldest("none", 900), _oldest("queued", 3600), _oldest("in_progress", 28800))),
        "5m",
        "10m",
        f"A response has been {{{{ $labels.status }}}} for too long at {WHERE}.",
        "It was created {{ $value | humanizeDuration }} ago. Usual are 15 minutes without a status, 1 h in the "
        "queue, 8 h in progress.",
        (background.DASHBOARD, "Age of the oldest, and of the last progress"),
        "15 min without a status, 1 h queued or 8 h in progress",
    ),
    Alert(
        "ResponsesGatewayResponsesGivenUp",
        "warning",
        _sum('responses_given_up_total{ending=~"lost|abandoned"}', "job, instance, ending", "1h") + " >= 1",
        "1m",
        "15m",
        f"Responses are {{{{ $labels.ending }}}} at {WHERE}.",
        "{{ $value | humanize }} in the last hour ended without a final status: upstream does not know them (lost), or "
        "they did not end in time (abandoned).",
        (background.DASHBOARD, "Became stuck, recovered, given up"),
        "one is lost, or abandoned",
    ),
    Alert(
        "ResponsesGatewayQueueTime",
        "warning",
        _over(0.95, "response_queue_seconds", 600, "30m", "job, model"),
        "10m",
        "15m",
        "Responses of {{ $labels.model }} wait long in upstream's queue in {{ $labels.job }}.",
        "5 % of those that left the queue in the last 30 minutes had waited for more than {{ $value | "
        "humanizeDuration }}.",
        (background.DASHBOARD, "Time in the queue"),
        "10 min at the 95th percentile of half an hour, of one model",
    ),
    Alert(
        "ResponsesGatewayUpstreamAway",
        "warning",
        # The last request tells nothing of a time in which there was none.
        f"avg_over_time(responses_gateway_upstream_reachable[10m]) < 0.5\nand on (job, instance) ({_ASKED})",
        "1m",
        "5m",
        f"Upstream does not answer {WHERE}.",
        "It answered in {{ $value | humanizePercentage }} of the last 10 minutes. Alerts that this explains are "
        "silent.",
        (runtime.DASHBOARD, "Polls of upstream, by outcome"),
        "no answer in most of 10 minutes in which it was asked",
    ),
    Alert(
        "ResponsesGatewayUpstreamFailing",
        "warning",
        _share('http_requests_total{origin="upstream", status_class="5xx"}', "http_requests_total", 0.1, "10m") + _AWAY,
        "5m",
        "10m",
        f"Upstream answers {WHERE} with errors.",
        "{{ $value | humanizePercentage }} of the requests of the last 10 minutes ended with a 5xx of upstream's.",
        (overview.DASHBOARD, "Errors, by who is to blame"),
        "a tenth of the requests of 10 minutes end with a 5xx of upstream",
    ),
    Alert(
        "ResponsesGatewayResponsesFailing",
        "warning",
        _share(
            'responses_terminal_total{status="failed", origin!="client"}',
            "responses_terminal_total",
            0.2,
            "1h",
            "job, model",
        ),
        "5m",
        "15m",
        "Responses of {{ $labels.model }} fail in {{ $labels.job }}.",
        "{{ $value | humanizePercentage }} of those that ended in the last hour failed, and not by a fault of the "
        "client.",
        (overview.DASHBOARD, "Why responses failed"),
        "a fifth of a model's responses of an hour fail, clients' faults left out",
    ),
    Alert(
        "ResponsesGatewayPollsFailing",
        "warning",
        _share('upstream_polls_total{outcome="error"}', "upstream_polls_total", 0.2, "10m") + _AWAY,
        "5m",
        "10m",
        f"Polls of upstream by {WHERE} fail.",
        "{{ $value | humanizePercentage }} of the polls of the last 10 minutes: what became of background responses is "
        "known late, or not.",
        (runtime.DASHBOARD, "Polls of upstream, by outcome"),
        "a fifth of the polls of 10 minutes",
    ),
    Alert(
        "ResponsesGatewayPollsLate",
        "warning",
        _over(0.95, "upstream_poll_lag_seconds", 5, "10m"),
        "10m",
        "15m",
        f"{WHERE} polls upstream too late.",
        "5 % of its polls are more than {{ $value | humanizeDuration }} late: its budget of polls, or its "
        "processor, is used up.",
        (runtime.DASHBOARD, "Polls of upstream: time, and lateness"),
        "5 s later than due at the 95th percentile of 10 minutes",
    ),
    Alert(
        "ResponsesGatewayUpstreamExpiryNear",
        "warning",
        "min by (job, instance) (responses_gateway_upstream_expiry_timestamp_seconds) - time() < 300",
        "1m",
        "10m",
        f"Upstream is about to forget a response whose end is not known at {WHERE}.",
        "In {{ $value | humanizeDuration }}; after that nobody can learn what became of it.",
        (background.DASHBOARD, "At a glance"),
        "within 5 minutes upstream forgets a response that it does not answer for",
    ),
    Alert(
        "ResponsesGatewayResumesRefused",
        "warning",
        _sum('resumes_refused_total{reason!="expired"}', "job, instance, reason", "30m") + " >= 3",
        "1m",
        "15m",
        f"Readers cannot resume at {WHERE}: {{{{ $labels.reason }}}}.",
        "{{ $value | humanize }} in the last 30 minutes came back for the rest of their stream and did not get it.",
        (background.DASHBOARD, "Came, and came back"),
        "3 in half an hour for one reason; those past the retention left out",
    ),
    Alert(
        "ResponsesGatewayDiskNearlyFull",
        "warning",
        "responses_gateway_store_free_bytes\n/\nresponses_gateway_store_capacity_bytes < 0.1",
        "10m",
        "15m",
        f"The disk of the store of {WHERE} is nearly full.",
        "{{ $value | humanizePercentage }} is free. When it is full, nothing is tracked any more.",
        (runtime.DASHBOARD, "Room for the store"),
        "less than a tenth is free",
    ),
    Alert(
        "ResponsesGatewayEventLoopLag",
        "warning",
        _over(0.99, "event_loop_lag_seconds", 0.25, "5m"),
        "10m",
        "10m",
        f"{WHERE} has more to do than it can.",
        "Its event loop is up to {{ $value | humanizeDuration }} late (99 %): every request and event waits that long.",
        (runtime.DASHBOARD, "Event-loop lag"),
        "0.25 s at the 99th percentile of 5 minutes",
    ),
    Alert(
        "ResponsesGatewaySpansDropped",
        "warning",
        _sum("spans_dropped_total", "job, instance, reason", "15m") + " >= 1",
        "1m",
        "15m",
        f"Traces of {WHERE} have holes: {{{{ $labels.reason }}}}.",
        "{{ $value | humanize }} spans were lost in the last 15 minutes.",
        (runtime.DASHBOARD, runtime.SPANS),
        "any, by reason",
    ),
    Alert(
        "ResponsesGatewaySpansDueGrow",
        "warning",
        "responses_gateway_generation_spans_due > 100\nand deriv(responses_gateway_generation_spans_due[30m]) > 0",
        "15m",
        "15m",
        f"The collector does not take the generation spans of {WHERE}.",
        "{{ $value }} are kept to be sent again, and they become more.",
        (runtime.DASHBOARD, runtime.WAITING),
        "more than 100, and growing for half an hour",
    ),
    Alert(
        "ResponsesGatewayTelemetryOff",
        "warning",
        "responses_gateway_telemetry_observers_removed_total > 0",
        "1m",
        "10m",
        f"A part of the telemetry of {WHERE} is switched off.",
        "It raised an error, which is in the log, and stays off until a restart: metrics, spans or lines are missing.",
        (runtime.DASHBOARD, runtime.WAITING),
        "a part of it raised an error and was removed",
    ),
    *collector.ALERTS,
)


def group(grafana: str, runbook: str) -> dict[str, Any]:
    """The alerting rules."""
    return {"name": "responses_gateway.alerts", "rules": [alert.rule(grafana, runbook) for alert in ALERTS]}
