"""What is read of bodies, and that one field of an odd shape hides no other."""

import json
from typing import Any

import pytest

from gateway.domain import mode
from gateway.domain.mode import Mode, Parameters
from gateway.domain.response import Usage
from gateway.domain.snapshot import Snapshot, error_of, read_snapshot


def asked(**fields: Any) -> mode.Asked:
    found = mode.read(json.dumps({"model": "gpt-5.2", "stream": True, **fields}).encode())
    assert found is not None
    assert (found.mode, found.model) == (Mode.STREAM, "gpt-5.2")
    return found


def shown(**fields: Any) -> Snapshot:
    found = read_snapshot(json.dumps({"id": "resp_1", "status": "completed", **fields}).encode())
    assert found is not None
    assert found.id == "resp_1"
    return found


def test_how_the_model_is_asked_to_work_is_read_from_the_create() -> None:
    found = asked(
        max_output_tokens=400,
        temperature=1,
        top_p=0.5,
        reasoning={"effort": "high", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "n", "schema": {}}, "verbosity": "low"},
        service_tier="flex",
        prompt={"id": "pmpt_1", "version": "2", "variables": {"city": "Husum"}},
        conversation={"id": "conv_1"},
    )
    assert found.conversation == "conv_1"
    assert found.parameters == Parameters(400, 1.0, 0.5, "high", "json", "flex", "pmpt_1", "2")
    assert asked(text={"format": {"type": "text"}}).parameters == Parameters(output_type="text")


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"max_output_tokens": "many", "temperature": "warm", "top_p": True, "service_tier": 7},
        {"max_output_tokens": 1.5, "temperature": None, "top_p": 10**400},
        {"max_output_tokens": True, "reasoning": "high", "text": [], "prompt": "pmpt_1"},
        {"reasoning": {"effort": {}}, "text": {"format": "json"}, "prompt": {"id": 1, "version": None}},
        {"text": {"format": {"type": "grammar"}}, "service_tier": ""},
    ],
)
def test_a_parameter_of_an_odd_shape_is_upstreams_business(odd: dict[str, Any]) -> None:
    assert asked(**odd).parameters == Parameters()


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({"completion_window": "2h", "continuation_id": "c"}, 7200.0),
        ({"completion_window": "8h"}, 28800.0),
        ({"completion_window": "soonest"}, 0.0),
        ({"completion_window": "next week"}, 0.0),
        ({"completion_window": ["8h"]}, 0.0),
        ({"completion_window": "100h"}, 0.0),
        ({}, 0.0),
        ("8h", 0.0),
        (None, 0.0),
    ],
)
def test_a_completion_window_is_read_where_there_can_be_one(options: Any, seconds: float) -> None:
    assert asked(background_options=options).parameters.completion_window_s == 0.0
    found = mode.read(json.dumps({"background": True, "background_options": options}).encode())
    assert found is not None
    assert found.parameters.completion_window_s == seconds


@pytest.mark.parametrize(
    "words", ["x" * 129, "a word, and another", "Bearer sk-1", "line\nbreak", '{"a":1}', "\x1b[2J"]
)
def test_what_does_not_look_like_a_name_is_not_kept(words: str) -> None:
    said = {"reasoning": {"effort": words}, "service_tier": words, "prompt": {"id": words}, "conversation": words}
    found = mode.read(json.dumps({"model": words, **said}).encode())
    assert found == mode.Asked(Mode.FOREGROUND)
    snapshot = shown(model=words, error={"code": words, "type": words}, incomplete_details={"reason": words})
    assert (snapshot.model, snapshot.error_code, snapshot.incomplete_reason) == (None, None, None)
    assert shown(status=words).unknown_status == "?"
    assert error_of(json.dumps({"error": {"code": words, "message": words}}).encode()) == (None, words)


@pytest.mark.parametrize(
    "name",
    ["gpt-5.2", "ft:gpt-4.1-mini:acme::BxY+7", "meta-llama/Llama-3.1-8B_Instruct", "千问", "resp_0~7", "x" * 128],
)
def test_what_looks_like_a_name_is(name: str) -> None:
    assert asked(service_tier=name).parameters.service_tier == name
    assert shown(model=name).model == name


def test_a_code_may_be_a_number() -> None:
    assert shown(error={"code": 429, "type": "rate_limit"}).error_code == "429"


def test_a_final_object_tells_what_it_took_when_and_what_it_made() -> None:
    found = shown(
        service_tier="default",
        completed_at=1_790_000_000,
        usage={
            "input_tokens": 9,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
            "output_tokens": 8,
            "output_tokens_details": {"reasoning_tokens": 5},
        },
        output=[
            {"type": "reasoning"},
            {"type": "message", "content": []},
            {"type": "function_call"},
            {"type": "message"},
        ],
    )
    assert found.usage == Usage(input=9, cached=4, output=8, reasoning=5, cache_written=3)
    assert (found.service_tier, found.completed_at) == ("default", 1_790_000_000.0)
    assert found.output_types == ("reasoning", "message", "function_call")


def test_what_a_running_response_has_made_so_far_is_not_its_output() -> None:
    assert shown(status="in_progress", output=[{"type": "message"}]).output_types == ()


@pytest.mark.parametrize("output", [None, "text", ["text"], [{"type": 7}], [{}]])
def test_an_output_of_an_odd_shape_hides_nothing_else(output: Any) -> None:
    found = shown(output=output, service_tier=[], completed_at="today", usage={"input_tokens": 1})
    assert (found.output_types, found.service_tier, found.completed_at, found.usage) == ((), None, None, Usage(input=1))


def test_a_record_keeps_few_kinds_of_items() -> None:
    many = shown(output=[{"type": "not a kind"}, *({"type": f"kind_{number}"} for number in range(100))]).output_types
    assert many == tuple(f"kind_{number}" for number in range(16))
