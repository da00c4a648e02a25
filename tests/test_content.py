"""Prompts and answers on spans: in the convention's form, within a limit, and nowhere unless an operator wants them."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from collecting import Collector
from hypothesis import given
from hypothesis import strategies as st
from lives import ended
from running import Running, Upstream
from spanning import attributes, exported, spans_after
from stories import all_of, ask, job

from gateway.domain import content
from gateway.domain.content import Content
from gateway.domain.response import Status
from gateway.edge.owners import owner_of
from gateway.telemetry import names
from gateway.telemetry.generation import End
from gateway.telemetry.generation import ended as spans_of_end

LIMIT = 16 * 1024
PNG = "data:image/png;base64," + "A" * 50_000
CONVERSATION = [
    {"role": "user", "content": "What is in the picture?"},
    {
        "type": "message",
        "role": "user",
        "content": [
            {"type": "input_text", "text": "this one"},
            {"type": "input_image", "image_url": "https://example.com/a.png"},
            {"type": "input_image", "image_url": PNG},
            {"type": "input_file", "file_id": "file_1"},
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        ],
    },
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
    {"type": "function_call", "call_id": "call_1", "name": "tide", "arguments": '{"place":"Husum"}'},
    {"type": "custom_tool_call", "call_id": "call_2", "name": "free", "input": "as it comes"},
    {"type": "function_call_output", "call_id": "call_1", "output": "high"},
    {"type": "item_reference", "id": "msg_1"},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
]


def asked(**fields: Any) -> Content:
    return content.asked(json.dumps({"model": "gpt-5.2", **fields}).encode(), LIMIT)


def test_a_prompt_is_a_message_of_its_user() -> None:
    assert json.loads(asked(input="What did the tide bring?").input or "") == [
        {"role": "user", "parts": [{"type": "text", "content": "What did the tide bring?"}]}
    ]


def test_a_conversation_is_told_in_the_conventions_parts() -> None:
    found = asked(input=CONVERSATION)
    assert json.loads(found.input or "") == [
        {"role": "user", "parts": [{"type": "text", "content": "What is in the picture?"}]},
        {
            "role": "user",
            "parts": [
                {"type": "text", "content": "this one"},
                {"type": "uri", "mime_type": None, "modality": "image", "uri": "https://example.com/a.png"},
                {"type": "blob", "mime_type": "image/png", "modality": "image", "content": ""},
                {"type": "file", "mime_type": None, "modality": "document", "file_id": "file_1"},
                {"type": "blob", "mime_type": None, "modality": "audio", "content": ""},
            ],
        },
        {"role": "assistant", "parts": [{"type": "reasoning", "content": "hm"}]},
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "call_1", "name": "tide", "arguments": {"place": "Husum"}}],
        },
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "call_2", "name": "free", "arguments": "as it comes"}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call_1", "response": "high"}]},
        {"role": "assistant", "parts": [{"type": "text", "content": "no"}]},
    ]
    assert not found.cut


def test_instructions_and_tools_have_attributes_of_their_own() -> None:
    function = {"type": "function", "name": "tide", "description": "when", "parameters": {"type": "object"}}
    found = asked(instructions="Be brief.", tools=[{**function, "strict": True}, {"type": "web_search"}])
    assert found.input is None
    assert json.loads(found.instructions or "") == [{"type": "text", "content": "Be brief."}]
    assert json.loads(found.tools or "") == [function, {"type": "web_search", "name": "web_search"}]


def test_an_answer_is_what_the_final_object_holds() -> None:
    output = [
        {"type": "reasoning", "summary": []},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "tide"}},
        {"type": "message", "status": "completed", "content": [{"type": "output_text", "text": "Amber."}]},
        {"type": "function_call", "call_id": "call_1", "name": "tide", "arguments": "{", "status": "completed"},
        {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "A" * 50_000},
        {"type": "compaction", "encrypted_content": "..."},
    ]
    told, cut = content.answered(json.dumps({"output": output}).encode(), LIMIT)
    assert json.loads(told or "") == [
        {
            "role": "assistant",
            "parts": [
                {
                    "type": "server_tool_call",
                    "id": "ws_1",
                    "name": "web_search",
                    "server_tool_call": {
                        "type": "web_search",
                        "status": "completed",
                        "action": {"type": "search", "query": "tide"},
                    },
                }
            ],
            "finish_reason": "stop",
        },
        {"role": "assistant", "parts": [{"type": "text", "content": "Amber."}], "finish_reason": "stop"},
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "call_1", "name": "tide", "arguments": "{"}],
            "finish_reason": "tool_call",
        },
        {
            "role": "assistant",
            "parts": [
                {
                    "type": "server_tool_call",
                    "id": "ig_1",
                    "name": "image_generation",
                    "server_tool_call": {"type": "image_generation", "status": "completed"},
                }
            ],
            "finish_reason": "stop",
        },
        {"role": "assistant", "parts": [{"type": "compaction"}], "finish_reason": "stop"},
    ]
    assert not cut


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
items = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "developer"]), "content": st.text(max_size=3000)},
        optional={"type": st.sampled_from(["message", "function_call", "reasoning", "web_search_call"]) | json_values},
    ),
    max_size=40,
)


@given(items=items, limit=st.integers(2, 5000))
def test_what_is_cut_is_still_json_of_the_same_form_and_within_the_limit(items: Any, limit: int) -> None:
    found = content.asked(json.dumps({"input": items}).encode(), limit)
    told = found.input or "[]"
    assert len(told.encode()) <= limit
    messages = json.loads(told)
    assert all(message["role"] and isinstance(message["parts"], list) for message in messages)
    assert all(part["type"] for message in messages for part in message["parts"])
    whole = json.loads(content.asked(json.dumps({"input": items}).encode(), 10**7).input or "[]")
    assert found.cut == (messages != whole)
    assert len(content.shortened(told, max(limit // 2, 2)).encode()) <= max(limit // 2, 2)


@given(odd=st.binary(max_size=60) | json_values.map(lambda value: json.dumps({"input": value}).encode()))
def test_whatever_a_body_holds_capturing_it_raises_nothing(odd: bytes) -> None:
    content.asked(odd, 100)
    content.answered(odd, 100)


def test_the_newest_messages_stay() -> None:
    many = [{"role": "user", "content": f"message {number}"} for number in range(1000)]
    found = content.asked(json.dumps({"input": many}).encode(), 500)
    assert found.cut
    assert json.loads(found.input or "")[-1]["parts"][0]["content"] == "message 999"


def test_a_body_that_would_take_long_to_read_is_not_read() -> None:
    assert asked(input="x" * 2**21) == Content(LIMIT, cut=True)
    assert content.answered(b'{"output":"' + b"x" * 2**21 + b'"}', LIMIT) == (None, True)


async def test_on_the_span_it_has_the_conventions_names_and_is_never_cut_in_the_middle() -> None:
    told = End(
        ended(Status.COMPLETED, content=asked(input="x" * 9000, instructions="Be brief.")).response,
        body=b'{"output":[{"type":"message","content":[{"type":"output_text","text":"Amber."}]}]}',
    )
    names_of = {span.name: span.attributes for span in spans_of_end(told)}["chat gpt-5"]
    assert {name for name in names_of if name in names.CONTENT and names_of[name]} == {
        "gen_ai.input.messages",
        "gen_ai.output.messages",
        "gen_ai.system_instructions",
    }
    fact = ended(Status.COMPLETED, content=asked(input="x" * 9000))
    spans = await spans_after([fact])
    assert len(json.loads(attributes(spans[-1])["gen_ai.input.messages"])[0]["parts"][0]["content"]) == 9000
    shorter = await exported([fact], {"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "200"})
    cut = attributes(shorter["chat gpt-5"])["gen_ai.input.messages"]
    assert len(cut) <= 200
    assert json.loads(cut)[0]["parts"][0]["content"].startswith("xxx")


Simulate = Callable[..., Awaitable[Upstream]]
GatewayFor = Callable[..., Awaitable[Running]]


@pytest.fixture
async def collector(parts: Any) -> Collector:
    collector = Collector()
    parts.push_async_callback(collector.close)
    await collector.open()
    return collector


@pytest.mark.parametrize("how", ["foreground", "stream", "background", "background stream"])
async def test_with_the_setting_on_spans_show_what_was_said(
    simulate: Simulate, gateway_for: GatewayFor, collector: Collector, store: str, how: str
) -> None:
    upstream = await simulate()
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "20"}
    gateway = await gateway_for(upstream.url, store=store, environ=environ, capture_content=True)
    create, asking = gateway.client().responses.create, {**ask(), "instructions": "Be brief."}
    match how:
        case "foreground":
            await create(**asking)
        case "stream":
            await all_of(await create(**asking, stream=True))
        case "background":
            await create(**asking, background=True)
        case _:
            await all_of(await create(**{**job(), "instructions": "Be brief."}))
    span = await collector.span("chat gpt-5.2")
    said = {name: json.loads(span.attributes[name]) for name in names.CONTENT if name in span.attributes}
    assert said["gen_ai.input.messages"][0]["parts"][0]["content"] == "What did the tide bring?"
    assert said["gen_ai.system_instructions"] == [{"type": "text", "content": "Be brief."}]
    assert said["gen_ai.output.messages"][-1]["parts"][0]["type"] == "text"
    assert span.attributes["gateway.content.cut"] is False


async def test_without_it_nothing_of_what_was_said_is_kept_or_shown(
    simulate: Simulate,
    gateway_for: GatewayFor,
    collector: Collector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A variable that is meant for applications, and set for all of a cluster, makes no proxy read along.
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "span_and_event")
    upstream = await simulate()
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "20"}
    gateway = await gateway_for(upstream.url, store=f"sqlite:///{tmp_path}/r.db", environ=environ)
    created = await gateway.client().responses.create(**{**ask(), "instructions": "Whisper."})
    span = await collector.span("chat gpt-5.2")
    assert not names.CONTENT & span.attributes.keys()
    record = await gateway.gateway.context.tracker.find(created.id, _owner(gateway))
    assert record is not None
    assert record.content is None


def _owner(gateway: Running) -> str:
    context = gateway.gateway.context
    return owner_of(context.store.owner_key, context.route.name, [("Authorization", "Bearer sk-test")])
