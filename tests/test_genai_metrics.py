"""The second set of metrics: OpenTelemetry's names for the same facts."""

from typing import Any

import pytest
from lives import T, a_life, a_response, ended
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.util.genai import _instruments
from prometheus_client.parser import text_string_to_metric_families
from stories import all_of, fetch, job

from gateway.domain import facts
from gateway.domain.response import Ending, Status, Usage
from gateway.telemetry import genai_metrics, names
from gateway.telemetry.genai_metrics import METRICS, GenAiMetrics, Version
from gateway.telemetry.series import Registry

LABELS = {
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "openai",
    "gen_ai_request_model": "gpt-5",
    "gen_ai_response_model": "gpt-5-2026-01-01",
    "server_address": "api.openai.com",
    "server_port": "443",
}


def told(version: Version, *happened: facts.Fact, max_models: int = 5) -> dict[tuple[str, tuple[Any, ...]], float]:
    """What is shown after these facts; labels sorted, without those that have no value."""
    registry = Registry()
    projection = GenAiMetrics(registry, version, max_models, upstream="https://api.openai.com/v1")
    for fact in happened:
        projection.observe(fact)
    return {
        (sample.name, tuple(sorted((name, label) for name, label in sample.labels.items() if label))): sample.value
        for family in text_string_to_metric_families(registry.render("")[1].decode())
        for sample in family.samples
        if sample.name.startswith("gen_ai_")
    }


def key(name: str, **more: str) -> tuple[str, tuple[Any, ...]]:
    return name, tuple(sorted({**LABELS, **more}.items()))


def test_one_life_by_the_names_of_v1_41() -> None:
    shown = told("v1.41", *a_life())
    assert shown[key("gen_ai_client_operation_duration_seconds_sum")] == 10
    assert shown[key("gen_ai_client_operation_time_to_first_chunk_seconds_sum")] == 3
    assert shown[key("gen_ai_client_token_usage_sum", gen_ai_token_type="input")] == 100
    assert shown[key("gen_ai_client_token_usage_sum", gen_ai_token_type="output")] == 50


def test_one_life_by_the_names_of_the_main_branch() -> None:
    shown = told("main", *a_life())
    assert shown[key("gen_ai_client_inference_duration_seconds_sum")] == 10
    assert shown[key("gen_ai_client_inference_time_to_first_chunk_seconds_sum")] == 3
    assert shown[key("gen_ai_client_inference_operation_input_tokens_sum")] == 100
    assert shown[key("gen_ai_client_inference_operation_output_tokens_sum")] == 50
    used = "gen_ai_client_inference_usage_{}_tokens_total"
    kinds = {"input": 100, "output": 50, "cache_read_input": 40, "cache_write_input": 0, "reasoning_output": 30}
    for kind, amount in kinds.items():
        assert shown[key(used.format(kind), gen_ai_token_modality="unknown")] == amount


def test_names_and_buckets_are_the_conventions() -> None:
    old = {metric.name: metric for metric in METRICS["v1.41"]}
    seconds = (
        gen_ai_metrics.GEN_AI_CLIENT_OPERATION_DURATION,
        gen_ai_metrics.GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK,
    )
    tokens = gen_ai_metrics.GEN_AI_CLIENT_TOKEN_USAGE
    assert old.keys() == {*(f"{name.replace('.', '_')}_seconds" for name in seconds), tokens.replace(".", "_")}
    buckets = {names.TOKEN_USAGE: _instruments._GEN_AI_CLIENT_TOKEN_USAGE_BUCKETS}
    for name, metric in old.items():
        assert list(metric.buckets) == buckets.get(name, _instruments._GEN_AI_CLIENT_OPERATION_DURATION_BUCKETS)
    by_kind = {metric.buckets for metric in METRICS["main"] if metric.kind == "histogram"}
    assert by_kind == {metric.buckets for metric in METRICS["v1.41"]}
    assert all(metric.name.endswith("_total") == (metric.kind == "counter") for metric in METRICS["main"])


@pytest.mark.parametrize(
    ("fact", "error_type"),
    [
        (ended(Status.FAILED, error_code="server_error"), "server_error"),
        (ended(Status.FAILED), "_OTHER"),
        (ended(Status.IN_PROGRESS, Ending.LOST), "lost"),
        (ended(Status.INCOMPLETE), None),
        (ended(Status.CANCELLED), None),
    ],
)
def test_what_went_wrong_is_named_and_what_did_not_has_no_error(fact: facts.Ended, error_type: str | None) -> None:
    shown = told("main", fact)
    more = {} if error_type is None else {"error_type": error_type}
    assert shown[key("gen_ai_client_inference_duration_seconds_count", **more)] == 1


def test_a_late_terminal_counts_its_tokens_and_no_second_duration() -> None:
    lost = ended(Status.IN_PROGRESS, Ending.LOST)
    final = lost.response.but(status=Status.COMPLETED, ending=Ending.TERMINAL, usage=Usage(input=7, output=5))
    shown = told("v1.41", lost, facts.Ended(T + 500, final, late=True, source="poll"))
    durations = [
        value for (name, _), value in shown.items() if name == "gen_ai_client_operation_duration_seconds_count"
    ]
    assert durations == [1]
    assert shown[key("gen_ai_client_token_usage_sum", gen_ai_token_type="output")] == 5


def test_a_response_without_usage_counts_as_zero_tokens() -> None:
    shown = told("main", ended(Status.FAILED, error_code="server_error"))
    assert shown[key("gen_ai_client_inference_usage_input_tokens_total", gen_ai_token_modality="unknown")] == 0
    assert key("gen_ai_client_inference_operation_input_tokens_count") not in shown


def test_first_chunks_are_those_of_streams() -> None:
    polled = a_response(pumped=False)
    assert told("main", facts.FirstOutput(T + 3, polled)) == {}


def test_what_is_asked_for_is_named_when_upstream_has_answered_with_a_model_and_only_so_many_are() -> None:
    refused = a_response(response_id=None, model=None, model_asked="anybody's text")
    shown = told(
        "main",
        facts.Refused(T + 1, refused, 400),
        *(ended(Status.COMPLETED, model=f"m-{number}", model_asked=f"alias-{number}") for number in range(10)),
        max_models=2,
    )
    models = {dict(labels)["gen_ai_request_model"] for _, labels in shown}
    assert models == {"other", "alias-0", "alias-1"}
    assert key("gen_ai_client_inference_duration_seconds_count", gen_ai_request_model="other",
               gen_ai_response_model="other", error_type="400") in shown  # fmt: skip


@pytest.mark.parametrize("version", ["off", "v1.41", "main"])
async def test_they_are_shown_beside_the_gateways_own_where_the_setting_asks_for_them(stage: Any, version: str) -> None:
    upstream, gateway = await stage(genai_metrics=version)
    await all_of(await gateway.client().responses.create(**job()))
    text = (await fetch(f"{gateway.ops_url}/metrics")).body.decode()
    assert "responses_gateway_responses_terminal_total" in text
    for known in genai_metrics.METRICS:
        for metric in genai_metrics.METRICS[known]:
            assert (f"{metric.name.removesuffix('_total')}" in text) == (known == version)
    assert (f'server_port="{upstream.server.port}"' in text) == (version != "off")
