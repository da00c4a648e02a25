"""Microsoft.Extensions.AI over OpenAI's .NET library, as it behaves on the wire.

It cannot be installed here, so this does what it does, request by request: its headers, its retries (three, which carry
no mark), its limit on the time of a request and of each read, its continuation token with a true cursor.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

NETWORK_TIMEOUT_S = 100.0
"""Its default, for a whole answer and for each read of a stream."""
_RETRIES = 3
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_HEADERS = {
    "Authorization": "Bearer sk-test",
    "Accept": "application/json, text/event-stream",
    "User-Agent": "OpenAI/2.12.0 (.NET 10.0.1; Debian GNU/Linux 12) MEAI/10.10.0",
}


class Failed(Exception):
    """What the application sees raised."""


@dataclass(slots=True)
class Update:
    """A streamed update: of an event of any type, known to the library or not, and the token to go on from it."""

    type: str
    event: dict[str, Any]
    token: bytes


@dataclass(slots=True)
class Dotnet:
    """A chat client. `pause_s` is the unit of its pauses between retries (its own: 0.8)."""

    base_url: str
    network_timeout_s: float = NETWORK_TIMEOUT_S
    pause_s: float = 0.01
    tries: list[str] = field(default_factory=list)

    async def ask(self, **body: Any) -> dict[str, Any]:
        """GetResponseAsync: a create in one piece."""
        return await self._whole("POST", "/responses", body)

    async def poll(self, token: bytes) -> dict[str, Any]:
        """GetResponseAsync with a token."""
        return await self._whole("GET", f"/responses/{json.loads(token)['responseId']}", None)

    async def stream(self, **body: Any) -> AsyncIterator[Update]:
        """GetStreamingResponseAsync."""
        async for update in self._streamed("POST", "/responses", {**body, "stream": True}):
            yield update

    async def resume(self, token: bytes) -> AsyncIterator[Update]:
        """GetStreamingResponseAsync with a token: after its number, which for 0 is a cursor like any other."""
        at = json.loads(token)
        path = f"/responses/{at['responseId']}?stream=true&starting_after={at['sequenceNumber']}"
        async for update in self._streamed("GET", path, None, at["responseId"]):
            yield update

    async def _whole(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        async with aiohttp.ClientSession(headers=_HEADERS) as http:
            answer = await self._sent(http, method, path, body, whole=True)
            return json.loads(await answer.read())

    async def _streamed(
        self, method: str, path: str, body: dict[str, Any] | None, response_id: str = ""
    ) -> AsyncIterator[Update]:
        async with (
            aiohttp.ClientSession(headers=_HEADERS, read_bufsize=2**20) as http,
            await self._sent(http, method, path, body, whole=False) as answer,
        ):
            data = b""
            while line := await self._line(answer):
                if line.startswith(b"data:"):
                    data = line[5:].strip()
                elif line == b"\n" and data:
                    event, data = json.loads(data), b""
                    if event["type"] == "error":
                        raise Failed(json.dumps(event))
                    response_id = event.get("response", {}).get("id") or response_id
                    # An event without a number reads as 0 there.
                    token = {"responseId": response_id, "sequenceNumber": event.get("sequence_number", 0)}
                    yield Update(event["type"], event, json.dumps(token).encode())

    async def _line(self, answer: aiohttp.ClientResponse) -> bytes:
        try:
            async with asyncio.timeout(self.network_timeout_s):
                return await answer.content.readline()
        except TimeoutError:
            raise Failed("the operation was cancelled: NetworkTimeout") from None
        except aiohttp.ClientError as error:
            raise Failed(f"the response ended prematurely: {error}") from None

    async def _sent(
        self, http: aiohttp.ClientSession, method: str, path: str, body: dict[str, Any] | None, *, whole: bool
    ) -> aiohttp.ClientResponse:
        why = ""
        for count in range(_RETRIES + 1):
            self.tries.append(f"{method} {path}")
            try:
                async with asyncio.timeout(self.network_timeout_s):
                    answer = await http.request(method, self.base_url + path, json=body)
                    if whole or answer.status >= 400:
                        await answer.read()
                if answer.status < 400:
                    return answer
                why = f"HTTP {answer.status} {(await answer.read()).decode()}"
                if answer.status not in _RETRIED:
                    break
            except TimeoutError:
                why = "NetworkTimeout"
            except aiohttp.ClientError as error:
                why = repr(error)
            await asyncio.sleep(self.pause_s * 2**count)
        raise Failed(why)
