"""An upstream that says back whatever it is sent, wherever an answer has room for it; and secrets for it to say back.

What it does with a request stands in the request's header `X-Behave`, one of `BEHAVIOURS`.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

from aiohttp import web
from aiohttp.test_utils import TestServer

MARK = "s3cr3t"
"""Is in every secret, and in nothing else."""

HEADERS = {
    "Authorization": f"Bearer sk-{MARK}-authorization",
    "api-key": f"{MARK}-api-key",
    "Cookie": f"session={MARK}-cookie",
    "Proxy-Authorization": f"Basic {MARK}-proxy",
    "X-Request-Id": f"{MARK}-x-request-id",
    "x-gateway-request-id": f"{MARK}-gateway-request-id",
    "Idempotency-Key": f"{MARK}-idempotency-key",
    "User-Agent": f"curl/8.1 ({MARK} user agent)",
    "Prefer": f"wait=1, {MARK}-prefer",
    "Last-Event-ID": f"{MARK}-last-event-id",
    "tracestate": f"vendor={MARK}-tracestate",
    "baggage": f"user={MARK}-baggage",
    "OpenAI-Organization": f"{MARK}-organization",
    "OpenAI-Project": f"{MARK}-project",
    "X-Forwarded-For": f"{MARK}-forwarded",
    "Forwarded": f"for={MARK}-forwarded",
    "Referer": f"https://{MARK}-referer/",
    "Origin": f"https://{MARK}-origin",
    "X-Stainless-Lang": f"{MARK}-stainless",
    f"X-{MARK}": "a name of a header",
}
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
IDS = {"model": "model-asked", "conversation": "conv_shown", "previous_response_id": "resp_previous"}
"""What is no secret: the names by which operators find things."""


def body(**fields: Any) -> dict[str, Any]:
    """A create with a secret in everything that can hold words."""
    return {
        "model": IDS["model"],
        "input": [{"role": "user", "content": f"{MARK} input"}],
        "instructions": f"{MARK} instructions",
        "metadata": {f"{MARK} key": f"{MARK} metadata"},
        "user": f"{MARK}-user",
        "safety_identifier": f"{MARK}-safety-identifier",
        "prompt_cache_key": f"{MARK}-prompt-cache-key",
        "tools": [
            {"type": "mcp", "server_url": f"https://{MARK}.example", "headers": {"Authorization": f"{MARK}-tool"}},
            {"type": "function", "name": f"{MARK}_function", "description": MARK, "parameters": {MARK: MARK}},
        ],
        "prompt": {"id": f"{MARK} prompt", "variables": {MARK: MARK}},
        "service_tier": f"{MARK} tier",
        "reasoning": {"effort": f"{MARK} effort"},
        "text": {"format": {"type": "json_schema", "name": MARK, "schema": {MARK: MARK}}},
        f"{MARK}_field": f"{MARK} of a field",
        **fields,
    }


Behave = Callable[["Parrot", web.Request, str], Awaitable[web.StreamResponse]]


class Parrot:
    """The upstream. `url` ends in a base path."""

    def __init__(self) -> None:
        self._server: TestServer
        self._said: dict[str, str] = {}

    async def start(self, parts: AsyncExitStack) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._server = TestServer(app)
        await self._server.start_server()
        parts.push_async_callback(self.stop)

    async def stop(self) -> None:
        await self._server.close()

    @property
    def url(self) -> str:
        return f"http://{self._server.host}:{self._server.port}/base"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        heard = await request.read()
        said = f"{request.method} {request.path_qs} {dict(request.headers)} {heard.decode(errors='replace')}"
        name = request.path.rpartition("/")[2]
        behaviour = self._said.get(name) or request.headers.get("X-Behave", "whole")
        if request.method == "GET" and name.startswith("resp_"):
            behaviour = _LATER.get(behaviour, behaviour)
        return await BEHAVIOURS[behaviour](self, request, said)

    def object(self, said: str, status: str, behaviour: str, **fields: Any) -> dict[str, Any]:
        """A response object that holds what was said."""
        asked = re.search(r"GET \S*(resp_\d+)", said)
        response_id = asked[1] if asked else f"resp_{len(self._said)}"
        self._said.setdefault(response_id, behaviour)
        return {
            "id": response_id,
            "object": "response",
            "status": status,
            "model": "model-confirmed",
            "metadata": {"said": said},
            "output": [{"type": "message", "content": [{"type": "output_text", "text": said}]}, {"type": said}],
            "error": _error(said) if status == "failed" else None,
            "incomplete_details": {"reason": said},
            "service_tier": said,
            "usage": {"input_tokens": 1, "output_tokens": 2},
            **fields,
        }

    async def whole(self, request: web.Request, said: str) -> web.StreamResponse:
        stated = (await request.read()).replace(b" ", b"")
        if b'"stream":true' in stated:
            return await self._stream(request, said, "response.completed")
        background = b'"background":true' in stated
        return _json(said, self.object(said, "queued" if background else "completed", "whole"))

    async def failed(self, request: web.Request, said: str) -> web.StreamResponse:
        if b'"stream":true' in (await request.read()).replace(b" ", b""):
            return await self._stream(request, said, "response.failed")
        return _json(said, self.object(said, "failed", "failed"))

    async def odd(self, request: web.Request, said: str) -> web.StreamResponse:
        return _json(said, self.object(said, said, "odd", model=said, error={"code": said, "type": said}))

    async def no_json(self, request: web.Request, said: str) -> web.StreamResponse:
        return web.Response(body=b"{" + said.encode(errors="replace"), content_type="application/json")

    async def no_http(self, request: web.Request, said: str) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 200 OK\r\n" + said.encode(errors="replace") + b"\0\r\n\r\n")
        request.transport.close()
        raise ConnectionError

    async def hung_up(self, request: web.Request, said: str) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        raise ConnectionError

    async def cut(self, request: web.Request, said: str) -> web.StreamResponse:
        return await self._stream(request, said, None)

    async def _stream(self, request: web.Request, said: str, last: str | None) -> web.StreamResponse:
        answer = web.StreamResponse(headers={**_headers(said), "Content-Type": "text/event-stream"})
        await answer.prepare(request)
        response = self.object(said, "in_progress", "cut" if last is None else "whole")
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": response},
            {"type": "response.output_text.delta", "delta": said},
            {"type": said, "words": said},
            {"type": "response.in_progress", "response": {**response, "id": f"{MARK} another id", "status": said}},
            {"type": "response.in_progress", "response": {**response, "status": "queued"}},
            {"type": "error", "error": _error(said)},
        ]
        if last is not None:
            status = last.removeprefix("response.")
            events.append({"type": last, "response": {**response, "status": status, "error": _error(said)}})
        for number, event in enumerate(events):
            await answer.write(f"data: {json.dumps({**event, 'sequence_number': number})}\n\n".encode())
            await answer.write(f"event: {quote(said)}\ndata: no JSON {quote(said)}\n\n".encode())
        if last is None:
            assert request.transport is not None
            await asyncio.sleep(0)
            request.transport.close()
        return answer


def _error(said: str) -> dict[str, Any]:
    return {"message": said, "type": said, "code": said, "param": said}


def _headers(said: str) -> dict[str, str]:
    return {
        "x-request-id": quote(said)[:500],
        "X-Echo": quote(said)[:2000],
        "WWW-Authenticate": f'Basic realm="{MARK}"',
    }


def _json(said: str, value: object, status: int = 200) -> web.Response:
    answer = web.json_response(value, status=status, reason=f"{MARK} reason", headers=_headers(said))
    answer.headers.add("Set-Cookie", f"session={MARK}-set-cookie; Path=/")
    answer.headers.add("Set-Cookie", f"{MARK} illegal name=1")
    return answer


def _refusing(status: int) -> Behave:
    async def refuse(parrot: Parrot, request: web.Request, said: str) -> web.StreamResponse:
        return _json(said, {"error": _error(said)}, status)

    return refuse


BEHAVIOURS: dict[str, Behave] = {
    "whole": Parrot.whole,
    "failed": Parrot.failed,
    "odd": Parrot.odd,
    "no_json": Parrot.no_json,
    "no_http": Parrot.no_http,
    "hung_up": Parrot.hung_up,
    "cut": Parrot.cut,
    **{str(status): _refusing(status) for status in (400, 401, 403, 404, 429, 500, 503)},
}
_LATER = {"odd": "500", "cut": "404"}
"""What a GET of a response finds that was created so."""
