"""The dashboard Overview: is it well, what is asked of it, how responses end, what they cost."""

from dashboards import levels
from dashboards.layout import Dashboard
from dashboards.links import RESPONSES, dashboard_link, traces
from dashboards.panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    YELLOW,
    Json,
    Query,
    colors,
    lines,
    named,
    spread,
    steps,
    table,
    tiles,
)
from dashboards.promql import in_all, per_minute, per_second, quantile
from gateway.telemetry import names

UID = "responses-gateway-overview"
BACKGROUND_UID = "responses-gateway-background"
RUNTIME_UID = "responses-gateway-runtime"
FAILED_TRACES = traces(
    "Traces of failed responses", f'span.{names.GENAI_RESPONSE_STATUS} = "failed" && span.{names.GATEWAY_KEY} != nil'
)

_TERMINAL = "responses_gateway_responses_terminal_total{@@}"
_FAILED = 'responses_gateway_responses_terminal_total{@@, status="failed"}'
_TROUBLE = steps(GREEN, (1, RED))

_ANSWERS = {"type": "value", "options": {"0": {"text": "away", "index": 0}, "1": {"text": "answers", "index": 1}}}

_FIRING = 'job=~"$job", alertname=~"ResponsesGateway.+", alertstate="firing", severity!="none"'

_NOW = tiles(
    "Now",
    "Gateways that Prometheus cannot scrape; alerts that fire; responses that should move and do not; responses that "
    "run; whether upstream answered the last request. A number that is not green has a dashboard behind it: click it.",
    "none",
    Query("count(up{@} == 0) or vector(0)", "Gateways down"),
    Query(f"count(ALERTS{{{_FIRING}}}) or vector(0)", "Alerts firing"),
    Query("sum(responses_gateway_responses_stuck{@@})", "Stuck"),
    Query("sum(responses_gateway_responses_live{@})", "Live"),
    Query("min(responses_gateway_upstream_reachable{@})", "Upstream"),
    overrides=[
        named("Gateways down", thresholds=_TROUBLE, links=[dashboard_link("Gateway runtime", RUNTIME_UID)]),
        named(
            "Alerts firing", thresholds=steps(GREEN, (1, ORANGE)), links=[{"title": "Which", "url": "/alerting/list"}]
        ),
        named("Stuck", thresholds=steps(GREEN, (1, ORANGE)), links=[dashboard_link("Which", BACKGROUND_UID)]),
        named("Live", thresholds=steps(BLUE), links=[dashboard_link("Background responses", BACKGROUND_UID)]),
        named(
            "Upstream",
            thresholds=steps(GREY, (0, RED), (1, GREEN)),
            mappings=[
                {"type": "value", "options": {"0": {"text": "away", "index": 0}, "1": {"text": "answers", "index": 1}}}
            ],
            links=[dashboard_link("Gateway runtime", RUNTIME_UID)],
        ),
    ],
)


def _kept(budget: float) -> Json:
    """Green within the budget, red where it is spent three times too fast."""
    return steps(GREY, (0, RED), (1 - 3 * budget, ORANGE), (1 - budget, GREEN))


_LEVELS = tiles(
    "Service levels, last day",
    "What the gateway promises, of the job that keeps it worst. "
    + " ".join(f"{level.title}: {level.about} (target {level.target:.4g} %)." for level in levels.LEVELS),
    "percentunit",
    *(Query(f'1 - max({level.recorded("1d")}{{job=~"$job"}})', level.title) for level in levels.LEVELS),
    overrides=[named(level.title, decimals=3, thresholds=_kept(level.budget)) for level in levels.LEVELS],
)

_BURN = lines(
    "Error budget burn",
    "How fast each service level's error budget is spent, over the last hour: 1 uses it up exactly in 30 days. From "
    "14.4 on somebody is paged within minutes, from 6 on within an hour.",
    "none",
    *(Query(f'max({level.recorded("1h")}{{job=~"$job"}}) / {level.budget:g}', level.title) for level in levels.LEVELS),
    thresholds=steps(GREEN, (1, YELLOW), (6, ORANGE), (14.4, RED)),
    empty="No traffic",
)

_REQUESTS = lines(
    "Requests, by status",
    "Requests of clients, everything that passes through included.",
    "reqps",
    Query(per_second("responses_gateway_http_requests_total{@}", "status_class"), "{{status_class}}"),
    stacked=True,
    overrides=colors(**{"2xx": GREEN, "3xx": BLUE, "4xx": ORANGE, "5xx": RED}),
    empty="No traffic",
)

_ERRORS = lines(
    "Errors, by who is to blame",
    "client: the request was wrong, or its sender left. gateway and store: ours. upstream: what upstream answered, or "
    "that it did not.",
    "reqps",
    Query(
        per_second('responses_gateway_http_requests_total{@, origin!="none"}', "origin"),
        "{{origin}}",
    ),
    stacked=True,
    overrides=colors(client=GREY, gateway=RED, store=PURPLE, upstream=ORANGE),
    empty="No traffic",
)

_HEADERS = lines(
    "Time until headers, 95th percentile",
    "By route. A create that is not streamed answers when the model is done, so that its time is the model's.",
    "s",
    Query(quantile(0.95, "responses_gateway_http_time_to_headers_seconds", by="route"), "{{route}}"),
    empty="No traffic",
)

_CREATED = lines(
    "Responses created, by model",
    "Responses that upstream accepted, per minute.",
    "cpm",
    Query(per_minute("responses_gateway_responses_created_total{@@}", "model"), "{{model}}"),
    stacked=True,
    links=[RESPONSES],
)

_NOT_CREATED = lines(
    "Creates that were refused, joined or not tracked",
    "Per minute. refused: upstream, or the way to it, said no. joined: sent again, and answered with the response of "
    "the first try. untracked: it went upstream and the gateway does not follow it, because the store is down or the "
    "body is no JSON.",
    "cpm",
    Query(
        per_minute("responses_gateway_creates_refused_total{@}", "status_class"),
        "refused {{status_class}}",
    ),
    Query(per_minute("responses_gateway_duplicate_creates_joined_total{@}", "by"), "joined: {{by}}"),
    Query(per_minute("responses_gateway_creates_untracked_total{@}", "reason"), "untracked: {{reason}}"),
)

_ENDED = lines(
    "How responses end",
    "Final statuses per minute, and responses whose tracking ended without one (deleted ones left out).",
    "cpm",
    Query(per_minute(_TERMINAL, "status"), "{{status}}"),
    Query(
        per_minute('responses_gateway_responses_given_up_total{@, ending!="deleted"}', "ending"),
        "{{ending}}",
    ),
    stacked=True,
    overrides=colors(completed=GREEN, failed=RED, incomplete=ORANGE, cancelled=GREY),
    links=[RESPONSES],
)

_DURATION = lines(
    "Create to final status",
    "Median and 95th percentile, by mode.",
    "s",
    *spread("responses_gateway_response_duration_seconds", by="mode"),
    links=[RESPONSES],
)

_PER_TOKEN = lines(
    "Time per output token",
    "First output to end, by output tokens, of streamed responses: what a reader feels as speed.",
    "s",
    *spread("responses_gateway_response_time_per_output_token_seconds", by="mode"),
    links=[RESPONSES],
)

_WHY_FAILED = table(
    "Why responses failed",
    "Failed responses of the shown time by upstream's error type, who is to blame, and model.",
    "none",
    Query(
        in_all(_FAILED, "error_type, origin, model") + " > 0",
        instant=True,
    ),
    columns={"error_type": "Error", "origin": "To blame", "model": "Model", "Value": "Responses"},
    sort="Responses",
    overrides=[named("Responses", decimals=0)],
    empty="None failed",
    links=[FAILED_TRACES],
)

_TOKENS = lines(
    "Tokens",
    "Per minute, counted once per response. cached is part of input, reasoning part of output: not to be added up.",
    "cpm",
    Query(per_minute("responses_gateway_tokens_total{@@}", "kind"), "{{kind}}"),
    overrides=colors(input=BLUE, cached=GREY, output=GREEN, reasoning=PURPLE),
    links=[RESPONSES],
)

_COST = lines(
    "Cost per hour, by model",
    "What the tokens cost by the setting `prices`, in its currency. Without prices there is nothing to show.",
    "short",
    Query("3600 * " + per_second("responses_gateway_cost_total{@@}", "model"), "{{model}}"),
    stacked=True,
    empty="No prices are set",
    links=[RESPONSES],
)

_BY_MODEL = table(
    "By model, in the shown time",
    "Responses that ended, the share of them that failed, tokens (input and output), and cost where prices are set.",
    "none",
    Query(in_all(_TERMINAL, "model") + " > 0", instant=True),
    Query(f"{in_all(_FAILED, 'model')} / ({in_all(_TERMINAL, 'model')} > 0)", instant=True),
    Query(in_all('responses_gateway_tokens_total{@@, kind=~"input|output"}', "model") + " > 0", instant=True),
    Query(in_all("responses_gateway_cost_total{@@}", "model") + " > 0", instant=True),
    columns={
        "model": "Model",
        "Value #A": "Responses",
        "Value #B": "Failed",
        "Value #C": "Tokens",
        "Value #D": "Cost",
    },
    sort="Responses",
    overrides=[
        named("Responses", decimals=0),
        named("Failed", unit="percentunit", decimals=1),
        named("Tokens", unit="short"),
        named("Cost", unit="short", decimals=2),
    ],
    links=[RESPONSES],
)

DASHBOARD = Dashboard(
    UID,
    "Responses Gateway / Overview",
    "Is the gateway well, what is asked of it, how do responses end, what do they cost.",
    (
        ("", ((_NOW, _LEVELS), (_BURN,))),
        ("Traffic", ((_REQUESTS, _ERRORS, _HEADERS),)),
        ("Responses", ((_CREATED, _NOT_CREATED, _ENDED), (_DURATION, _PER_TOKEN, _WHY_FAILED))),
        ("What they cost", ((_TOKENS, _COST, _BY_MODEL),)),
    ),
)
