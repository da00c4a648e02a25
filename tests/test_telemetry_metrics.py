"""Facts in, metrics out: the text that Prometheus scrapes is read back and compared."""

import inspect
import platform
from typing import Any

import pytest
from lives import TRACE, T, a_life, a_response, ended, one_of_each
from msgspec import structs
from msgspec.structs import replace
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from gateway.config import Price
from gateway.domain import facts
from gateway.domain.mode import Mode
from gateway.domain.response import Ending, Status, Stuck, Usage
from gateway.telemetry import catalogue
from gateway.telemetry.metrics import Metrics, table
from gateway.telemetry.observers import Telemetry

MODEL = "gpt-5-2026-01-01"
FOR_SPANS_ALONE = {facts.Attempted}
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def counting(*, max_models: int = 5) -> Metrics:
    return Metrics(max_models, version="1.2.3")


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

    mode, stream = ("mode", "background_stream"), ("observed", "stream")
    model, fine = ("model", MODEL), (("error_type", "none"), ("origin", "none"))
    expected = {
        ("responses_created_total", mode, model): 1,
        ("responses_terminal_total", ("status", "completed"), mode, model, *fine): 1,
        ("response_duration_seconds_count", mode, ("status", "completed")): 1,
        ("response_duration_seconds_sum", mode, ("status", "completed")): 10,
        ("response_queue_seconds_sum", stream, model): 2,
        ("response_time_to_first_output_seconds_sum", mode, stream): 3,
        ("response_time_per_output_token_seconds_sum", mode): 7 / 50,
        ("completion_detection_seconds_sum", stream): 0.5,
        ("completion_detection_clamped_total",): 0,
        ("polls_per_response_sum", mode, ("by", "client")): 2,
        ("polls_per_response_sum", mode, ("by", "gateway")): 1,
        ("client_polls_total", ("outcome", "unchanged"), ("served", "store")): 1,
        ("upstream_polls_total", ("outcome", "unchanged")): 1,
        ("poll_duration_seconds_sum",): 0.05,
        ("upstream_poll_lag_seconds_count",): 0,
        ("stream_attaches_total", ("kind", "first"), ("form", "none")): 1,
        ("stream_attaches_total", ("kind", "resume"), ("form", "starting_after")): 1,
        ("resume_events_behind_sum",): 2,
        ("stream_disconnects_total", ("side", "client"), ("reason", "left")): 1,
        ("events_delivered_total",): 20,
        ("events_replayed_total",): 2,
        ("events_appended_total",): 19,
        ("append_batch_events_count",): 2,
        ("upstream_cuts_total", ("reason", "reset")): 1,
        ("upstream_reattaches_total", ("outcome", "resumed")): 1,
        ("continuation_tokens_issued_total",): 1,
        ("continuation_tokens_redeemed_total", ("how", "resume"), ("form", "starting_after")): 1,
        ("tokens_total", ("kind", "input"), model): 100,
        ("tokens_total", ("kind", "cached"), model): 40,
        ("tokens_total", ("kind", "output"), model): 50,
        ("tokens_total", ("kind", "reasoning"), model): 30,
        ("build_info", ("version", "1.2.3"), ("python", platform.python_version())): 1,
    }
    seen = {key: value(metrics, key[0], **dict(key[1:])) for key in expected}  # type: ignore[arg-type]
    assert seen == expected
    assert total(metrics, "stream_disconnects_total") == 1, "one that read to the end did not disconnect"


@pytest.mark.parametrize(
    "fact", [fact for fact in one_of_each() if type(fact) not in FOR_SPANS_ALONE], ids=lambda fact: type(fact).__name__
)
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


def surveyed(**changes: Any) -> facts.Surveyed:
    nothing = facts.Surveyed(T, live={}, oldest_created={}, oldest_progress={}, stuck={}, outstanding=0, followers=0)
    return structs.replace(nothing, **changes)


def test_gauges_show_what_the_last_walk_found_and_nothing_of_the_one_before() -> None:
    metrics = counting()
    held = {(Status.QUEUED, Mode.BACKGROUND): 2, (None, Mode.STREAM): 1}
    metrics.observe(surveyed(live=held, stuck={(Stuck.QUEUED, None): 1}, outstanding=2, followers=3))
    assert value(metrics, "responses_live", status="queued", mode="background") == 2
    assert value(metrics, "responses_live", status="none", mode="stream") == 1
    assert value(metrics, "responses_live", status="in_progress", mode="stream") == 0
    assert value(metrics, "responses_stuck", reason="queued", model="unknown") == 1
    assert value(metrics, "continuation_tokens_outstanding") == 2
    assert value(metrics, "stream_followers") == 3

    metrics.observe(surveyed())
    for gauge in ("responses_live", "responses_stuck", "continuation_tokens_outstanding", "stream_followers"):
        assert total(metrics, gauge) == 0
    live = [dict(labels) for name, labels in samples(metrics) if name == "responses_gateway_responses_live"]
    assert {labels["status"] for labels in live} == {"none", "queued", "in_progress"}
    assert {labels["mode"] for labels in live} == set(Mode)
    reasons = [
        dict(labels)["reason"] for name, labels in samples(metrics) if name == "responses_gateway_responses_stuck"
    ]
    assert set(reasons) == set(Stuck)


def test_a_moment_that_nothing_stands_for_has_no_series() -> None:
    metrics = counting()
    moments = ("oldest_live_created", "oldest_live_progress", "upstream_expiry")

    def shown() -> list[str]:
        return sorted(name for name, _ in samples(metrics) if name.endswith("_timestamp_seconds"))

    assert shown() == []
    old = {Status.QUEUED: T - 100, None: T - 1}
    metrics.observe(surveyed(oldest_created=old, oldest_progress=old, expires_at=T + 50))
    assert value(metrics, "oldest_live_created_timestamp_seconds", status="queued") == T - 100
    assert value(metrics, "oldest_live_progress_timestamp_seconds", status="none") == T - 1
    assert value(metrics, "upstream_expiry_timestamp_seconds") == T + 50
    assert len(shown()) == 2 * len(old) + 1 == len(moments) + 2
    metrics.observe(surveyed())
    assert shown() == []


def test_a_store_that_cannot_tell_its_room_shows_none() -> None:
    metrics = counting()
    metrics.observe(facts.StoreMeasured(T, 4096, free_bytes=2**30, capacity_bytes=2**31))
    assert value(metrics, "store_free_bytes") == 2**30
    metrics.observe(facts.StoreMeasured(T, 8192))
    assert value(metrics, "store_bytes") == 8192
    assert value(metrics, "store_free_bytes") is value(metrics, "store_capacity_bytes") is None


def test_a_gauge_that_is_read_shows_what_it_finds_at_the_scrape() -> None:
    metrics = counting()
    seen: list[float | None] = [None, 1.0]
    metrics.read("responses_gateway_upstream_reachable", lambda: seen.pop(0))
    assert value(metrics, "upstream_reachable") is None
    assert value(metrics, "upstream_reachable") == 1


def test_every_end_counts_once_under_what_it_is() -> None:
    metrics = counting()
    metrics.observe(ended(Status.QUEUED, Ending.ABANDONED))
    metrics.observe(ended(Status.IN_PROGRESS, Ending.DELETED))
    metrics.observe(ended(Status.CANCELLED))
    given_up = {
        ending: value(metrics, "responses_given_up_total", ending=ending, mode="background_stream")
        for ending in ("abandoned", "deleted", "lost", "upstream_lost")
    }
    assert given_up == {"abandoned": 1, "deleted": 1, "lost": 0, "upstream_lost": 0}
    assert total(metrics, "responses_terminal_total") == 1
    assert total(metrics, "late_terminals_total") == 0


@pytest.mark.parametrize(
    ("code", "error_type", "origin"),
    [
        ("server_error", "server_error", "upstream"),
        ("rate_limit_exceeded", "rate_limit_exceeded", "upstream"),
        ("vector_store_timeout", "vector_store_timeout", "upstream"),
        ("17", "17", "upstream"),
        (None, "_OTHER", "upstream"),
        ("invalid_prompt", "invalid_prompt", "client"),
        ("image_content_policy_violation", "image_content_policy_violation", "client"),
        ("unsupported_image_media_type", "unsupported_image_media_type", "client"),
        ("insufficient_quota", "insufficient_quota", "client"),
    ],
)
def test_a_failed_response_says_what_failed_and_who_is_to_blame(code: str | None, error_type: str, origin: str) -> None:
    metrics = counting()
    metrics.observe(ended(Status.FAILED, error_code=code))
    labels = {"status": "failed", "mode": "background_stream", "model": MODEL}
    assert value(metrics, "responses_terminal_total", error_type=error_type, origin=origin, **labels) == 1


def test_the_series_of_a_model_begin_at_zero_when_its_name_is_learnt() -> None:
    metrics = counting()
    labels = {"status": "failed", "mode": "stream", "model": MODEL, "error_type": "none", "origin": "none"}
    assert value(metrics, "responses_terminal_total", **labels) is None
    metrics.observe(facts.Created(T, a_response()))
    assert value(metrics, "responses_terminal_total", **labels) == 0
    assert value(metrics, "tokens_total", kind="output", model=MODEL) == 0


def test_a_detection_before_upstreams_own_time_is_zero_and_counted() -> None:
    metrics = counting()
    metrics.observe(ended(Status.COMPLETED, completed_at=T + 11))
    metrics.observe(ended(Status.COMPLETED, completed_at=T + 6))
    assert value(metrics, "completion_detection_seconds_count", observed="poll") == 2
    assert value(metrics, "completion_detection_seconds_sum", observed="poll") == 4
    assert value(metrics, "completion_detection_clamped_total") == 1


def test_what_tokens_cost_is_counted_where_a_price_is_set() -> None:
    metrics = Metrics(5, [("gpt-5-mini*", Price(9, 9, 9)), ("gpt-5*", Price(2, 0.5, 10))])
    used = Usage(input=1_000_000, cached=400_000, output=50_000, reasoning=30_000)
    metrics.observe(ended(Status.COMPLETED, usage=used))
    metrics.observe(ended(Status.COMPLETED, usage=used, model="another"))
    assert value(metrics, "cost_total", model=MODEL) == pytest.approx(0.6 * 2 + 0.4 * 0.5 + 0.05 * 10)
    assert value(metrics, "cost_total", model="another") is None, "what has no price is not free"


def test_the_pace_of_output_is_measured_only_where_it_was_seen() -> None:
    metrics = counting()
    fields = {"first_output_at": T + 2, "usage": Usage(output=16)}
    metrics.observe(ended(Status.COMPLETED, pumped=False, **fields))
    metrics.observe(ended(Status.COMPLETED, pumped=True, first_output_at=T + 2))
    metrics.observe(ended(Status.COMPLETED, pumped=True, first_output_at=T + 2, usage=Usage(output=0)))
    assert total(metrics, "response_time_per_output_token_seconds_count") == 0
    metrics.observe(ended(Status.COMPLETED, pumped=True, **fields))
    assert value(metrics, "response_time_per_output_token_seconds_sum", mode="background_stream") == 0.5


def test_a_late_terminal_counts_its_tokens_and_is_no_second_duration() -> None:
    metrics = counting()
    lost = ended(Status.IN_PROGRESS, Ending.LOST)
    final = lost.response.but(status=Status.COMPLETED, ending=Ending.TERMINAL, usage=Usage(input=7, output=5))
    metrics.observe(lost)
    metrics.observe(facts.StatusChanged(T + 500, final, Status.IN_PROGRESS, Status.COMPLETED))
    metrics.observe(facts.Ended(T + 500, final, late=True, source="poll"))
    labels = {"mode": "background_stream", "model": MODEL, "error_type": "none", "origin": "none"}
    assert value(metrics, "responses_given_up_total", ending="lost", mode="background_stream") == 1
    assert value(metrics, "late_terminals_total", status="completed") == 1
    assert value(metrics, "responses_terminal_total", status="completed", **labels) == 1
    assert value(metrics, "tokens_total", kind="output", model=MODEL) == 5
    assert total(metrics, "response_duration_seconds_count") == 0
    assert value(metrics, "polls_per_response_count", mode="background_stream", by="client") == 1


def test_only_models_that_upstream_confirmed_are_named_and_only_so_many() -> None:
    metrics = counting(max_models=2)
    for model in (None, "a", "b", "c", "d", "a"):
        metrics.observe(facts.Created(T, a_response(model=model, model_asked="whatever-the-client-wrote")))
    created = {name: value(metrics, "responses_created_total", mode="background_stream", model=name) for name in "abcd"}
    assert created == {"a": 2, "b": 1, "c": None, "d": None}
    assert value(metrics, "responses_created_total", mode="background_stream", model="other") == 2
    assert value(metrics, "responses_created_total", mode="background_stream", model="unknown") == 1
    assert b"whatever-the-client-wrote" not in metrics.render("")[1]


def test_what_is_stuck_is_counted_by_model_and_those_beyond_the_limit_together() -> None:
    metrics = counting(max_models=2)
    for model in ("a", "b", "c"):
        metrics.observe(facts.Created(T, a_response(model=model)))
    metrics.observe(surveyed(stuck={(Stuck.QUEUED, model): 3 for model in ("b", "c", "d", None)}))
    stuck = {model: value(metrics, "responses_stuck", reason="queued", model=model) for model in ("a", "b", "other")}
    assert stuck == {"a": 0, "b": 3, "other": 6}
    assert value(metrics, "responses_stuck", reason="queued", model="unknown") == 3
    assert total(metrics, "responses_stuck") == 12


def test_many_models_are_not_too_many_series_for_a_scrape() -> None:
    metrics = counting(max_models=50)
    for number in range(60):
        for fact in a_life(model=f"model-{number}"):
            metrics.observe(fact)
    of_models = [labels for _, labels in samples(metrics) if "model" in dict(labels)]
    assert len({dict(labels)["model"] for labels in of_models}) == 52
    assert len(of_models) < 5000


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


def test_a_request_is_counted_by_method_route_and_who_is_to_blame() -> None:
    metrics = counting()
    metrics.observe(facts.RequestServed(T, "_OTHER", "/v1/{rest}", 502, "upstream", 0.01, 0.01))
    labels = {"route": "/v1/{rest}", "status_class": "5xx", "origin": "upstream"}
    assert value(metrics, "http_requests_total", method="_OTHER", **labels) == 1
    assert value(metrics, "http_time_to_headers_seconds_count", route="/v1/{rest}") == 1


def test_only_a_streamed_answer_has_a_lifetime_and_every_byte_is_counted() -> None:
    metrics = counting()
    one = facts.RequestServed(T, "POST", "/v1/responses", 200, None, 0.01, 90, received_bytes=10, sent_bytes=1000)
    metrics.observe(one)
    metrics.observe(structs.replace(one, streamed=True))
    assert value(metrics, "http_time_to_headers_seconds_count", route="/v1/responses") == 2
    assert value(metrics, "http_stream_lifetime_seconds_sum", route="/v1/responses") == 90
    assert value(metrics, "http_bytes_total", direction="received") == 20
    assert value(metrics, "http_bytes_total", direction="sent") == 2000


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
        "responses_gateway_response_time_per_output_token_seconds",
        "responses_gateway_completion_detection_seconds",
        "responses_gateway_resume_events_behind",
    }
    assert {tuple(labels.items()) for labels in with_exemplar.values()} == {(("trace_id", f"{TRACE.trace_id:032x}"),)}
    assert b"trace_id" not in unsampled.render(OPENMETRICS)[1]


def test_closed_sets_of_labels_are_there_before_anything_happened() -> None:
    metrics = counting()
    assert value(metrics, "client_polls_total", outcome="error", served="shared") == 0
    assert value(metrics, "responses_stuck", reason="waiting_for_owner", model="unknown") == 0
    assert value(metrics, "response_duration_seconds_bucket", mode="background", status="failed", le="28800.0") == 0
    assert {value(metrics, "responses_live", status="queued", mode=mode) for mode in Mode} == {0}


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
        assert bool(metric.buckets) == (metric.kind == "histogram")
    assert not [name for name in text.split() if name.endswith("_created")]
    ours = {name for name in families if name.startswith("responses_gateway_")}
    assert len(ours) == len(catalogue.METRICS)
    assert {"process_cpu_seconds", "python_gc_collections", "python_info"} <= set(families)


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
    labels = {"mode": "background_stream", "observed": "stream"}
    assert value(metrics, "response_time_to_first_output_seconds_count", **labels) == 1
    assert value(metrics, "response_time_to_first_output_seconds_sum", **labels) == 0
