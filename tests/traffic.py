"""Everything that clients and upstreams do to a gateway, in one go: so that every metric has something to count."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from openai import OpenAIError
from running import Running, Upstream
from stories import all_of, ask, fetch, job, live, some, until


async def everything(gateway: Running, upstream: Upstream) -> None:
    """One round. Takes a simulator's clock that runs, and a gateway that is quick and impatient."""
    stories: list[Callable[[Running, Upstream], Awaitable[Any]]] = [
        _polled,
        _streamed,
        _resumed,
        _stuck,
        _forgotten,
        _cancelled,
        _failed,
        _odd,
        _passed_through,
    ]
    await asyncio.gather(*(story(gateway, upstream) for story in stories))


async def _create(gateway: Running, body: dict[str, Any]) -> str:
    answer = await fetch(f"{gateway.url}/v1/responses", "POST", body={**body, "background": True})
    return str(answer.json["id"])


async def _polled(gateway: Running, upstream: Upstream) -> None:
    """A client polls until the end, and once more; another does not come back for its result."""
    response_id = await _create(gateway, ask())
    await _create(gateway, ask())
    for _ in ("once", "and once more"):
        await fetch(f"{gateway.url}/v1/responses", "POST", body=ask("quota"), headers={"Idempotency-Key": response_id})
    url = f"{gateway.url}/v1/responses/{response_id}"
    while (await asyncio.gather(fetch(url), fetch(url)))[0].json["status"] in ("queued", "in_progress"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)  # as clients do
    await fetch(url)


async def _streamed(gateway: Running, upstream: Upstream) -> None:
    client = gateway.client()
    await asyncio.gather(
        all_of(await client.responses.create(**ask(), stream=True)), client.responses.create(**ask("incomplete"))
    )


async def _resumed(gateway: Running, upstream: Upstream) -> None:
    """A reader loses its line and comes back in each of the ways that there are; one comes to see it all again."""
    client = gateway.client()
    read = await some(await client.responses.create(**job(delta_count=200, duration_s=20)), 5)
    response_id = read[0]["response"]["id"]
    url = f"{gateway.url}/v1/responses/{response_id}"
    await fetch(url)  # which shows a continuation token
    await asyncio.gather(
        all_of(await client.responses.retrieve(response_id, stream=True, starting_after=4)),
        fetch(f"{url}~4?stream=true"),
        fetch(f"{url}?stream=true", headers={"Last-Event-ID": "4"}),
    )
    await all_of(await client.responses.retrieve(response_id, stream=True))


async def _stuck(gateway: Running, upstream: Upstream) -> None:
    """One becomes stuck and is cancelled in the end."""
    response_id = await _create(gateway, {**ask("stuck"), "stream": False})
    await until(lambda: live(gateway, response_id).response.stuck)
    await fetch(f"{gateway.url}/v1/responses/{response_id}/cancel", "POST")


async def _forgotten(gateway: Running, upstream: Upstream) -> None:
    """Upstream does not know a response any more: it is lost."""
    response_id = await _create(gateway, ask("stuck"))
    upstream.simulator.forget(response_id)


async def _cancelled(gateway: Running, upstream: Upstream) -> None:
    response_id = await _create(gateway, ask("slow"))
    await fetch(f"{gateway.url}/v1/responses/{response_id}/cancel", "POST")


async def _failed(gateway: Running, upstream: Upstream) -> None:
    """Responses that fail, creates that are refused, and one that is too odd to track."""
    url = f"{gateway.url}/v1/responses"
    await _create(gateway, ask("fails"))
    await _create(gateway, ask("quota"))
    for scenario in ("rejected", "bad_gateway"):
        await fetch(url, "POST", body=ask(scenario))
    await fetch(url, "POST", body=b"not JSON")


async def _odd(gateway: Running, upstream: Upstream) -> None:
    """Upstreams whose line breaks, and whose numbers cannot be."""
    client = gateway.client()
    for scenario in ("drops", "restarts", "no_numbers", "flaky"):
        with suppress(OpenAIError):  # some of them end so
            await all_of(await client.responses.create(**job(scenario)))


async def _passed_through(gateway: Running, upstream: Upstream) -> None:
    await fetch(f"{gateway.url}/v1/models")
    await fetch(f"{gateway.url}/v1/responses/resp_unknown")
    await fetch(f"{gateway.url}/nothing")
    await fetch(f"{gateway.ops_url}/purge", "POST")
