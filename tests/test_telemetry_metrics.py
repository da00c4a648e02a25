"""Facts in, metrics out: the text that Prometheus scrapes is read back and compared."""

import inspect
import platform
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import TRACE, T, a_life, a_response, ended, one_of_each
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from gateway.domain import facts
from gateway.domain.mode import Mode
from gateway.domain.response import Ending, Status, Stuck, Usage
from gateway.telemetry import catalogue
from gateway.telemetry.metrics import Metrics, table
from gateway.telemetry.observers import Telemetry

MODEL = "gpt-5-2026-01-01"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def counting(*, max_models: int = 5) -> Metrics:
    return Metrics(None, max_models, version="1.2.3")


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = metrics.render("")[1].decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("responses_gateway_")
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((f"responses_gateway_{name}", frozenset(labels.items())))


def total(metrics: Metrics, name: str) -> float:
    return sum(amount for (found, _), amount in samples(metrics).items() if found == f"responses_gateway_{name}")


def test_one_life_is_counted_once_in_everything_that_it_touches() -> None:
    metrics = counting()
    for fact in a_life():
        metrics.observe(fact)

    mode = "background_stream"
    expected = {
        ("responses_created_total", ("mode", mode), ("model", MODEL)): 1,
        (
            "responses_terminal_total",
            ("status", "completed"),
            ("mode", mode),
            ("model", MODEL),
            ("ending", "terminal"),
            ("late", "false"),
        ): 1,
        ("response_duration_seconds_count", ("mode", mode), ("status", "completed")): 1,
        ("response_duration_seconds_sum", ("mode", mode), ("status", "completed")): 10,
        ("response_queue_seconds_sum", ("mode", mode)): 2,
        ("response_time_to_first_output_seconds_sum", ("mode", mode)): 3,
        ("polls_per_response_sum", ("mode", mode), ("by", "client")): 2,
        ("polls_per_response_sum", ("mode", mode), ("by", "gateway")): 1,
        ("client_polls_total", ("outcome", "unchanged"), ("served", "store")): 1,
        ("upstream_polls_total", ("outcome", "unchanged")): 1,
        ("stream_attaches_total", ("kind", "first"), ("form", "none")): 1,
        ("stream_attaches_total", ("kind", "resume"), ("form", "starting_after")): 1,
        ("disconnects_total", ("how", "client")): 1,
        ("events_delivered_total",): 20,
        ("events_replayed_total",): 2,
        ("events_appended_total",): 19,
        ("append_batch_events_count",): 2,
        ("upstream_cuts_total", ("reason", "reset")): 1,
        ("upstream_reattaches_total", ("outcome", "resumed")): 1,
        ("continuation_tokens_issued_total",): 1,
        ("continuation_tokens_redeemed_total", ("how", "resume"), ("form", "starting_after")): 1,
        ("tokens_total", ("kind", "input"), ("model", MODEL)): 100,
        ("tokens_total", ("kind", "cached"), ("model", MODEL)): 40,
        ("tokens_total", ("kind", "output"), ("model", MODEL)): 50,
        ("tokens_total", ("kind", "reasoning"), ("model", MODEL)): 30,
        ("build_info", ("version", "1.2.3"), ("python", platform.python_version())): 1,
    }
    seen = {key: value(metrics, key[0], **dict(key[1:])) for key in expected}  # type: ignore[arg-type]
    assert seen == expected
    assert total(metrics, "responses_live") == 0
    assert total(metrics, "disconnects_total") == 1, "one that read to the end did not disconnect"


@pytest.mark.parametrize("fact", one_of_each(), ids=lambda fact: type(fact).__name__)
def test_every_kind_of_fact_shows_in_the_metrics(fact: facts.Fact) -> None:
    metrics = counting()
    before = samples(metrics)
    metrics.observe(fact)
    assert samples(metrics) != before


def test_no_kind_of_fact_is_missing_here() -> None:
    kinds = {
        kind
        for _, kind in inspect.getmembers(facts, inspect.isclass)
        if issubclass(kind, facts.Fact) and kind not in (facts.Fact, facts.ResponseFact)
    }
    assert kinds == {type(fact) for fact in one_of_each()}


def test_live_responses_move_from_status_to_status() -> None:
    metrics = counting()
    seen = []
    for fact in a_life():
        metrics.observe(fact)
        live = [value(metrics, "responses_live", status=s, mode="background_stream") for s in ("queued", "in_progress")]
        if live not in seen:
            seen.append(live)
    assert seen == [[1, 0], [0, 1], [0, 0]]
    live = [dict(labels)["status"] for name, labels in samples(metrics) if name == "responses_gateway_responses_live"]
    assert set(live) == {"none", "queued", "in_progress"}


def test_a_response_without_a_status_yet_is_live_all_the_same() -> None:
    metrics = counting()
    metrics.observe(facts.Created(T, a_response()))
    assert value(metrics, "responses_live", status="none", mode="background_stream") == 1


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from([*a_life(), *one_of_each()]), st.integers(0, 2)), max_size=40))
def test_no_gauge_is_ever_negative_whatever_is_told_in_whatever_order(told: list[tuple[facts.Fact, int]]) -> None:
    metrics = counting()
    for fact, who in told:
        if isinstance(fact, facts.ResponseFact):
            fact = replace(fact, response=replace(fact.response, key=f"key-{who}"))
        metrics.observe(fact)
    gauges = {key: amount for key, amount in samples(metrics).items() if key[0].endswith(("_live", "_stuck"))}
    assert min(gauges.values()) >= 0
    assert sum(amount for key, amount in gauges.items() if key[0].endswith("_live")) <= 3
    for who in range(3):
        metrics.observe(ended(Status.COMPLETED, key=f"key-{who}"))
    assert total(metrics, "responses_live") == total(metrics, "stuck") == 0


def test_a_stuck_response_that_is_given_up_is_not_stuck_any_more() -> None:
    metrics = counting()
    stuck = a_response(status=Status.QUEUED, stuck=Stuck.QUEUED)
    metrics.observe(facts.Created(T, replace(stuck, stuck=None)))
    metrics.observe(facts.BecameStuck(T + 5, stuck))
    assert value(metrics, "stuck", reason="queued") == 1
    metrics.observe(ended(Status.QUEUED, Ending.ABANDONED))
    assert value(metrics, "stuck", reason="queued") == 0
    assert value(metrics, "became_stuck_total", reason="queued") == 1
    assert value(metrics, "recovered_total", reason="queued") == 0


def test_a_response_taken_up_after_a_restart_is_live_and_stuck_as_its_record_says() -> None:
    metrics = counting()
    metrics.observe(facts.TakenUp(T, a_response(status=Status.IN_PROGRESS, stuck=Stuck.WAITS_FOR_OWNER), "polled"))
    assert value(metrics, "responses_live", status="in_progress", mode="background_stream") == 1
    assert value(metrics, "stuck", reason="waiting_for_owner") == 1


def test_what_ended_while_nobody_ran_is_not_live() -> None:
    metrics = counting()
    metrics.observe(facts.TakenUp(T, ended(Status.IN_PROGRESS, Ending.UPSTREAM_LOST).response, "ended"))
    assert total(metrics, "responses_live") == 0
    assert value(metrics, "taken_up_total", how="ended") == 1


def test_a_late_terminal_counts_its_tokens_and_is_no_second_duration() -> None:
    metrics = counting()
    lost = ended(Status.IN_PROGRESS, Ending.LOST)
    final = replace(lost.response, status=Status.COMPLETED, ending=Ending.TERMINAL, usage=Usage(input=7, output=5))
    metrics.observe(lost)
    metrics.observe(facts.StatusChanged(T + 500, final, Status.IN_PROGRESS, Status.COMPLETED))
    metrics.observe(facts.Ended(T + 500, final, late=True, source="poll"))
    labels = {"mode": "background_stream", "model": MODEL}
    lost_count = value(metrics, "responses_terminal_total", status="in_progress", ending="lost", late="false", **labels)
    late_count = value(
        metrics, "responses_terminal_total", status="completed", ending="terminal", late="true", **labels
    )
    assert (lost_count, late_count) == (1, 1)
    assert value(metrics, "tokens_total", kind="output", model=MODEL) == 5
    assert total(metrics, "response_duration_seconds_count") == 0
    assert value(metrics, "polls_per_response_count", mode="background_stream", by="client") == 1
    assert total(metrics, "responses_live") == 0


def test_only_models_that_upstream_confirmed_are_named_and_only_so_many() -> None:
    metrics = counting(max_models=2)
    for model in (None, "a", "b", "c", "d", "a"):
        metrics.observe(facts.Created(T, a_response(model=model, model_asked="whatever-the-client-wrote")))
    created = {name: value(metrics, "responses_created_total", mode="background_stream", model=name) for name in "abcd"}
    assert created == {"a": 2, "b": 1, "c": None, "d": None}
    assert value(metrics, "responses_created_total", mode="background_stream", model="other") == 2
    assert value(metrics, "responses_created_total", mode="background_stream", model="unknown") == 1
    assert b"whatever" not in metrics.render("")[1]


@pytest.mark.parametrize("name", ["x" * 101, "line\nbreak", "\udcff", "\x1b[31m"])
def test_a_name_that_no_scrape_could_carry_is_other(name: str) -> None:
    metrics = counting()
    metrics.observe(facts.Created(T, a_response(model=name)))
    assert value(metrics, "responses_created_total", mode="background_stream", model="other") == 1


def test_a_thousand_reasons_are_not_a_thousand_series() -> None:
    metrics = counting()
    for number in range(1000):
        metrics.observe(facts.UpstreamCut(T, a_response(), f"reason {number}"))
    cuts = [key for key in samples(metrics) if key[0] == "responses_gateway_upstream_cuts_total"]
    assert len(cuts) == 65
    assert total(metrics, "upstream_cuts_total") == 1000


def test_a_method_that_nobody_knows_is_other() -> None:
    metrics = counting()
    metrics.observe(facts.RequestServed(T, "BREW", "/v1/{rest}", 502, "upstream", 0.01, 0.01))
    labels = {"route": "/v1/{rest}", "status_class": "5xx", "origin": "upstream"}
    assert value(metrics, "requests_total", method="_OTHER", **labels) == 1
    assert value(metrics, "request_seconds_count", route="/v1/{rest}") == 1


def test_sampled_responses_leave_their_trace_id_as_an_exemplar() -> None:
    sampled, unsampled = counting(), counting()
    for fact in a_life():
        sampled.observe(fact)
    for fact in a_life(trace=replace(TRACE, sampled=False, flags=2)):
        unsampled.observe(fact)
    content_type, body = sampled.render(OPENMETRICS)
    with_exemplar = {
        family.name: sample.exemplar.labels
        for family in openmetrics_families(body.decode())
        for sample in family.samples
        if sample.exemplar
    }
    assert content_type.startswith("application/openmetrics-text")
    assert set(with_exemplar) == {
        "responses_gateway_responses_created",
        "responses_gateway_responses_terminal",
        "responses_gateway_response_duration_seconds",
        "responses_gateway_response_queue_seconds",
        "responses_gateway_response_time_to_first_output_seconds",
    }
    assert {tuple(labels.items()) for labels in with_exemplar.values()} == {(("trace_id", f"{TRACE.trace_id:032x}"),)}
    assert b"trace_id" not in unsampled.render(OPENMETRICS)[1]


def test_closed_sets_of_labels_are_there_before_anything_happened() -> None:
    metrics = counting()
    assert value(metrics, "client_polls_total", outcome="error", served="shared") == 0
    assert value(metrics, "stuck", reason="waiting_for_owner") == 0
    assert value(metrics, "response_duration_seconds_bucket", mode="background", status="failed", le="28800.0") == 0
    assert {value(metrics, "responses_live", status="queued", mode=mode) for mode in Mode} == {0}
    assert len(samples(metrics)) < 2000, "a scrape that takes a worker more than about 10 ms"


def test_the_catalogue_is_what_is_scraped_and_what_the_table_shows() -> None:
    metrics = counting()
    for fact in one_of_each():
        metrics.observe(fact)
    text = metrics.render("")[1].decode()
    families = {family.name: family.type for family in text_string_to_metric_families(text)}
    for metric in catalogue.METRICS:
        assert families[metric.name.removesuffix("_total")] == metric.kind
        assert f"| `{metric.name}` | {metric.kind} |" in table()
        assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not [name for name in text.split() if name.endswith("_created")]
    ours = {name for name in families if name.startswith("responses_gateway_")}
    assert len(ours) == len(catalogue.METRICS)


def test_spans_and_removed_observers_are_counted() -> None:
    metrics = counting()

    def broken(fact: facts.Fact) -> None:
        raise RuntimeError

    telemetry = Telemetry([broken, metrics.observe], on_removed=metrics.observer_removed)
    telemetry.emit(a_life())
    metrics.spans_exported(512)
    metrics.spans_dropped("queue_full", 3)
    assert value(metrics, "telemetry_observers_removed_total") == 1
    assert value(metrics, "spans_exported_total") == 512
    assert value(metrics, "spans_dropped_total", reason="queue_full") == 3
    assert value(metrics, "events_delivered_total") == 20


def test_a_clock_that_went_back_makes_no_negative_duration() -> None:
    metrics = counting()
    metrics.observe(facts.FirstOutput(T - 5, a_response()))
    assert value(metrics, "response_time_to_first_output_seconds_sum", mode="background_stream") == 0
