"""The dashboard Gateway runtime: the process, the log, the way to upstream, the telemetry itself."""

from dashboards.layout import Dashboard
from dashboards.links import RESPONSES, traces
from dashboards.panels import GREEN, GREY, ORANGE, RED, Query, colors, lines, named, spread, steps, table
from dashboards.promql import COLLECTOR, RATE, each, per_second, quantile
from gateway.telemetry import names

UID = "responses-gateway-runtime"
SPANS = "Spans"
WAITING = "Spans that wait; telemetry switched off"
REATTACHED = traces("Traces with a re-attach", f'name = "{names.SPAN_REATTACH}" && span.{names.GATEWAY_OUTCOME} != nil')

_GATEWAYS = table(
    "Gateways",
    "Each process: its version, since when it runs, its memory, and the share of its file descriptors that are open.",
    "none",
    Query("max by (job, instance, version, python) (responses_gateway_build_info{@})", instant=True),
    Query("1000 * max by (job, instance) (process_start_time_seconds{@})", instant=True),
    Query("max by (job, instance) (process_resident_memory_bytes{@})", instant=True),
    Query("max by (job, instance) (process_open_fds{@} / process_max_fds{@})", instant=True),
    columns={
        "job": "Job",
        "instance": "Instance",
        "version": "Version",
        "python": "Python",
        "Value #B": "Runs since",
        "Value #C": "Memory",
        "Value #D": "Descriptors",
    },
    share=2,
    sort="Instance",
    overrides=[
        named("Runs since", unit="dateTimeFromNow"),
        named("Memory", unit="bytes"),
        named(
            "Descriptors",
            unit="percentunit",
            thresholds=steps(GREEN, (0.7, ORANGE), (0.9, RED)),
            custom__cellOptions={"type": "color-text"},
        ),
    ],
    empty="No gateway is scraped",
)

_CPU = lines(
    "Processor time",
    "Cores that each process uses. One is all that its event loop can have.",
    "percentunit",
    Query(f"rate(process_cpu_seconds_total{{@}}[{RATE}])", "{{instance}}"),
    thresholds=steps(GREEN, (0.9, ORANGE)),
)

_MEMORY = lines("Memory", "Resident.", "bytes", Query("process_resident_memory_bytes{@}", "{{instance}}"))

_LAG = lines(
    "Event-loop lag",
    "How much later than due the event loop ran something: what every request waits in addition.",
    "s",
    *spread("responses_gateway_event_loop_lag_seconds", by="instance", high=0.99),
    thresholds=steps(GREEN, (0.25, ORANGE)),
)

_OPEN = lines(
    "Held open",
    "Requests that are being answered, readers of streams, file descriptors.",
    "none",
    Query("sum(responses_gateway_http_requests_in_flight{@})", "requests"),
    Query("sum(responses_gateway_stream_followers{@})", "readers"),
    Query("sum(process_open_fds{@})", "file descriptors"),
)

_BYTES = lines(
    "Bytes of requests and answers",
    "Without heads.",
    "Bps",
    Query(per_second("responses_gateway_http_bytes_total{@}", "direction"), "{{direction}}"),
)

_STREAMS = lines(
    "How long streams last",
    "From the request to the end of a streamed answer, median and 95th percentile, by route.",
    "s",
    *spread("responses_gateway_http_stream_lifetime_seconds", by="route"),
)

_SPACE = lines(
    "Room for the store",
    "What the store takes, what its disk has left, and the disk.",
    "bytes",
    Query("sum by (instance) (responses_gateway_store_bytes{@})", "{{instance}} taken"),
    Query("sum by (instance) (responses_gateway_store_free_bytes{@})", "{{instance}} free"),
    Query("sum by (instance) (responses_gateway_store_capacity_bytes{@})", "{{instance}} disk"),
    empty="The store is in memory",
)

_FAILURES = lines(
    "What the store could not do",
    "Failures in each interval, by operation. While it fails, creates go upstream untracked, or are refused.",
    "none",
    Query(each("responses_gateway_store_failures_total{@}", "operation"), "{{operation}}"),
    bars=True,
    decimals=0,
    empty="The store has not failed",
)

_KEPT = lines(
    "Taken up, and deleted",
    "In each interval: live responses that no process held and that were taken up, by how they go on; those that went "
    "to another process; records that were deleted after their retention.",
    "none",
    Query(each("responses_gateway_responses_adopted_total{@}", "how"), "taken up: {{how}}"),
    Query(each("responses_gateway_responses_let_go_total{@}", "how"), "let go: {{how}}"),
    Query(each("responses_gateway_purged_records_total{@}"), "deleted"),
    bars=True,
    decimals=0,
    overrides=colors(deleted=GREY),
)

_SHARED = lines(
    "Processes on one store, and what none holds",
    "Processes that live on the store by its own account: fewer than gateways that are up means that one cannot reach "
    "it. Live responses that no process holds: above 0 for longer than a lease means that nobody takes them up.",
    "none",
    Query("max by (job) (responses_gateway_processes{@})", "processes"),
    Query("max by (job) (responses_gateway_responses_unheld{@})", "held by none"),
    decimals=0,
    overrides=colors(**{"held by none": RED}),
)

_EVENTS = lines(
    "Events",
    "Written to logs, delivered to readers, and of those the ones that were there before their reader came; per "
    "second.",
    "ops",
    Query(per_second("responses_gateway_events_appended_total{@}"), "written"),
    Query(per_second("responses_gateway_events_delivered_total{@}"), "delivered"),
    Query(per_second("responses_gateway_events_replayed_total{@}"), "of those replayed"),
)

_WRITES = lines(
    "Time of an event through the gateway",
    "written: until a batch of events was in the log. delivered: from upstream's bytes to the write to a reader "
    "that keeps up. Median and 99th percentile.",
    "s",
    *spread("responses_gateway_append_duration_seconds", high=0.99, name="written, "),
    *spread("responses_gateway_event_delivery_seconds", high=0.99, name="delivered, "),
)

_BATCHES = lines(
    "Events per write",
    "How many events went to a log at a time: under load batches grow by themselves.",
    "none",
    *spread("responses_gateway_append_batch_events"),
)

_UPSTREAM = lines(
    "Polls of upstream, by outcome",
    "Per second; and whether upstream answered the last request (1) or not (0).",
    "none",
    Query(per_second("responses_gateway_upstream_polls_total{@}", "outcome"), "{{outcome}}"),
    Query("min(responses_gateway_upstream_reachable{@})", "upstream answers"),
    overrides=colors(error=RED, **{"upstream answers": GREEN}),
)

_POLL_TIMES = lines(
    "Polls of upstream: time, and lateness",
    "How long upstream took, 95th percentile, and how much later than due it was asked, 99th percentile: lateness "
    "means that the budget of polls is used up.",
    "s",
    Query(quantile(0.95, "responses_gateway_poll_duration_seconds"), "time"),
    Query(quantile(0.99, "responses_gateway_upstream_poll_lag_seconds"), "lateness"),
)

_CUTS = lines(
    "Upstream's streams that broke off",
    "In each interval: by how they broke, and by what came of going on at the last number.",
    "none",
    Query(each("responses_gateway_upstream_cuts_total{@}", "reason"), "cut: {{reason}}"),
    Query(
        each("responses_gateway_upstream_reattaches_total{@}", "outcome"),
        "re-attach: {{outcome}}",
    ),
    bars=True,
    decimals=0,
    empty="None broke off",
    links=[REATTACHED],
)

_ODD = lines(
    "What cannot be",
    "In each interval: what upstream said that contradicts what it had said, sequence numbers that jumped, and "
    "completion times in the future (its clock, or ours, is wrong).",
    "none",
    Query(each("responses_gateway_contradictions_total{@}", "what"), "{{what}}"),
    Query(each("responses_gateway_sequence_gaps_total{@}"), "jumps"),
    Query(each("responses_gateway_completion_detection_clamped_total{@}"), "from the future"),
    bars=True,
    decimals=0,
    links=[RESPONSES],
)

_SPANS = lines(
    SPANS,
    "Taken by the collector, and lost by gateways, by reason; refused by the collector (memory, a full queue), and "
    "lost there: no room in its queue, or refused by the backend. Per second.",
    "ops",
    Query(per_second("responses_gateway_spans_exported_total{@}"), "taken"),
    Query(per_second("responses_gateway_spans_dropped_total{@}", "reason"), "lost: {{reason}}"),
    *(
        Query(per_second(f"otelcol_{counter}_spans{{{COLLECTOR}}}"), f"collector: {name}")
        for counter, name in (
            ("receiver_refused", "refused"),
            ("exporter_enqueue_failed", "no room"),
            ("exporter_send_failed", "backend refused"),
        )
    ),
    overrides=[*colors(taken=GREEN), *colors(**{"lost: queue_full": RED, "lost: export_failed": ORANGE})],
)

_DUE = lines(
    WAITING,
    "due: generation spans that the collector has not taken yet; they are kept, and sent. in the collector: what waits "
    "in its queue for the backend. Collectors that cannot be scraped. Parts of the telemetry that raised and were "
    "switched off: anything above 0 needs a restart.",
    "none",
    Query("sum(responses_gateway_generation_spans_due{@})", "due"),
    Query(f"sum(otelcol_exporter_queue_size{{{COLLECTOR}}})", "in the collector"),
    Query(f"count(up{{{COLLECTOR}}} == 0)", "collectors down"),
    Query(each("responses_gateway_telemetry_observers_removed_total{@}"), "parts switched off"),
    overrides=colors(**{"parts switched off": RED, "collectors down": ORANGE}),
)

DASHBOARD = Dashboard(
    UID,
    "Responses Gateway / Gateway runtime",
    "The process, the log and its store, the way to upstream, the telemetry itself.",
    (
        ("The process", ((_GATEWAYS, _CPU, _MEMORY), (_LAG, _OPEN, _BYTES))),
        ("Streams and the log", ((_STREAMS, _EVENTS, _WRITES, _BATCHES), (_SPACE, _FAILURES, _KEPT, _SHARED))),
        ("The way to upstream", ((_UPSTREAM, _POLL_TIMES, _CUTS, _ODD),)),
        ("Telemetry", ((_SPANS, _DUE),)),
    ),
)
