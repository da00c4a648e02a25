"""The handlers of what is not `/responses`: chat completions, models, files. As much as passing through them needs."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from gateway.simulator import content
from gateway.simulator.answers import ApiError, json_answer
from gateway.simulator.items import Json
from gateway.simulator.requests import json_body
from gateway.simulator.script import model_snapshot
from gateway.simulator.world import WORLD

_CHAT_WORDS = 24
_CHAT_PACE_S = 0.02
_MODELS = ("gpt-5.2", "gpt-5.2-2026-08-07", "gpt-5.2-pro", "o4-mini-deep-research")
_MAX_CONTENT_BYTES = 16 * 1024**3


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """POST /chat/completions: the same words for the same messages; with `stream:true` in chunks, then `[DONE]`."""
    world = request.app[WORLD]
    body = await json_body(request)
    digest = hashlib.sha256(msgspec.json.encode([world.seed, body.get("messages")])).hexdigest()
    pieces = content.words(digest, _CHAT_WORDS)
    prompt_tokens = content.token_count(body.get("messages"))
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": len(pieces),
        "total_tokens": prompt_tokens + len(pieces),
    }
    head: Json = {
        "id": f"chatcmpl-{digest[:29]}",
        "object": "chat.completion",
        "created": int(world.now()),
        "model": model_snapshot(str(body.get("model") or "gpt-5.2")),
    }
    if body.get("stream") is not True:
        message: Json = {"role": "assistant", "content": "".join(pieces), "refusal": None, "annotations": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return json_answer({**head, "choices": [choice], "usage": usage})
    options = body.get("stream_options")
    with_usage = isinstance(options, dict) and options.get("include_usage") is True
    return await _stream_chat(request, head, pieces, usage if with_usage else None, _CHAT_PACE_S / world.speed)


async def _stream_chat(
    request: web.Request, head: Json, pieces: list[str], usage: Json | None, pace_s: float
) -> web.StreamResponse:
    def chunk(delta: Json, finish: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**head, "object": "chat.completion.chunk", "choices": [choice]}

    chunks = [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": piece}) for piece in pieces),
        chunk({}, "stop"),
        *([{**head, "object": "chat.completion.chunk", "choices": [], "usage": usage}] if usage else []),
    ]
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    try:
        await response.prepare(request)
        for one in chunks:
            await response.write(b"data: " + msgspec.json.encode(one) + b"\n\n")
            await asyncio.sleep(pace_s)
        await response.write(b"data: [DONE]\n\n")
    except ConnectionError:
        pass  # the client has gone
    return response


async def models(request: web.Request) -> web.StreamResponse:
    """GET /models."""
    data = [{"id": name, "object": "model", "created": 1786060800, "owned_by": "system"} for name in _MODELS]
    return json_answer({"object": "list", "data": data})


async def upload(request: web.Request) -> web.StreamResponse:
    """POST /files: hashes the request's body, whatever it is, as it comes; `bytes` and `sha256` are of that body."""
    digest, size = hashlib.sha256(), 0
    async for chunk in request.content.iter_chunked(64 * 1024):
        digest.update(chunk)
        size += len(chunk)
    return json_answer(
        {
            "id": f"file-{digest.hexdigest()[:24]}",
            "object": "file",
            "bytes": size,
            "created_at": int(request.app[WORLD].now()),
            "filename": "upload.bin",
            "purpose": "user_data",
            "status": "processed",
            "sha256": digest.hexdigest(),
        }
    )


async def file_content(request: web.Request) -> web.StreamResponse:
    """GET /files/{id}/content?bytes=N: N bytes that depend on the id alone (`content.content_blocks`)."""
    size = request.query.get("bytes", "1024")
    if not size.isdecimal() or int(size) > _MAX_CONTENT_BYTES:
        raise ApiError(400, f"Invalid 'bytes': {size!r}.", param="bytes")
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    response.content_length = int(size)
    try:
        await response.prepare(request)
        for block in content.content_blocks(request.match_info["file_id"], int(size)):
            await response.write(block)
    except ConnectionError:
        pass  # the client has gone
    return response


ROUTES: dict[tuple[str, str], Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
    ("POST", "/chat/completions"): chat_completions,
    ("GET", "/models"): models,
    ("POST", "/files"): upload,
    ("GET", "/files/{file_id}/content"): file_content,
}
