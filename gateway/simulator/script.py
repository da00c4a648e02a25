"""The script of a simulated response: its events in time, and its Response object at any time. Pure.

There is no task behind a simulated response and no state that moves on: whoever asks derives the answer from the plan
and the response's age. So a background response goes on whoever is connected, and a skip of the clock is all it takes
to be later.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

import msgspec

from gateway.domain import sse
from gateway.simulator import content
from gateway.simulator.items import Built, Json, build
from gateway.simulator.plan import Plan

_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream. `age_s` is when it comes; `cursor` is what `starting_after` is held against.

    `data` is the JSON object without a `sequence_number`; `number` is that, None where the scenario has none.
    """

    age_s: float
    cursor: int
    number: int | None
    data: Json

    @property
    def type(self) -> str:
        """The value of `type`, which is also the value of the `event:` line."""
        return str(self.data["type"])

    def message(self, *, replayed: bool = False) -> Json:
        """The JSON object with its number. Replayed, its keys stand in another order, as upstream's do."""
        number = {} if self.number is None else {"sequence_number": self.number}
        if replayed:
            return {**dict(sorted(self.data.items())), **number}
        return {"type": self.type, **number, **self.data}

    def frame(self, *, replayed: bool = False, foreign: bool = False) -> bytes:
        """The event as it goes over the wire; `foreign` without its `event:` line, and with a comment now and then."""
        data = _encode(self.message(replayed=replayed))
        if foreign:
            return (b"" if self.cursor % 10 else b": ping\n\n") + b"data: " + data + b"\n\n"
        return sse.encode(self.type, data)


def events(plan: Plan) -> Iterator[Event]:
    """All the events that a response ever has, in order, whether they have come yet or not.

    For a response that never ends these stop without a terminal event, and may be without end.
    """
    scenario = plan.scenario
    number = -1
    for position, (age_s, data) in enumerate(_timeline(plan)):
        if age_s == inf:
            return
        repeats = scenario.keepalive_repeats and data["type"] == "keepalive"
        number += 0 if repeats else 1
        if scenario.numbers == "ascending":
            yield Event(age_s, number, number, data)
        elif scenario.numbers == "none":
            yield Event(age_s, position, None, data)
        else:
            restarted = position >= scenario.after
            yield Event(age_s, position, position - scenario.after if restarted else position, data)


def _timeline(plan: Plan) -> Iterator[tuple[float, Json]]:
    scenario = plan.scenario
    items = build(plan)
    opening = _opening(plan)
    body = _obfuscated(plan, [event for item in items for event in item.events])
    if plan.multi_agent:
        body = [{**event, "agent": {"agent_name": "/root"}} for event in body]
    if scenario.status == "failed":
        body = body[: max(0, scenario.after - len(opening))]
    yield from opening
    before_silence = max(0, scenario.after - len(opening))
    step_s = scenario.duration_s / (len(body) + 1)
    for position, event in enumerate(body):
        if position == before_silence:
            yield from _keepalives(plan, scenario.queue_s + step_s * position)
        silence_s = scenario.silence_s if position >= before_silence else 0.0
        yield scenario.queue_s + step_s * (position + 1) + silence_s, event
    if plan.end_s < inf:
        yield from ((plan.end_s, event) for event in _ending(plan, items))


def _opening(plan: Plan) -> list[tuple[float, Json]]:
    if not plan.background:
        states = [("created", 0.0, "in_progress"), ("in_progress", 0.0, "in_progress")]
    else:
        states = [
            ("created", 0.0, "queued"),
            ("queued", 0.0, "queued"),
            ("in_progress", plan.scenario.queue_s, "in_progress"),
        ]
    return [(age, {"type": f"response.{name}", "response": _response(plan, status)}) for name, age, status in states]


def _obfuscated(plan: Plan, body: list[Json]) -> list[Json]:
    """Deltas with padding, where upstream adds it: in foreground streams, unless the request says no."""
    options = plan.request.get("stream_options")
    declined = isinstance(options, dict) and options.get("include_obfuscation") is False
    if plan.background or declined:
        return body
    return [
        {**event, "obfuscation": content.obfuscation(plan.id, place)} if event["type"].endswith(".delta") else event
        for place, event in enumerate(body)
    ]


def _keepalives(plan: Plan, from_s: float) -> Iterator[tuple[float, Json]]:
    scenario = plan.scenario
    at_s = scenario.keepalive_s
    while 0 < at_s < scenario.silence_s:
        yield from_s + at_s, {"type": "keepalive"}
        at_s += scenario.keepalive_s


def _ending(plan: Plan, items: list[Built]) -> Iterator[Json]:
    scenario = plan.scenario
    failure = scenario.failure
    if failure is not None and failure.event != "none":
        error: Json = {"code": failure.code, "message": failure.message, "param": None}
        if failure.event == "nested":
            headers = {"headers": dict(failure.headers)} if failure.headers else {}
            error = {"error": {"type": failure.code, **error, **headers}}
        yield {"type": "error", **error}
    yield {
        "type": scenario.terminal or f"response.{scenario.status}",
        "response": _response(plan, scenario.status, items if scenario.status != "failed" else None),
    }


def response_at(plan: Plan, age_s: float, cancelled_s: float | None = None) -> Json:
    """The Response object as a GET at this age shows it."""
    status = plan.status_at(age_s, cancelled_s)
    if status == "cancelled":
        return {**_response(plan, status), "output": _begun(plan, cancelled_s or 0.0)}
    return _response(plan, status, build(plan) if status in ("completed", "incomplete") else None)


def _begun(plan: Plan, until_s: float) -> list[Json]:
    """The output as far as it had come at an age: finished items, and begun ones with the text they had."""
    items: dict[int, Json] = {}
    for event in events(plan):
        if event.age_s > until_s:
            break
        data = event.data
        if event.type in ("response.output_item.added", "response.output_item.done"):
            items[data["output_index"]] = data["item"]
        elif event.type == "response.content_part.added":
            items[data["output_index"]]["content"].append(data["part"])
        elif event.type == "response.output_text.delta":
            items[data["output_index"]]["content"][0]["text"] += data["delta"]
    return list(items.values())


def _response(plan: Plan, status: str, items: list[Built] | None = None) -> Json:
    """The whole Response object in the order of the wire, `items` being its output once it has one."""
    request = plan.request
    completed = status == "completed"
    failure = plan.scenario.failure if status == "failed" else None
    reasoning = request.get("reasoning")
    text = request.get("text")
    conversation = request.get("conversation")
    return {
        "id": plan.id,
        "object": "response",
        "created_at": int(plan.created),
        "status": status,
        "background": plan.background,
        **({"billing": {"payer": "developer"}} if completed else {}),
        "completed_at": int(plan.created + plan.end_s / plan.speed) if completed else None,
        **({"conversation": _identified(conversation)} if conversation else {}),
        "error": {"code": failure.code, "message": failure.message} if failure else None,
        "frequency_penalty": 0.0,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        **_echoed(request, {"instructions": None, "max_output_tokens": None, "max_tool_calls": None}),
        "model": model_snapshot(str(request.get("model") or "gpt-5.2")),
        "output": [built.item for built in items or ()],
        "parallel_tool_calls": request.get("parallel_tool_calls") is not False,
        "presence_penalty": 0.0,
        **_echoed(request, {"previous_response_id": None, "prompt_cache_key": None, "prompt_cache_retention": None}),
        "reasoning": {"effort": "medium", "summary": None, **(reasoning if isinstance(reasoning, dict) else {})},
        "safety_identifier": request.get("safety_identifier"),
        "service_tier": "auto" if status in ("queued", "in_progress") else "default",
        "store": plan.stored,
        "temperature": request.get("temperature", 1.0),
        "text": {"format": {"type": "text"}, "verbosity": "medium", **(text if isinstance(text, dict) else {})},
        **_echoed(request, {"tool_choice": "auto", "tools": [], "top_logprobs": 0, "top_p": 1.0}),
        "truncation": request.get("truncation", "disabled"),
        "usage": None if items is None else usage(content.token_count(request.get("input")), items),
        "user": request.get("user"),
        "metadata": request.get("metadata") or {},
    }


def _identified(value: Any) -> Json:
    return value if isinstance(value, dict) else {"id": value}


def _echoed(request: Json, defaults: Json) -> Json:
    return {name: default if request.get(name) is None else request[name] for name, default in defaults.items()}


def usage(input_tokens: int, items: list[Built]) -> Json:
    """The token counts of some items; those of reasoning are told apart and are part of the output's."""
    output = sum(built.tokens for built in items)
    reasoning = sum(built.tokens for built in items if built.item["type"] == "reasoning")
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": input_tokens + output,
    }


def model_snapshot(model: str) -> str:
    """The dated model behind an alias: `gpt-5.2` is served as `gpt-5.2-2026-08-07`; a dated name stays."""
    return model if _DATED.search(model) else f"{model}-2026-08-07"
