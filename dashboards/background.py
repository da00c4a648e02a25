"""The dashboard Background responses: which are stuck, how long they take, how clients ask, who lost a line."""

from dashboards.layout import Dashboard, source
from dashboards.links import RESPONSES, TRACE_LINK, traces
from dashboards.panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    YELLOW,
    Column,
    Query,
    colors,
    heatmap,
    json_table,
    lines,
    named,
    spread,
    steps,
    tiles,
)
from dashboards.promql import each, in_all, per_second, quantile
from gateway.telemetry import names

UID = "responses-gateway-background"
STUCK_NOW = "Stuck now"
RESUMED = traces("Traces of resumed responses", f"span.{names.GATEWAY_RESUMES} > 0")
STUCK = traces("Traces of stuck responses", f"span.{names.GATEWAY_STUCK_REASON} != nil")

_ENDED = 'responses_gateway_responses_terminal_total{@, mode=~"background.*"}'
_BACKGROUND = '@, mode=~"background.*"'
_REASONS = colors(
    queued=BLUE,
    no_progress=ORANGE,
    upstream_unreachable=RED,
    waiting_for_owner=GREY,
    lost=PURPLE,
    upstream_expired=YELLOW,
)

_FORGETS = steps(GREY, (-(10**9), RED), (300, ORANGE))

_GLANCE = tiles(
    "At a glance",
    "Responses that should move and do not; age of the oldest one that runs; time until upstream forgets one that it "
    "does not answer for; share of clients' polls that upstream did not see; background responses that ended in the "
    "shown time and that no client has asked for since; continuation tokens that were shown and have not come back.",
    "none",
    Query("sum(responses_gateway_responses_stuck{@@})", "Stuck"),
    Query("time() - min(responses_gateway_oldest_live_created_timestamp_seconds{@})", "Oldest live"),
    Query("min(responses_gateway_upstream_expiry_timestamp_seconds{@}) - time()", "Upstream forgets in"),
    Query('avg(job:responses_gateway_polls_saved:ratio_rate5m{job=~"$job"})', "Polls saved"),
    Query(
        f"clamp_min({in_all(_ENDED)} - {in_all('responses_gateway_completion_pickup_seconds_count{@}')}, 0)",
        "Ended, not fetched",
    ),
    Query("sum(responses_gateway_continuation_tokens_outstanding{@})", "Tokens out"),
    overrides=[
        named("Stuck", thresholds=steps(GREEN, (1, ORANGE))),
        named("Oldest live", unit="dtdurations", thresholds=steps(GREEN, (3600, YELLOW), (28800, ORANGE))),
        named(
            "Upstream forgets in",
            unit="dtdurations",
            thresholds=steps(GREY, (-(10**9), RED), (300, ORANGE)),
        ),
        named("Polls saved", unit="percentunit", decimals=1, thresholds=steps(BLUE)),
        named("Ended, not fetched", decimals=0, thresholds=steps(BLUE)),
        named("Tokens out", thresholds=steps(BLUE)),
    ],
)

_OPEN = {"type": "regex", "options": {"pattern": ".+", "result": {"text": "open", "index": 0}}}

_STUCK_NOW = json_table(
    STUCK_NOW,
    "Each response that should move and does not: for which reason, since when, what upstream's last event was and "
    "when it moved last, upstream's own id of the request (for a support ticket), and its trace. From the "
    "operators' API of the gateway that is chosen under Operators, which knows those of every gateway on its store, "
    "of whatever model; on the command line: `responses-gateway responses list --stuck`.\n\n"
    "Metric: `responses_gateway_responses_stuck` counts them.",
    "/responses",
    {"stuck": "true", "limit": "500"},
    (
        Column("response_id", "Response"),
        Column("model", "Model"),
        Column("stuck.reason", "Reason"),
        Column("stuck.since", "Since", "timestamp_epoch_s"),
        Column("status", "Status"),
        Column("last_event", "Last event"),
        Column("progress_at", "Moved last", "timestamp_epoch_s"),
        Column("upstream_request_id", "Upstream's x-request-id"),
        Column("trace_id", "Trace"),
    ),
    overrides=[
        named("Response", custom__width=430),
        named("Since", unit="dateTimeFromNow", custom__width=120),
        named("Status", custom__width=100),
        named("Moved last", unit="dateTimeFromNow", custom__width=120),
        named("Trace", links=[TRACE_LINK], mappings=[_OPEN], custom__width=70),
    ],
    links=[STUCK],
)

_BY_REASON = lines(
    "Stuck, by reason and model",
    "queued: too long in the queue. no_progress: no event, change of status or new output for its patience. "
    "upstream_unreachable: upstream does not answer for it. waiting_for_owner: the gateway needs a credential that "
    "only its owner can bring. lost: upstream does not know it. upstream_expired: upstream no longer keeps it, and "
    "its end is not known.",
    "none",
    Query("sum by (reason, model) (responses_gateway_responses_stuck{@@}) > 0", "{{reason}} {{model}}"),
    stacked=True,
    overrides=_REASONS,
    empty="None is stuck",
    links=[STUCK],
)

_AGES = lines(
    "Age of the oldest, and of the last progress",
    "By status: how long ago the oldest response that runs was created, and for how long the stillest has not moved.",
    "s",
    Query("time() - min by (status) (responses_gateway_oldest_live_created_timestamp_seconds{@})", "oldest {{status}}"),
    Query(
        "time() - min by (status) (responses_gateway_oldest_live_progress_timestamp_seconds{@})", "stillest {{status}}"
    ),
    empty="None runs",
    links=[RESPONSES],
)

_TURNS = lines(
    "Became stuck, recovered, given up",
    "Responses in each interval; of all models, but for those that became stuck or recovered. recovered: moved again, "
    "or ended. late: the final status came after the tracking "
    "had been given up. cancels: that were asked for, by the status of the answer.",
    "none",
    Query(each("responses_gateway_responses_became_stuck_total{@@}", "reason"), "stuck: {{reason}}"),
    Query(each("responses_gateway_responses_recovered_total{@@}"), "recovered"),
    Query(each(f"responses_gateway_responses_given_up_total{{{_BACKGROUND}}}", "ending"), "{{ending}}"),
    Query(each("responses_gateway_late_terminals_total{@}"), "late"),
    Query(each("responses_gateway_cancels_total{@}", "status_class"), "cancels {{status_class}}"),
    bars=True,
    overrides=colors(recovered=GREEN, cancels=GREY, deleted=GREY),
    decimals=0,
    links=[STUCK],
)

_LIVE = lines(
    "Live, by status and mode",
    "Background responses in the hands of the gateways. none: upstream has not named a status yet.",
    "none",
    Query(f"sum by (status, mode) (responses_gateway_responses_live{{{_BACKGROUND}}})", "{{status}} {{mode}}"),
    stacked=True,
    links=[RESPONSES],
)

_QUEUE = lines(
    "Time in the queue",
    "Create to leaving `queued`: median and 95th percentile, and the 95th percentile of each model. Seen by a stream "
    "it is exact; by polls it is up to one pause of the schedule too long.",
    "s",
    *spread("responses_gateway_response_queue_seconds", "@@", "observed"),
    Query(quantile(0.95, "responses_gateway_response_queue_seconds", "@@", "model"), "{{model}} 95 %"),
    links=[RESPONSES],
)

_FIRST_OUTPUT = lines(
    "Time to the first output",
    "Create to the first output, background responses, median and 95th percentile.",
    "s",
    *spread("responses_gateway_response_time_to_first_output_seconds", _BACKGROUND, "observed"),
    links=[RESPONSES],
)

_LIFETIME = heatmap(
    "How long they live",
    "Create to final status of background responses.",
    "responses_gateway_response_duration_seconds",
    _BACKGROUND,
    links=[RESPONSES],
)

_DETECTION = lines(
    "Ended upstream, known here",
    "From upstream's own time of completion to the gateway's knowing it, 95th percentile; the target is 40 s, the "
    "longest pause between two polls and some.",
    "s",
    Query(quantile(0.95, "responses_gateway_completion_detection_seconds", by="observed"), "by {{observed}}"),
    thresholds=steps(GREEN, (40, RED)),
    links=[RESPONSES],
)

_POLLS = lines(
    "Polls of clients, by what they found",
    "unchanged ones were needless: a stream, or `Prefer: wait`, asks once.",
    "reqps",
    Query(per_second("responses_gateway_client_polls_total{@}", "outcome"), "{{outcome}}"),
    stacked=True,
    overrides=colors(changed=BLUE, unchanged=GREY, terminal=GREEN, error=RED),
    empty="Nobody polls",
)

_SERVED = lines(
    "Who answered them, and what upstream got",
    "store and shared cost upstream nothing. upstream's polls are those for clients and the gateway's own.",
    "reqps",
    Query(per_second("responses_gateway_client_polls_total{@}", "served"), "answered by {{served}}"),
    Query(per_second("responses_gateway_upstream_polls_total{@}"), "upstream got"),
    overrides=[named("upstream got", color={"mode": "fixed", "fixedColor": RED}, custom__lineWidth=2)],
    empty="Nobody polls",
)

_SAVED = lines(
    "Polls saved, polls needless",
    "saved: share of clients' polls that upstream did not see, the gateway's own polls counted against it. "
    "needless: share of them that found nothing new.",
    "percentunit",
    Query('avg(job:responses_gateway_polls_saved:ratio_rate5m{job=~"$job"})', "saved"),
    Query('avg(job:responses_gateway_polls_needless:ratio_rate5m{job=~"$job"})', "needless"),
    overrides=colors(saved=GREEN, needless=ORANGE),
    max=1,
    empty="Nobody polls",
)

_PER_RESPONSE = lines(
    "Polls per response",
    "Over its whole life, median and 95th percentile: by clients, and by the gateway.",
    "none",
    *spread("responses_gateway_polls_per_response", _BACKGROUND, "by"),
)

_PICKUP = lines(
    "Ended, and fetched by a client",
    "From the gateway's knowing the end to the first client's, 95th percentile. Those that nobody fetches are not "
    "in it: they are above, under Ended, not fetched.",
    "s",
    Query(quantile(0.95, "responses_gateway_completion_pickup_seconds", by="by"), "by {{by}}"),
    links=[RESPONSES],
)

_LEFT = lines(
    "Lines lost",
    "Readers that left before the end of their stream, in each interval. client left: the line broke, or it went; "
    "slow: it took nothing for too long. gateway drain: a gateway stopped; error: a fault.",
    "none",
    Query(each("responses_gateway_stream_disconnects_total{@}", "side, reason"), "{{side}}: {{reason}}"),
    bars=True,
    decimals=0,
    links=[RESUMED],
)

_CAME = lines(
    "Came, and came back",
    "Readers in each interval: first, resume at a cursor, replay from the start; by how the cursor was given. refused: "
    "a resume that was not served from its cursor on.",
    "none",
    Query(each("responses_gateway_stream_attaches_total{@}", "kind, form"), "{{kind}}, {{form}}"),
    Query(each("responses_gateway_resumes_refused_total{@}", "reason"), "refused: {{reason}}"),
    bars=True,
    decimals=0,
    links=[RESUMED],
)

_BEHIND = lines(
    "Events to catch up with at a resume",
    "Median and 95th percentile.",
    "none",
    *spread("responses_gateway_resume_events_behind"),
    links=[RESUMED],
)

_TOKENS = lines(
    "Continuation tokens",
    "Shown to clients, and come back as a poll or a resume, by the form of the cursor; in each interval.",
    "none",
    Query(each("responses_gateway_continuation_tokens_issued_total{@}"), "issued"),
    Query(each("responses_gateway_continuation_tokens_redeemed_total{@}", "how, form"), "redeemed: {{how}}, {{form}}"),
    decimals=0,
    links=[RESUMED],
)

DASHBOARD = Dashboard(
    UID,
    "Responses Gateway / Background responses",
    "Which responses are stuck, why, since when, for which model; how long work queues and runs; how clients ask; who "
    "lost a line.",
    (
        ("", ((_GLANCE,), (_STUCK_NOW,), (_BY_REASON, _AGES, _TURNS))),
        ("How long they queue and run", ((_LIVE, _QUEUE, _FIRST_OUTPUT), (_LIFETIME, _DETECTION, _PICKUP))),
        ("How clients ask", ((_POLLS, _SERVED, _SAVED, _PER_RESPONSE),)),
        ("Who lost a line and came back", ((_LEFT, _CAME, _BEHIND, _TOKENS),)),
    ),
    sources=(source("operators", "Operators", "yesoreyeram-infinity-datasource"),),
)
