"""What the stories of a response's life share: how it is asked for, and how clients read it."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import openai
from running import PATIENCE_S, Running
from yarl import URL

from gateway.domain.sse import Decoder
from gateway.relay.live import Live

NOON = 1_790_000_000.0
STILL: dict[str, Any] = {"clock": lambda: NOON, "speed": 1.0}
"""For a simulator in which time passes only by `skip`."""


class Ahead:
    """A gateway's clock that can be moved on."""

    def __init__(self) -> None:
        self.by_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.by_s


MODEL = "gpt-5.2-2026-08-07"
"""What upstream calls the model that stories ask for."""
KEY = {"Authorization": "Bearer sk-test"}

Event = dict[str, Any]


def ask(scenario: str = "normal", **settings: object) -> dict[str, Any]:
    """A create body that asks the simulator for a scenario, with changes to it."""
    metadata = {"scenario": scenario, **{name: str(value) for name, value in settings.items()}}
    return {"model": "gpt-5.2", "input": "What did the tide bring?", "metadata": metadata}


def job(scenario: str = "normal", **settings: object) -> dict[str, Any]:
    """The same as a background stream."""
    return {**ask(scenario, **settings), "background": True, "stream": True}


def numbers(events: list[Event]) -> list[int]:
    return [event["sequence_number"] for event in events]


def types(events: list[Event]) -> list[str]:
    return [event["type"] for event in events]


async def following(stream: Any, count: int) -> list[Event]:
    """The next events of the SDK's stream."""
    events: list[Event] = []
    async with asyncio.timeout(PATIENCE_S):
        async for event in stream:
            events.append(event.to_dict())
            if len(events) == count:
                return events
    raise AssertionError(f"the stream ended after {len(events)} of {count} events")


async def some(stream: Any, count: int) -> list[Event]:
    """The same; then the client goes away in the middle of it."""
    events = await following(stream, count)
    await stream.close()
    return events


async def all_of(stream: Any) -> list[Event]:
    """Every event to a proper end: the SDK raises at an error event and at a broken line."""
    async with asyncio.timeout(PATIENCE_S):
        events = [event.to_dict() async for event in stream]
    await stream.close()
    return events


async def until_error(stream: Any) -> tuple[list[Event], openai.APIError]:
    """What came before the nested error event, and that error as the SDK raises it."""
    events: list[Event] = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            async for event in stream:
                events.append(event.to_dict())
    except openai.APIConnectionError as error:
        raise AssertionError(f"the line broke after {len(events)} events, without a word why") from error
    except openai.APIError as error:
        return events, error
    finally:
        await stream.close()
    raise AssertionError(f"the stream ended cleanly after {types(events)[-3:]}")


@dataclass(frozen=True)
class Heard:
    """A whole answer as it came over the wire."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    events: list[Event] = field(default_factory=list)

    @property
    def error(self) -> dict[str, Any]:
        """The error of an answer in OpenAI's shape."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def fetch(
    url: str,
    method: str = "GET",
    *,
    key: str = "sk-test",
    body: object = None,
    headers: Mapping[str, str] | None = None,
    parsed: bool = True,
) -> Heard:
    """One request without the SDK, its answer read to the end; raises aiohttp's ClientError where the line breaks."""
    sent = {**({"Authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
    as_written = URL(url, encoded=True)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    limit = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with (
        aiohttp.ClientSession(timeout=limit) as http,
        http.request(method, as_written, headers=sent, data=data) as answer,
    ):
        raw = await answer.read()
        streamed = parsed and answer.content_type == "text/event-stream"
        return Heard(answer.status, answer.headers.copy(), raw, events_in(raw) if streamed else [])


def events_in(raw: bytes) -> list[Event]:
    """The events of a body."""
    return [json.loads(frame.data) for frame in Decoder().feed(raw)]


async def until(condition: Callable[[], object]) -> None:
    """Wait for what nothing announces."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def live(gateway: Running, response_id: str) -> Live:
    """What the gateway holds of a response that has not ended."""
    held = gateway.gateway.context.tracker.live.values()
    return next(one for one in held if one.response.response_id == response_id)
