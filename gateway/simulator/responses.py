"""The handlers of `/responses`. Rules and messages are those of the facts known about upstream."""

import hashlib
from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway.simulator import content
from gateway.simulator.answers import ApiError, json_answer, not_found, refused
from gateway.simulator.items import Json, item_id
from gateway.simulator.requests import json_body, page_of
from gateway.simulator.scenarios import Ask, Scenario, choose
from gateway.simulator.script import response_at, usage
from gateway.simulator.streaming import attached, break_connection, send_events
from gateway.simulator.world import OWNER, STREAM_WINDOW_S, WORLD, Interrupted, Record, World

BETA = "responses_multi_agent=v1"
FINAL = frozenset({"completed", "failed", "incomplete", "cancelled"})


def _found(request: web.Request) -> Record:
    response_id = request.match_info["response_id"]
    record = request.app[WORLD].find(response_id, request[OWNER])
    if record is None:
        raise not_found(response_id)
    if record.plan.multi_agent:
        _check_beta(request)
    return record


def _check_beta(request: web.Request) -> None:
    """Raise ApiError 400 unless a request is one of the multi-agent beta, which a response of it needs for ever."""
    if BETA not in request.headers.get("OpenAI-Beta", "") or request.query.get("beta") != "true":
        message = f"Unknown parameter: 'multi_agent'. It needs beta=true and the header OpenAI-Beta: {BETA}."
        raise ApiError(400, message, param="multi_agent", code="unknown_parameter")


def _shown(world: World, record: Record) -> Json:
    return response_at(record.plan, world.age(record), record.cancelled_s)


async def create(request: web.Request) -> web.StreamResponse:
    """POST /responses, in its four modes."""
    world = request.app[WORLD]
    body = await json_body(request)
    scenario = chosen(world, body)
    series = f"{request[OWNER]}:{hashlib.sha256(await request.read()).hexdigest()}"
    if scenario.refusal is not None and world.refuses(scenario.refusal, "create", series):
        return refused(scenario.refusal)
    check(world, request[OWNER], body)
    if body.get("background") is True and body.get("stream") is True and not scenario.streams_background:
        raise ApiError(400, "Background responses cannot be streamed.", param="stream")
    _check_window(body)
    if body.get("multi_agent") is not None:
        _check_beta(request)
    record = world.create(body, scenario, request[OWNER])
    try:
        return await _answer(world, record, request)
    except Interrupted as interrupted:
        await break_connection(request, interrupted.how)
        return web.Response()


def chosen(world: World, body: Json) -> Scenario:
    """The scenario of a create body. Raises ApiError 400 if there is no such one."""
    try:
        return choose(body, world.default_scenario)
    except ValueError as error:
        raise ApiError(400, str(error), param="metadata", code="invalid_value") from None


def check(world: World, owner: str, body: Json) -> None:
    """Raise ApiError 400 for a create body that lacks what it needs or names a response that this owner has not."""
    for name in ("model", "input"):
        if body.get(name) is None and body.get("prompt") is None and body.get("conversation") is None:
            message = f"Missing required parameter: '{name}'."
            raise ApiError(400, message, param=name, code="missing_required_parameter")
    previous = body.get("previous_response_id")
    if previous is not None:
        if body.get("conversation") is not None:
            raise ApiError(
                400, "Mutually exclusive parameters: 'previous_response_id' and 'conversation'.",
                param="previous_response_id", code="mutually_exclusive_parameters",
            )  # fmt: skip
        if world.find(str(previous), owner) is None:
            raise ApiError(
                400, f"Previous response with id '{previous}' not found.",
                param="previous_response_id", code="previous_response_not_found",
            )  # fmt: skip


def _check_window(body: Json) -> None:
    """Raise ApiError 400 for a completion window where there cannot be one. Its length is the scenario's to keep."""
    options = body.get("background_options")
    window = options.get("completion_window") if isinstance(options, dict) else None
    if window not in (None, "soonest", "2h", "8h"):
        raise ApiError(400, f"Invalid value: {window!r}.", param="background_options.completion_window")
    if window in ("2h", "8h") and (body.get("background") is not True or body.get("stream") is True):
        message = f"The completion window {window!r} requires background=true and stream=false."
        raise ApiError(400, message, param="background_options.completion_window")


async def _answer(world: World, record: Record, request: web.Request) -> web.StreamResponse:
    plan = record.plan
    scenario = plan.scenario
    if scenario.vanishes or scenario.answer_after_s:
        with attached(record, request) as connection:
            if scenario.vanishes:
                raise Interrupted("reset")
            await world.wait(record, scenario.answer_after_s, connection)
    as_stream = {"asked": plan.streamed, "json": False, "sse": True}[scenario.answers_as]
    if as_stream:
        return await send_events(world, record, request)
    if not plan.background:
        with attached(record, request) as connection:
            await world.wait(record, plan.end_s, connection)
    return json_answer(_shown(world, record), status=scenario.create_status)


async def retrieve(request: web.Request) -> web.StreamResponse:
    """GET /responses/{id}: the response as it is, or with `stream=true` its events."""
    world = request.app[WORLD]
    record = _found(request)
    query = request.query
    included = [*query.getall("include[]", []), *query.getall("include", [])]
    if "reasoning.encrypted_content" in included:
        raise ApiError(400, "Encrypted content cannot be requested for persisted responses.", param="include")
    streams = query.get("stream", "").lower() in ("true", "1")
    refusal = record.plan.scenario.refusal
    ask: Ask = "attach" if streams else "poll"
    if refusal is not None and world.refuses(refusal, ask, f"{ask}:{record.plan.id}"):
        return refused(refusal)
    if not streams:
        return json_answer(_shown(world, record))
    after = _cursor(query.get("starting_after"))
    _check_streamable(world, record)
    if record.plan.scenario.answers_as == "json":
        return json_answer(_shown(world, record))
    return await send_events(world, record, request, after=after, replayed=True)


def _cursor(text: str | None) -> int:
    """`starting_after` as the cursor to begin after; -1 where there is none. 0 is one."""
    if text is None:
        return -1
    if not text.isdecimal():
        raise ApiError(
            400, f"Invalid 'starting_after': expected a non-negative integer, but got {text!r}.",
            param="starting_after", code="invalid_type",
        )  # fmt: skip
    return int(text)


def _check_streamable(world: World, record: Record) -> None:
    plan = record.plan
    reasons = (
        (not plan.background, "cannot be streamed because it was not created with background=true."),
        (not plan.streamed, "cannot be streamed because it was not created with stream=true."),
        (
            not plan.scenario.resumable or world.age(record) > STREAM_WINDOW_S,
            "can no longer be streamed because it is more than 5 minutes old",
        ),
    )
    for applies, reason in reasons:
        if applies:
            raise ApiError(400, f"This response {reason}", param="stream", code="invalid_request_error")


async def cancel(request: web.Request) -> web.StreamResponse:
    """POST /responses/{id}/cancel: idempotent; what has ended is shown, or refused if it was streamed."""
    world = request.app[WORLD]
    record = _found(request)
    plan = record.plan
    if not plan.background:
        raise ApiError(400, "Cannot cancel a synchronous response.")
    status = world.status(record)
    if status in FINAL - {"cancelled"} and plan.streamed:
        raise ApiError(400, f"Cannot cancel a {status} response.")
    if status not in FINAL:
        record.cancelled_s = world.age(record)
        record.wake()
    return json_answer(_shown(world, record))


async def delete(request: web.Request) -> web.StreamResponse:
    """DELETE /responses/{id}."""
    record = _found(request)
    request.app[WORLD].forget(record.plan.id)
    return json_answer({"id": record.plan.id, "object": "response", "deleted": True})


async def input_items(request: web.Request) -> web.StreamResponse:
    """GET /responses/{id}/input_items, newest first unless `order=asc`, in pages of `limit` after the item `after`."""
    record = _found(request)
    return json_answer(page_of(_input_as_items(record), request.query))


def _input_as_items(record: Record) -> list[Json]:
    given = record.plan.request.get("input")
    entries = given if isinstance(given, list) else [{"role": "user", "content": given}] if given else []
    items = []
    for index, entry in enumerate(entry for entry in entries if isinstance(entry, dict)):
        said = entry.get("content")
        parts = [{"type": "input_text", "text": said}] if isinstance(said, str) else said
        message = {"type": "message", "status": "completed"} if "role" in entry else {}
        content_part = {"content": parts} if parts is not None else {}
        items.append({"id": item_id("msg", f"{record.plan.id}:input", index), **message, **entry, **content_part})
    return items


async def input_tokens(request: web.Request) -> web.StreamResponse:
    """POST /responses/input_tokens."""
    body = await json_body(request)
    count = content.token_count(body.get("input")) + content.token_count(body.get("instructions") or "")
    return json_answer({"object": "response.input_tokens", "input_tokens": count})


async def compact(request: web.Request) -> web.StreamResponse:
    """POST /responses/compact: the user's messages, and one item that stands for the rest."""
    world = request.app[WORLD]
    body = await json_body(request)
    if not body.get("model"):
        raise ApiError(400, "Missing required parameter: 'model'.", param="model", code="missing_required_parameter")
    record = world.create(body, choose({}), request[OWNER])
    world.forget(record.plan.id)
    messages = [item for item in _input_as_items(record) if item.get("role") == "user"]
    sealed = hashlib.sha256(record.plan.id.encode()).hexdigest()
    compaction = {"id": item_id("cmp", record.plan.id, 0), "type": "compaction", "encrypted_content": sealed}
    return json_answer(
        {
            "id": record.plan.id,
            "object": "response.compaction",
            "created_at": int(record.plan.created),
            "output": [*messages, compaction],
            "usage": usage(content.token_count(body.get("input")), []),
        }
    )


ROUTES: dict[tuple[str, str], Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
    ("POST", "/responses"): create,
    ("POST", "/responses/input_tokens"): input_tokens,
    ("POST", "/responses/compact"): compact,
    ("GET", "/responses/{response_id}"): retrieve,
    ("DELETE", "/responses/{response_id}"): delete,
    ("POST", "/responses/{response_id}/cancel"): cancel,
    ("GET", "/responses/{response_id}/input_items"): input_items,
}
