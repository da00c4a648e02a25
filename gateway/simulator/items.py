"""The output items of a simulated response, and the events by which each of them arrives. Pure.

An event here is a JSON object without its `sequence_number`; `script` puts events in time and numbers them. Every call
makes fresh objects.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.simulator import content
from gateway.simulator.plan import Plan

Json = dict[str, Any]

_REASONING_WORDS = 9


@dataclass(frozen=True, slots=True)
class Built:
    """One output item: the events of its arrival, what it is in the end, and the tokens that it took."""

    events: list[Json]
    item: Json
    tokens: int


def build(plan: Plan) -> list[Built]:
    """The items of the whole response, in order."""
    return [_BUILDERS[kind](plan, index) for index, kind in enumerate(_kinds(plan))]


def _kinds(plan: Plan) -> list[str]:
    """The scenario's kinds, with a message for a function call that cannot be: no function, or it has been answered."""
    callable_now = _function(plan.request) is not None and not _has_function_output(plan.request)
    return ["message" if kind == "function_call" and not callable_now else kind for kind in plan.scenario.output]


def _function(request: Mapping[str, Any]) -> Json | None:
    tools = request.get("tools")
    for tool in tools if isinstance(tools, list) else []:
        if isinstance(tool, dict) and tool.get("type") == "function":
            return tool
    return None


def _has_function_output(request: Mapping[str, Any]) -> bool:
    given = request.get("input")
    return isinstance(given, list) and any(
        isinstance(item, dict) and item.get("type") == "function_call_output" for item in given
    )


def item_id(prefix: str, plan_id: str, index: int) -> str:
    """An id like upstream's, the same for the same response and place."""
    return f"{prefix}_{hashlib.sha256(f'{plan_id}:{prefix}:{index}'.encode()).hexdigest()[:48]}"


def _arrival(index: int, first: Json, between: list[Json], last: Json) -> list[Json]:
    place = {"item_id": last["id"], "output_index": index}
    return [
        {"type": "response.output_item.added", "item": first, "output_index": index},
        *({"type": event["type"], **place, **event} for event in between),
        {"type": "response.output_item.done", "item": last, "output_index": index},
    ]


def _reasoning(plan: Plan, index: int) -> Built:
    pieces = content.words(f"{plan.seed}/reasoning", _REASONING_WORDS)
    text = "".join(pieces)
    include = plan.request.get("include")
    encrypted = isinstance(include, list) and "reasoning.encrypted_content" in include
    base: Json = {"id": item_id("rs", plan.id, index), "type": "reasoning"}
    if encrypted:
        base["encrypted_content"] = "gAAAAAB" + hashlib.sha256(plan.id.encode()).hexdigest()
    item = {**base, "summary": [{"type": "summary_text", "text": text}]}
    at = {"summary_index": 0}
    between: list[Json] = [
        {
            "type": "response.reasoning_summary_part.added",
            "part": {"type": "summary_text", "text": ""},
            **at,
        },
        *(
            {"type": "response.reasoning_summary_text.delta", "delta": piece, **at}
            for piece in pieces
        ),
        {"type": "response.reasoning_summary_text.done", "text": text, **at},
        {"type": "response.reasoning_summary_part.done", "part": item["summary"][0], **at},
    ]  # fmt: skip
    return Built(_arrival(index, {**base, "summary": []}, between, item), item, len(pieces))


def _message(plan: Plan, index: int) -> Built:
    pieces = _text_pieces(plan, index)
    text = "".join(pieces)
    status = "incomplete" if plan.scenario.status == "incomplete" else "completed"

    def part(said: str) -> Json:
        return {"type": "output_text", "annotations": [], "logprobs": [], "text": said}

    def message(status: str, parts: list[Json]) -> Json:
        identity = {"id": item_id("msg", plan.id, index), "type": "message"}
        return {**identity, "status": status, "content": parts, "role": "assistant"}

    at = {"content_index": 0}
    between: list[Json] = [
        {"type": "response.content_part.added", "part": part(""), **at},
        *({"type": "response.output_text.delta", "delta": piece, "logprobs": [], **at} for piece in pieces),
        {"type": "response.output_text.done", "logprobs": [], "text": text, **at},
        {"type": "response.content_part.done", "part": part(text), **at},
    ]
    item = message(status, [part(text)])
    return Built(_arrival(index, message("in_progress", []), between, item), item, len(pieces))


def _text_pieces(plan: Plan, index: int) -> list[str]:
    """The answer's deltas: words, or JSON where the request asks for it."""
    text = plan.request.get("text")
    form = text.get("format") if isinstance(text, dict) else None
    form = form if isinstance(form, dict) else {}
    kind = form.get("type")
    if kind in ("json_schema", "json_object"):
        value = content.instance_of(form.get("schema"), plan.seed) if kind == "json_schema" else {"answer": "yes"}
        return content.pieces_of(msgspec.json.encode(value).decode())
    return content.words(f"{plan.seed}/message/{index}", plan.scenario.delta_count)


def _function_call(plan: Plan, index: int) -> Built:
    function = _function(plan.request) or {}
    arguments = msgspec.json.encode(content.instance_of(function.get("parameters"), plan.seed) or {}).decode()
    pieces = content.pieces_of(arguments)

    def call(status: str, arguments: str) -> Json:
        return {
            "id": item_id("fc", plan.id, index),
            "type": "function_call",
            "status": status,
            "arguments": arguments,
            "call_id": item_id("call", plan.id, index)[:29],
            "name": function.get("name"),
        }

    between: list[Json] = [
        *({"type": "response.function_call_arguments.delta", "delta": piece} for piece in pieces),
        {"type": "response.function_call_arguments.done", "arguments": arguments, "name": function.get("name")},
    ]
    item = call("completed", arguments)
    return Built(_arrival(index, call("in_progress", ""), between, item), item, len(pieces))


def _image(plan: Plan, index: int) -> Built:
    def image(status: str, result: str | None) -> Json:
        identity = {"id": item_id("ig", plan.id, index), "type": "image_generation_call"}
        return {**identity, "status": status, "result": result}

    of = "response.image_generation_call"
    between: list[Json] = [
        {"type": f"{of}.in_progress"},
        {"type": f"{of}.generating"},
        {"type": f"{of}.partial_image", "partial_image_b64": "A" * plan.scenario.bytes, "partial_image_index": 0},
        {"type": f"{of}.completed"},
    ]
    item = image("completed", "iVBORw0KGgo=")
    return Built(_arrival(index, image("in_progress", None), between, item), item, 10)


_BUILDERS: Mapping[str, Callable[[Plan, int], Built]] = {
    "reasoning": _reasoning,
    "message": _message,
    "function_call": _function_call,
    "image": _image,
}
