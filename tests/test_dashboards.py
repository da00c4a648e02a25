"""The dashboards: what is committed is what the code writes, Grafana's lint rules, and that what they say is true."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from promql import OF_COLLECTOR, SCRAPED, Selector, labels_of, nodes, selectors, written_out

from dashboards.__main__ import HERE, files
from dashboards.promql import metrics_of
from dashboards.uses import DASHBOARDS, uses
from gateway.telemetry import names
from gateway.telemetry.catalogue import METRICS

Json = dict[str, Any]
LOADED = {name: json.loads((HERE / f"{name}.json").read_text(encoding="utf-8")) for name in DASHBOARDS}
each_dashboard = pytest.mark.parametrize("dashboard", LOADED.values(), ids=LOADED.keys())

UNITS = {
    *("none", "short", "string", "percentunit", "s", "bytes", "Bps", "reqps", "ops", "cpm"),
    *("dtdurations", "dateTimeFromNow", "dateTimeAsIsoNoDateIfToday"),
}
"""Of Grafana's unit ids those that are used."""


def panels(dashboard: Json) -> list[Json]:
    """Without headings."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(panel: Json) -> list[str]:
    return [target["expr"] for target in panel["targets"] if "expr" in target]


def expressions(dashboard: Json) -> Iterator[tuple[str, str]]:
    """Every PromQL of a dashboard, by where it stands."""
    for panel in panels(dashboard):
        for query in queries(panel):
            yield panel["title"], query
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            query = re.fullmatch(r"label_values\((.+), \w+\)", variable["query"]["query"])
            assert query is not None
            yield variable["name"], query[1]


def links(value: Any) -> Iterator[Json]:
    """Every link anywhere in a panel."""
    if isinstance(value, dict):
        if isinstance(value.get("url"), str) and "title" in value:
            yield value
        for inner in value.values():
            yield from links(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from links(inner)


@pytest.mark.parametrize("name", sorted(files()))
def test_what_is_committed_is_what_the_code_writes(name: str) -> None:
    assert (HERE / name).read_text(encoding="utf-8") == files()[name], "run: python -m dashboards"


# The rules of Grafana's dashboard-linter, by their names there. Its exclusions, with their reasons, are in `.lint`.


@each_dashboard
def test_template_datasource_one_variable_names_the_prometheus(dashboard: Json) -> None:
    sources = [one for one in dashboard["templating"]["list"] if one["type"] == "datasource"]
    assert [(one["name"], one["label"]) for one in sources if one["query"] == "prometheus"] == [
        ("datasource", "Data Source")
    ]
    assert {one["query"] for one in sources} <= {"prometheus", "tempo", "yesoreyeram-infinity-datasource"}


@each_dashboard
def test_template_job_instance_model_are_chained_multi_selects_that_reload(dashboard: Json) -> None:
    asked = [one for one in dashboard["templating"]["list"] if one["type"] == "query"]
    assert [(one["name"], one["label"]) for one in asked] == [
        ("job", "Job"),
        ("instance", "Instance"),
        ("model", "Model"),
    ]
    for earlier, one in zip([None, *asked], asked, strict=False):
        assert one["datasource"]["uid"] == "${datasource}"
        assert (one["multi"], one["includeAll"], one["allValue"], one["refresh"]) == (True, True, ".+", 2)
        assert earlier is None or f"${earlier['name']}" in one["query"]["query"]


@each_dashboard
def test_panel_datasource_every_panel_and_target_asks_the_chosen_source(dashboard: Json) -> None:
    for panel in panels(dashboard):
        for asks in (panel, *panel["targets"]):
            assert asks["datasource"]["uid"] in ("${datasource}", "${operators}")


@each_dashboard
def test_panel_title_description_and_units(dashboard: Json) -> None:
    for panel in panels(dashboard):
        assert panel["title"]
        assert panel["description"]
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"] in UNITS, panel["title"]
        assert defaults["noValue"], panel["title"]
        for override in panel["fieldConfig"]["overrides"]:
            for one in override["properties"]:
                assert one["id"] != "unit" or one["value"] in UNITS


@each_dashboard
def test_panel_no_targets(dashboard: Json) -> None:
    for panel in panels(dashboard):
        assert panel["targets"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        assert all(refs)


@each_dashboard
def test_target_promql_parses(dashboard: Json) -> None:
    for _, query in expressions(dashboard):
        assert list(nodes(written_out(query)))


@each_dashboard
def test_target_rate_interval_rates_follow_the_zoom(dashboard: Json) -> None:
    for _, query in expressions(dashboard):
        for function, window in re.findall(r"\b(i?rate|increase|changes)\([^\[]*\[([^\]]+)\]", query):
            assert window in (("$__rate_interval",) if "rate" in function else ("$__rate_interval", "$__range"))


@each_dashboard
def test_target_job_and_instance_every_series_is_one_of_the_chosen_gateways(dashboard: Json) -> None:
    chosen = {"job": ("=~", "$job"), "instance": ("=~", "$instance")}
    for panel in panels(dashboard):
        for query in queries(panel):
            for selector in selectors(query.replace("[$__rate_interval]", "[5m]").replace("[$__range]", "[6h]")):
                matched = {label: (op, value) for label, op, value in selector.matchers}
                of_job = selector.name.startswith("job:") or selector.name == "ALERTS"
                wanted = {"job": chosen["job"]} if of_job else chosen
                if selector.name in OF_COLLECTOR or matched.get("job") == ("=", "otel-collector"):
                    wanted = {"job": ("=", "otel-collector")}  # it is between all of them and the backend
                assert {label: matched.get(label) for label in wanted} == wanted, query


@each_dashboard
def test_target_counter_agg_a_counter_is_shown_by_how_it_grows(dashboard: Json) -> None:
    for _, query in expressions(dashboard):
        for counter in re.findall(r"\w+_total\b", query):
            grown = re.search(rf"(i?rate|increase)\({counter}\{{", query)
            assert grown or query.startswith(f"{counter}{{job"), query  # label_values asks for labels alone


@each_dashboard
def test_uneditable_dashboard(dashboard: Json) -> None:
    assert dashboard["editable"] is False


# And what the linter does not ask


@each_dashboard
def test_a_dashboard_has_a_lasting_address_and_leads_to_its_siblings(dashboard: Json) -> None:
    assert dashboard["uid"] in (
        "responses-gateway-overview",
        "responses-gateway-background",
        "responses-gateway-runtime",
    )
    assert 39 <= dashboard["schemaVersion"] <= 42
    assert "id" not in dashboard
    (siblings,) = dashboard["links"]
    assert siblings["type"] == "dashboards"
    assert siblings["tags"] == dashboard["tags"] == ["responses-gateway"]
    assert siblings["includeVars"]
    assert siblings["keepTime"]


@each_dashboard
def test_a_dashboard_has_at_most_twenty_panels_and_none_lies_on_another(dashboard: Json) -> None:
    assert len(panels(dashboard)) <= 20
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(set(titles)) == len(titles)
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above


@each_dashboard
def test_a_description_ends_with_the_metrics_that_the_panel_shows(dashboard: Json) -> None:
    for panel in panels(dashboard):
        ending = panel["description"].rpartition("\n\nMetric")[2]
        shown = {name for query in queries(panel) for name in metrics_of(query)}
        assert set(re.findall(r"`([\w:]+)`", ending)) == (shown or {names.STUCK}), panel["title"]


@each_dashboard
def test_a_histogram_shows_exemplars_and_nothing_else_is_asked_for_them(dashboard: Json) -> None:
    for panel in panels(dashboard):
        for target in panel["targets"]:
            assert target.get("exemplar", False) == ("_bucket{" in target.get("expr", ""))


def test_panels_of_responses_lead_to_their_traces() -> None:
    of_responses = ("response_", "responses_", "resume", "completion_", "stream_", "continuation_", "tokens_", "cost_")
    for dashboard in LOADED.values():
        for panel in panels(dashboard):
            shown = {name.removeprefix("responses_gateway_") for query in queries(panel) for name in metrics_of(query)}
            about_them = shown and all(name.startswith(of_responses) for name in shown)
            if about_them and panel["type"] in ("timeseries", "heatmap"):
                assert any("/explore?" in link["url"] for link in panel["links"]), panel["title"]


@each_dashboard
def test_a_link_to_traces_is_what_explore_reads(dashboard: Json) -> None:
    found = [link["url"] for panel in panels(dashboard) for link in links(panel) if "/explore?" in link["url"]]
    for url in found:
        panes = json.loads(parse_qs(urlsplit(url).query)["panes"][0])
        (pane,) = panes.values()
        assert pane["datasource"] == "${traces}"
        (query,) = pane["queries"]
        assert query["queryType"] == "traceql"
        attributes = re.findall(r"span\.([\w.]+) (?:=|!=|>)", query["query"])
        assert attributes or query["query"] == "${__value.raw}"
        assert set(attributes) <= {value for value in vars(names).values() if isinstance(value, str)}
        assert any(one.startswith("gateway.") for one in attributes) or not attributes
        # Grafana fills in what is written plainly.
        assert "${traces}" in url
        assert "{" not in re.sub(r"\$\{[\w.]+\}", "", url)
        assert unquote(url) != url


@each_dashboard
def test_a_link_to_a_dashboard_leads_to_one_of_them(dashboard: Json) -> None:
    known = {other["uid"] for other in LOADED.values()}
    for panel in panels(dashboard):
        for link in links(panel):
            if link["url"].startswith("/d/"):
                assert link["url"].removeprefix("/d/").partition("?")[0] in known


def wrong(selector: Selector) -> str | None:
    """What is not true about a selector: a metric, a label or a value that there is not."""
    known = labels_of(selector.name)
    if known is None:
        return f"there is no metric {selector.name}"
    for label, op, value in selector.matchers:
        if label in SCRAPED or label == "le":
            continue
        if label not in known:
            return f"{selector.name} has no label {label}"
        values = known[label]
        if not values or value == ".+" or label == "model":
            continue
        told = [value] if op in ("=", "!=") else value.split("|")
        if not all(any(re.fullmatch(one, there) for there in values) for one in told):
            return f"{selector.name}: {label} is never {value}"
    return None


@each_dashboard
def test_every_metric_label_and_value_in_a_dashboard_exists(dashboard: Json) -> None:
    for where, query in expressions(dashboard):
        for selector in selectors(written_out(query)):
            assert wrong(selector) is None, where


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("rate(responses_gateway_typo_total[5m])", "there is no metric"),
        ('responses_gateway_responses_stuck{mode="background"}', "has no label mode"),
        ('responses_gateway_client_polls_total{outcome="same"}', "is never same"),
        ('responses_gateway_responses_live{mode=~"background.*|batch"}', "is never"),
    ],
)
def test_what_does_not_exist_would_be_noticed(query: str, problem: str) -> None:
    (selector,) = selectors(query)
    assert problem in (wrong(selector) or "")


@each_dashboard
def test_series_are_named_after_labels_that_they_have(dashboard: Json) -> None:
    for panel in panels(dashboard):
        for target in panel["targets"]:
            used = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
            grouped = set(re.findall(r"\w+", ",".join(re.findall(r"by \(([^)]*)\)", target.get("expr", "")))))
            per_process = {"instance"} if "by (" not in target.get("expr", "") else set()
            assert used <= grouped | per_process, panel["title"]


@each_dashboard
def test_a_table_shows_columns_that_its_queries_have(dashboard: Json) -> None:
    for panel in panels(dashboard):
        if panel["type"] != "table" or "transformations" not in panel:
            continue
        (kept,) = [
            one["options"]["include"]["names"] for one in panel["transformations"] if "include" in one["options"]
        ]
        grouped = set(re.findall(r"\w+", ",".join(re.findall(r"by \(([^)]*)\)", " ".join(queries(panel))))))
        several = len(panel["targets"]) > 1
        values = {f"Value #{target['refId']}" for target in panel["targets"]} if several else {"Value"}
        assert set(kept) <= grouped | values


def test_every_metric_of_the_catalogue_has_a_panel_or_an_alert() -> None:
    used = uses()
    assert [metric.name for metric in METRICS if metric.name not in used] == []


def test_the_metrics_that_the_tables_name_are_those_of_the_tree() -> None:
    for dashboard in LOADED.values():
        for _, query in expressions(dashboard):
            read = {re.sub(r"_(bucket|sum|count)$", "", one.name) for one in selectors(written_out(query))}
            assert set(metrics_of(query)) == read
