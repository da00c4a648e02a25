"""Dashboards and alerts on a real Prometheus that scrapes gateways at work: every question gets an answer."""

import asyncio
import math
import re
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import redis_server
from monitoring import Pager, Prometheus, alertmanager, needs_prometheus, prometheus
from panels import every_expression, stuck_now
from promql import RECORDED, selectors
from running import PATIENCE_S
from stories import MODEL, ask, fetch, job, live, some, until
from test_alert_rules import RULES
from test_stories_store_failure import Failing
from traffic import everything

import gateway.app
from dashboards import background
from gateway.telemetry.catalogue import METRICS
from gateway.telemetry.receiver import Receiver

Json = dict[str, Any]
IMPATIENT: dict[str, Any] = {"patience_s": 0.3, "patience_polled_s": 0.3, "linger_s": 0.2, "prices": "*=1/0.1/10"}

MAY_BE_EMPTY = {
    'job="otel-collector"': "there is none here: deploy/check_collector asks a real one",
    "otelcol_": "the same",
    "responses_gateway_upstream_expiry_timestamp_seconds": "the simulator forgets nothing by itself",
}
"""By a part of the question: why there may be no answer."""


def address(url: str) -> str:
    return urlsplit(url).netloc


def unasked() -> dict[str, str]:
    """Every question of the dashboards, and every recorded series: by the question where it stands."""
    return {**every_expression("1m", "5m"), **dict.fromkeys(RECORDED, "rules")}


async def unanswered(server: Prometheus, asked: Json) -> dict[str, str]:
    """Those to which there is no number; fails on one that is no question."""
    answers = await asyncio.gather(*(server.query(expression) for expression in asked))
    said = [any(not math.isnan(float(series["value"][1])) for series in answer) for answer in answers]
    return {
        question: where
        for (question, where), number in zip(asked.items(), said, strict=True)
        if not number and not any(part in question for part in MAY_BE_EMPTY)
    }


@needs_prometheus
async def test_every_question_of_dashboards_and_rules_is_answered_for_gateways_at_work(
    parts, simulate, gateway_for, tmp_path, monkeypatch
):
    upstream, collector = await simulate(), Receiver()
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": await collector.start(), "OTEL_BSP_SCHEDULE_DELAY": "100"}
    parts.push_async_callback(collector.close)
    working = await gateway_for(upstream.url, store=f"sqlite:///{tmp_path}/responses.db", environ=environ, **IMPATIENT)
    made: list[Failing] = []
    monkeypatch.setattr(gateway.app, "open_store", lambda settings, clock: made.append(Failing(clock)) or made[-1])
    failing = await gateway_for(upstream.url, **IMPATIENT)
    made[0].down = True
    server = await prometheus(parts, tmp_path, [address(working.ops_url), address(failing.ops_url)])

    # What happened to nobody is left out of a panel; that it has not is an answer.
    asked = {question.removesuffix(" > 0"): where for question, where in unasked().items()}
    until_s = time.monotonic() + 2 * PATIENCE_S
    while asked:  # a rate needs something that happened between two scrapes
        assert time.monotonic() < until_s, f"no answer to {asked}"
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(
                everything(working, upstream), fetch(f"{failing.url}/v1/responses", "POST", body=ask())
            )
        asked = await unanswered(server, asked)

    await unanswered(server, unasked())
    await every_rule_is_evaluated(server)
    await every_metric_is_known(server)
    await a_point_leads_to_a_trace(server, collector)


async def every_rule_is_evaluated(server: Prometheus) -> None:
    """Without an error, warnings included."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            groups = (await server.data("rules"))["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
            if "unknown" not in {rule["health"] for rule in rules}:
                break
            await asyncio.sleep(0.1)
    assert len(rules) == len(RULES)
    assert {rule["name"]: rule["lastError"] for rule in rules if rule.get("lastError")} == {}
    watchdog = next(rule for rule in rules if rule["name"] == "ResponsesGatewayWatchdog")
    assert watchdog["state"] == "firing"


async def every_metric_is_known(server: Prometheus) -> None:
    """What is asked for is a name of a series that was scraped or recorded, what is catalogued is scraped."""
    series = set(await server.data("label/__name__/values"))
    asked = {selector.name for question in unasked() for selector in selectors(question)}
    asked |= {selector.name for rule in RULES for selector in selectors(rule["expr"])}
    assert [name for name in asked - series if not any(part in name for part in MAY_BE_EMPTY)] == []
    described = await server.data("metadata")
    assert {metric.name.removesuffix("_total") for metric in METRICS} <= set(described)


async def a_point_leads_to_a_trace(server: Prometheus, collector: Receiver) -> None:
    """An exemplar of a duration is the trace of a response, which the collector has."""
    now = datetime.now(UTC).timestamp()
    found = await server.data(
        "query_exemplars",
        query="responses_gateway_response_duration_seconds_bucket",
        start=now - 300,
        end=now + 60,
    )
    pointed = {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}
    assert pointed
    assert all(re.fullmatch("[0-9a-f]{32}", trace_id) for trace_id in pointed)
    await until(lambda: pointed <= {span.trace_id for span in collector.spans if span.name.startswith("chat")})


@needs_prometheus
async def test_a_stuck_response_reaches_whoever_is_told_and_can_be_looked_up(parts, simulate, gateway_for, tmp_path):
    upstream, pager = await simulate(), Pager()
    await pager.listen(parts)
    told = {"receiver": "pager", "group_wait": "0s", "group_by": ["alertname"]}
    receivers = [{"name": "pager", "webhook_configs": [{"url": pager.url}]}]
    manager = await alertmanager(parts, tmp_path, {"route": told, "receivers": receivers})
    gateway = await gateway_for(upstream.url, **IMPATIENT)
    instance = address(gateway.ops_url)
    await prometheus(parts, tmp_path, [instance], manager)

    (created,) = await some(await gateway.client().responses.create(**job("stuck")), 1)
    response_id = created["response"]["id"]
    alert = await pager.alert(alertname="ResponsesGatewayResponsesStuck")

    assert alert["labels"] == {
        "alertname": "ResponsesGatewayResponsesStuck",
        "severity": "warning",
        "job": "responses-gateway",
        "instance": instance,
        "reason": "queued",
        "model": MODEL,
    }
    assert alert["annotations"]["summary"] == f"Responses of {MODEL} are stuck at {instance}: queued."
    assert alert["annotations"]["description"].startswith(
        "1 of this model should move and do not, for the reason queued."
    )
    assert alert["annotations"]["runbook_url"] == "dashboards/RUNBOOK.md#responsesgatewayresponsesstuck"
    leads_to = urlsplit(alert["annotations"]["dashboard_url"])
    assert leads_to.path == f"/d/{background.UID}"
    chosen = {"var-job": "responses-gateway", "var-instance": instance, "var-model": MODEL}
    assert dict(parse_qsl(leads_to.query)) == {"viewPanel": "2", **chosen}
    (row,) = await stuck_now(gateway.ops_url)
    assert row["Response"] == response_id
    assert row["Reason"] == "queued"
    assert row["Trace"] == f"{live(gateway, response_id).response.trace.trace_id:032x}"


async def test_the_table_of_stuck_responses_shows_those_of_every_gateway_on_the_store(simulate, gateway_for, tmp_path):
    upstream, store = await simulate(), redis_server.url_for(tmp_path)
    both = [await gateway_for(upstream.url, store=store, **IMPATIENT) for _ in range(2)]
    stuck = {(await one.client().responses.create(**ask("stuck"), background=True)).id for one in both}
    for asked in both:
        async with asyncio.timeout(PATIENCE_S):
            while {row["Response"] for row in await stuck_now(asked.ops_url)} != stuck:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert {row["Reason"] for row in await stuck_now(asked.ops_url)} == {"queued"}
