"""Answers in OpenAI's shape: JSON bodies, error bodies, and the headers that come with every answer."""

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from gateway.simulator.scenarios import Refusal
from gateway.simulator.world import World

_AZURE_HEADERS = {
    "apim-request-id": "0198c0de-5eed-4000-8000-000000000001",
    "x-ms-region": "Sweden Central",
    "x-ms-served-model": "gpt-5.2-2026-08-07",
}
_RATE_LIMIT_HEADERS = {
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-limit-tokens": "2000000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-remaining-tokens": "1999970",
    "x-ratelimit-reset-requests": "6ms",
    "x-ratelimit-reset-tokens": "0s",
}


class ApiError(Exception):
    """A request that is answered with an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        self.headers = headers

    def answer(self) -> web.Response:
        """The error as an answer."""
        return json_answer(self.body, status=self.status, headers=self.headers)


def json_answer(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:  # fmt: skip
    """A JSON answer, indented by two as upstream's are."""
    return web.Response(
        status=status,
        body=msgspec.json.format(msgspec.json.encode(value), indent=2),
        content_type="application/json",
        headers=headers,
    )


def not_found(response_id: str) -> ApiError:
    """404 for a response that this owner cannot see."""
    return ApiError(404, f"Response with id '{response_id}' not found.")


def refused(refusal: Refusal) -> web.Response:
    """The answer that a refusal stands for."""
    retry = {} if refusal.retry_after_s is None else {"Retry-After": f"{refusal.retry_after_s:g}"}
    if refusal.shape == "html":
        page = f"<html><head><title>{refusal.message}</title></head><body><h1>{refusal.message}</h1></body></html>"
        return web.Response(status=refusal.status, text=page, content_type="text/html", headers=retry)
    if refusal.shape == "detail":
        return json_answer({"detail": refusal.message}, status=refusal.status, headers=retry)
    return ApiError(
        refusal.status, refusal.message, kind=refusal.kind, code=refusal.code, headers=retry
    ).answer()  # fmt: skip


def add_headers(world: World, request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Put on an answer what upstream and the network before it put on each one; rate limits where tokens are spent."""
    response.headers.update(
        {
            "x-request-id": world.request_id(),
            "openai-processing-ms": "87",
            "openai-version": "2020-10-01",
            "openai-organization": request.headers.get("OpenAI-Organization", "simulated-org"),
            "openai-project": request.headers.get("OpenAI-Project", "proj_simulated"),
            "strict-transport-security": "max-age=31536000; includeSubDomains; preload",
            "cf-ray": "8c0ffee0c0ffee00-SIM",
            "alt-svc": 'h3=":443"; ma=86400',
            "Set-Cookie": "__cf_bm=simulated; path=/; HttpOnly",
            "Server": "cloudflare",
        }
    )
    if request.path.startswith("/openai/"):
        response.headers.update(_AZURE_HEADERS)
    if request.method == "POST" and request.path.endswith(("/responses", "/completions", "/compact")):
        response.headers.update(_RATE_LIMIT_HEADERS)
