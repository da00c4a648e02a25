"""Recording and alerting rules: promtool accepts them, each alert is seen to fire and not to, each can be looked up."""

import re
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from promql import OF_PROMETHEUS, RECORDED, SCRAPED, labels_of, nodes, selectors
from test_dashboards import LOADED, wrong

from dashboards import levels
from dashboards.__main__ import HERE
from dashboards.uses import read_by
from gateway.telemetry import names

Json = dict[str, Any]
GROUPS: list[Json] = yaml.safe_load((HERE / "rules.yml").read_text(encoding="utf-8"))["groups"]
RULES: list[Json] = [rule for group in GROUPS for rule in group["rules"]]
ALERTING = [rule for rule in RULES if "alert" in rule]
STORIES = sorted((HERE / "rules_test").glob("*.yml"))
RUNBOOK = (HERE / "RUNBOOK.md").read_text(encoding="utf-8")

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool: apt install prometheus")
each_alert = pytest.mark.parametrize(
    "rule", ALERTING, ids=[f"{rule['alert']}{rule['labels'].get('long', '')}" for rule in ALERTING]
)


def promtool(*arguments: str) -> str:
    """What it says; fails where it does."""
    done = subprocess.run(("promtool", *arguments), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@needs_promtool
def test_promtool_finds_no_fault_with_the_rules() -> None:
    assert f"SUCCESS: {len(RULES)} rules found" in promtool("check", "rules", "--lint=all", str(HERE / "rules.yml"))


@needs_promtool
@pytest.mark.parametrize("stories", STORIES, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_not_when_not(stories: Any) -> None:
    promtool("test", "rules", str(stories))


def test_each_alert_is_seen_to_fire_and_not_to_fire() -> None:
    asked = [
        (expectation["expr"], bool(expectation.get("exp_samples")))
        for path in STORIES
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]
        for expectation in test["promql_expr_test"]
    ]
    for name in {rule["alert"] for rule in ALERTING} - {"ResponsesGatewayWatchdog"}:
        assert {fires for expr, fires in asked if f'alertname="{name}"' in expr} == {True, False}, name


def test_what_the_alerts_are_tried_on_could_be_scraped() -> None:
    for path in STORIES:
        for story in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for series in story.get("input_series", []):
                (selector,) = selectors(series["series"])
                assert wrong(selector) is None


@each_alert
def test_an_alert_says_how_bad_it_is_and_where_to_look(rule: Json) -> None:
    assert re.fullmatch(r"ResponsesGateway[A-Z]\w+", rule["alert"])
    assert rule["labels"]["severity"] in ("critical", "warning", "none")
    said = rule["annotations"]
    assert set(said) == {"summary", "description", "dashboard_url", "runbook_url"}
    assert "$value" not in said["summary"], "a summary that changes makes a new notification each time"
    if rule["alert"] != "ResponsesGatewayWatchdog":
        assert {"for", "keep_firing_for"} <= set(rule)


@each_alert
def test_what_an_alert_says_of_its_labels_it_has(rule: Json) -> None:
    grouped = [set(re.findall(r"\w+", by)) for by in re.findall(r"(?<!on )by \(([^)]*)\)", rule["expr"])]
    if rule["expr"] == "vector(1)":
        has = set()
    elif "job:" in rule["expr"] or "absent(" in rule["expr"]:
        has = {"job"}
    else:
        # `a > on (x) group_left b` has the labels of `a`, which are the most.
        has = max(grouped, key=len) - {"le"} if grouped else SCRAPED
    used = {label for text in rule["annotations"].values() for label in re.findall(r"\$labels\.(\w+)", text)}
    assert used <= has


@each_alert
def test_an_alert_leads_to_a_panel_that_shows_what_it_is_about(rule: Json) -> None:
    url = urlsplit(rule["annotations"]["dashboard_url"])
    dashboard = next(one for one in LOADED.values() if url.path == f"/d/{one['uid']}")
    (panel_id,) = parse_qs(url.query)["viewPanel"]
    panel = next(one for one in dashboard["panels"] if one["id"] == int(panel_id))
    about = read_by(rule["expr"]) - {names.UPSTREAM_REACHABLE}
    shown = {metric for target in panel["targets"] for metric in read_by(target.get("expr", names.STUCK))}
    assert panel["type"] != "row"
    assert not about or about & shown or names.UPSTREAM_REACHABLE in shown, panel["title"]


def test_the_runbook_has_a_heading_for_each_alert_and_for_nothing_else() -> None:
    headings = [heading.lower() for heading in re.findall(r"^## (.+)$", RUNBOOK, re.M)]
    wanted = {urlsplit(rule["annotations"]["runbook_url"]).fragment for rule in ALERTING}
    assert sorted(headings) == sorted(wanted)
    assert set(re.findall(r"\]\(#(\w+)\)", RUNBOOK)) <= wanted


def test_a_heading_of_the_runbook_says_what_it_means_how_to_see_which_and_what_to_do() -> None:
    for section in re.split(r"^## ", RUNBOOK, flags=re.M)[1:]:
        name = section.partition("\n")[0]
        assert "**Means**" in section or "**Which, and what to do**" in section, name
        assert "**Do**" in section or "what to do**" in section, name
        assert "**Which" in section or name in ("ResponsesGatewayWatchdog", "ResponsesGatewayMissing"), name


def test_the_panels_that_the_runbook_names_exist() -> None:
    titles = {panel["title"] for dashboard in LOADED.values() for panel in dashboard["panels"]}
    named = {name for name in re.findall(r"\*([A-Z][^*\n]+)\*(?!\*)", re.sub(r"\*\*[^*]+\*\*", "", RUNBOOK))}
    known = {*titles, *(title.partition(":")[0].partition(",")[0].partition(";")[0] for title in titles)}
    assert named - known <= {"Targets", "From the\nfuture", "Ended, not fetched"}


@pytest.mark.parametrize("rule", RULES, ids=[str(n) for n in range(len(RULES))])
def test_every_metric_label_and_value_in_a_rule_exists(rule: Json) -> None:
    assert list(nodes(rule["expr"]))
    for selector in selectors(rule["expr"]):
        if selector.name in OF_PROMETHEUS:
            continue
        assert wrong(selector) is None
        assert labels_of(selector.name) is not None


def test_recorded_series_are_named_by_level_metric_and_operation() -> None:
    for name, expr in RECORDED.items():
        level, metric, operation = name.split(":")
        assert metric.startswith("responses_gateway_")
        assert re.fullmatch(r"ratio_rate\w+", operation)
        assert f"by ({level})" in expr


def test_a_budget_burns_in_a_long_and_in_a_short_window_and_not_by_a_handful_of_events() -> None:
    burning = [rule for rule in ALERTING if "long" in rule["labels"]]
    for name, found in groupby(burning, key=lambda rule: str(rule["alert"])):
        rules = list(found)
        level = next(one for one in levels.LEVELS if one.alert == name)
        assert [(rule["labels"]["long"], rule["labels"]["short"]) for rule in rules] == [
            ("1h", "5m"),
            ("6h", "30m"),
            ("1d", "2h"),
            ("3d", "6h"),
        ]
        for rule in rules:
            assert level.recorded(rule["labels"]["long"]) in rule["expr"]
            assert level.recorded(rule["labels"]["short"]) in rule["expr"]
            assert ">= 5" in rule["expr"]


def test_the_rules_can_be_written_for_other_places(tmp_path: Path) -> None:
    places = (
        "--to",
        str(tmp_path / "here"),
        "--grafana",
        "https://grafana.example/",
        "--runbook",
        "https://wiki.example/r",
    )
    subprocess.run((sys.executable, "-m", "dashboards", *places), cwd=HERE.parent, check=True, capture_output=True)
    written = yaml.safe_load((tmp_path / "here" / "rules.yml").read_text(encoding="utf-8"))
    said = [rule["annotations"] for group in written["groups"] for rule in group["rules"] if "alert" in rule]
    assert len(said) == len(ALERTING)
    assert all(one["dashboard_url"].startswith("https://grafana.example/d/") for one in said)
    assert all(one["runbook_url"].startswith("https://wiki.example/r#") for one in said)
