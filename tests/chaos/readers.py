"""The clients: each reads the stream of a background response to its end, at whatever gateway is there."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import openai
from openai import AsyncOpenAI
from processes import Process
from stories import job

from chaos.fleet import Fleet, Replica
from gateway.domain.events import TERMINAL_EVENT

_AGAIN_S = 0.1
_TERMINAL = frozenset(TERMINAL_EVENT.values())
Stream = Any


@dataclass(slots=True)
class Reader:
    """One client of a response, and all that it saw: the numbers, and when they came (loop time)."""

    numbers: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    replica: Replica | None = None
    done: bool = False

    async def take(self, stream: Stream, errors: Counter[str]) -> None:
        """Read one stream until it ends or breaks."""
        try:
            async for event in stream:
                self.numbers.append(event.sequence_number)
                self.times.append(time.monotonic())
                if event.type in _TERMINAL:
                    self.done = True
                    return
            errors["clean end without a terminal event"] += 1
        except openai.APIConnectionError:
            errors["connection broken"] += 1
        except openai.APIStatusError as error:
            errors[f"{error.status_code} {error.code}"] += 1
        except openai.APIError as error:
            errors[f"error event {error.code}"] += 1
        finally:
            await stream.close()


@dataclass(slots=True)
class Told:
    """A response, the process that made it and holds it for as long as it lives, and who read it: its maker first."""

    response_id: str
    holder: Process
    readers: list[Reader]


class Clients:
    """Makes responses and reads them. `errors` counts what went wrong in the eyes of clients."""

    def __init__(self, fleet: Fleet, key: str) -> None:
        self._fleet = fleet
        self._key = key
        self._sdk: dict[str, AsyncOpenAI] = {}
        self.errors: Counter[str] = Counter()
        self.told: list[Told] = []

    def at(self, url: str) -> AsyncOpenAI:
        if url not in self._sdk:
            self._sdk[url] = AsyncOpenAI(api_key=self._key, base_url=f"{url}/v1", max_retries=0, timeout=60)
        return self._sdk[url]

    async def close(self) -> None:
        await asyncio.gather(*(one.close() for one in self._sdk.values()))

    async def one(self, **settings: object) -> None:
        """A response from its create to its end, followed by its maker and by a second reader elsewhere."""
        maker = Reader()
        told: Told | None = None
        second: asyncio.Task[None] | None = None
        while told is None:
            maker.replica = self._fleet.any()
            holder = maker.replica.process
            stream = await self._tried(self.at(maker.replica.url).responses.create(**job(**settings)))
            if stream is None:
                continue
            first = await self._first(stream)
            if first is None:
                continue
            told = Told(first.response.id, holder, [maker, Reader()])
            self.told.append(told)
            maker.numbers.append(first.sequence_number)
            maker.times.append(time.monotonic())
            second = asyncio.ensure_future(self._follow(told, told.readers[1]))
            await maker.take(stream, self.errors)
        await self._follow(told, maker)
        assert second is not None
        await second

    async def _follow(self, told: Told, reader: Reader) -> None:
        """Resume until the end has come, each time at another gateway."""
        while not reader.done:
            reader.replica = self._fleet.any(but=reader.replica or told.readers[0].replica)
            after = reader.numbers[-1] if reader.numbers else openai.omit
            asked = self.at(reader.replica.url).responses.retrieve(told.response_id, stream=True, starting_after=after)
            stream = await self._tried(asked)
            if stream is not None:
                await reader.take(stream, self.errors)

    async def _tried(self, asked: Any) -> Stream | None:
        try:
            return await asked
        except openai.APIConnectionError:
            self.errors["connection refused or broken"] += 1
        except openai.APIStatusError as error:
            self.errors[f"{error.status_code} {error.code}"] += 1
        await asyncio.sleep(_AGAIN_S)
        return None

    async def _first(self, stream: Stream) -> Any:
        """The event that names the response; None where the line broke before it."""
        try:
            async for event in stream:
                return event
        except openai.APIError:
            pass
        self.errors["create whose answer broke"] += 1
        await stream.close()
        return None
