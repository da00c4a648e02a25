"""OpenAI's Python SDK, blocking and async, awaited alike: a blocking call runs in a thread."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

import openai
from running import PATIENCE_S

Kind = Literal["blocking", "async"]
_CLIENTS = {
    ("blocking", "openai"): openai.OpenAI,
    ("async", "openai"): openai.AsyncOpenAI,
    ("blocking", "azure"): openai.AzureOpenAI,
    ("async", "azure"): openai.AsyncAzureOpenAI,
}
_END = object()


@dataclass(frozen=True, slots=True)
class Sdk:
    """A client of one kind. Methods are named as under `client`: `responses.create`, `responses.input_items.list`."""

    kind: Kind
    client: Any

    async def __call__(self, method: str, *arguments: Any, **named: Any) -> Any:
        return await self.run(attrgetter(method)(self.client), *arguments, **named)

    async def run(self, call: Any, *arguments: Any, **named: Any) -> Any:
        """The outcome of a call of the SDK."""
        async with asyncio.timeout(PATIENCE_S):
            if self.kind == "async":
                return await call(*arguments, **named)
            return await asyncio.to_thread(call, *arguments, **named)

    async def each(self, stream: Any, count: int | None = None) -> list[Any]:
        """The stream's next events, all of them by default; what it raises is raised."""
        events: list[Any] = []
        iterator = aiter(stream) if self.kind == "async" else iter(stream)
        async with asyncio.timeout(PATIENCE_S):
            while count is None or len(events) < count:
                if self.kind == "async":
                    event = await anext(iterator, _END)
                else:
                    event = await asyncio.to_thread(next, iterator, _END)
                if event is _END:
                    assert count is None, f"the stream ended after {len(events)} of {count} events"
                    return events
                events.append(event)
        return events

    @asynccontextmanager
    async def opened(self, manager: Any) -> AsyncIterator[Any]:
        """What a context manager of the SDK gives."""
        if self.kind == "async":
            async with manager as given:
                yield given
            return
        given = await asyncio.to_thread(manager.__enter__)
        try:
            yield given
        finally:
            await asyncio.to_thread(manager.__exit__, None, None, None)


@asynccontextmanager
async def connected(kind: Kind, *, to: str = "openai", **options: Any) -> AsyncIterator[Sdk]:
    """An SDK client with these options, closed afterwards."""
    client = _CLIENTS[kind, to](**{"max_retries": 0, "timeout": PATIENCE_S, **options})
    sdk = Sdk(kind, client)
    try:
        yield sdk
    finally:
        await sdk.run(client.close)
