"""Azure OpenAI: its base paths, its key header and its own headers, with the SDK's Azure client and the plain one."""

from contextlib import AsyncExitStack

import openai
import pytest
from sdk import connected
from stories import ask, job

from gateway.domain.facts import Ended

VERSION = "2025-04-01-preview"
WAYS = ["dated", "v1", "v1 with a version"]


@pytest.fixture(params=["blocking", "async"])
async def client_of(request):
    """Make a client that reaches a side in one of the ways that Azure's users do; closed after the test."""
    async with AsyncExitStack() as stack:

        async def make(side, way, key="azure-key"):
            if way == "dated":
                named = {"to": "azure", "azure_endpoint": side.origin, "api_version": VERSION, "api_key": key}
            else:
                query = {"default_query": {"api-version": "preview"}} if way == "v1 with a version" else {}
                named = {"base_url": f"{side.origin}/openai/v1/", "api_key": key, **query}
            return await stack.enter_async_context(connected(request.param, **named))

        yield make


@pytest.fixture
async def azure(sides):
    """Both sides, the gateway's upstream being Azure's base URL."""
    return await sides(base_path="/openai/v1")


@pytest.mark.parametrize("way", WAYS)
async def test_a_response_lives_at_azures_paths_as_it_does_at_azure(azure, client_of, way):
    async def scene(side):
        sdk = await client_of(side, way)
        created = await sdk("responses.create", **ask(), background=True)
        side.later()
        while (done := await sdk("responses.retrieve", created.id)).status != "completed":
            pass
        items = await sdk("responses.input_items.list", created.id)
        await sdk("responses.delete", created.id)
        with pytest.raises(openai.NotFoundError):
            await sdk("responses.retrieve", created.id)
        asked = [
            (seen.path, seen.header("api-key"), seen.header("authorization"))
            for seen in side.upstream.simulator.requests
        ]
        return created.to_dict(), done.to_dict(), items.to_dict(), dict.fromkeys(asked)

    direct, through = await scene(azure.direct), await scene(azure.through)
    assert through == direct
    prefix, query = {
        "dated": ("/openai/responses", f"?api-version={VERSION}"),
        "v1": ("/openai/v1/responses", ""),
        "v1 with a version": ("/openai/v1/responses", "?api-version=preview"),
    }[way]
    assert all(path.startswith(prefix) and path.endswith(query) for path, *_ in through[-1])
    sent = ("azure-key", None) if way == "dated" else (None, "Bearer azure-key")
    assert {tuple(credential) for _, *credential in through[-1]} == {sent}


@pytest.mark.parametrize("way", WAYS)
async def test_a_stream_is_resumed_at_azures_paths(azure, client_of, way):
    async def scene(side):
        sdk = await client_of(side, way)
        stream = await sdk("responses.create", **job())
        side.later(2)
        before = await sdk.each(stream, 20)
        await sdk.run(stream.close)
        side.later()
        resumed = await sdk("responses.retrieve", before[0].response.id, stream=True, starting_after=19)
        return [event.to_dict() for event in before + await sdk.each(resumed)]

    assert await scene(azure.through) == await scene(azure.direct)


@pytest.mark.parametrize("way", WAYS)
async def test_azures_own_headers_are_kept_also_when_the_gateway_answers(azure, client_of, way):
    sdk = await client_of(azure.through, way)
    created = await sdk("responses.with_raw_response.create", **ask(), background=True)
    azure.through.later()
    await azure.through.gateway.facts.wait_for(Ended)
    polled = await sdk("responses.with_raw_response.retrieve", created.parse().id)
    streamed = await sdk("responses.with_raw_response.create", **job())
    azure.through.later()
    response_id = (await sdk.each(streamed.parse()))[0].response.id
    replayed = await sdk("responses.with_raw_response.retrieve", response_id, stream=True)
    await sdk.each(replayed.parse())
    assert polled.headers["x-gateway-served"] == "store"
    for answer in (created, polled, streamed, replayed):
        assert answer.headers["x-ms-served-model"] == "gpt-5.2-2026-08-07"
        assert answer.headers["x-ms-region"] == "Sweden Central"


async def test_the_keys_of_two_azure_users_are_two_owners(azure, client_of):
    mine, theirs = [await client_of(azure.through, "dated", key) for key in ("key-a", "key-b")]
    created = await mine("responses.create", **ask(), background=True)
    with pytest.raises(openai.NotFoundError):
        await theirs("responses.retrieve", created.id)
