"""What may be done with a response, by whom, and under which paths."""

import asyncio

import openai
import pytest
from aiohttp import web
from scene import (
    ASK,
    KEY,
    STREAMED,
    Scene,
    eventually,
    finished_stream,
    staged,
    types,
)

# --- cancel, delete, forget ------------------------------------------------------------------------------


# background, streamed, how long it has run, and what a cancel says: a status or the message of a 400
CANCELS = [
    (True, False, 0, "cancelled"),
    (True, False, 2, "cancelled"),
    (True, True, 2, "cancelled"),
    (True, False, 60, "completed"),
    (True, True, 60, "Cannot cancel a completed response."),
    (False, False, 60, "Cannot cancel a synchronous response."),
]


@pytest.mark.parametrize(("background", "streamed", "age_s", "told"), CANCELS)
async def test_a_cancel_is_answered_by_what_the_response_is(
    still: Scene, background: bool, streamed: bool, age_s: float, told: str
) -> None:
    creating = still.http.post(
        still.server.make_url("/v1/responses"),
        json={**ASK, "background": background, "stream": streamed},
        headers={"Authorization": f"Bearer {KEY}"},
    )
    if not background:
        waiting = asyncio.ensure_future(creating.__aenter__())
        await eventually(lambda: still.simulator.connections())
        still.simulator.skip(age_s)
        response_id = (await (await waiting).json())["id"]
    else:
        async with creating as answer:
            response_id = (await answer.content.readuntil(b'"object"')).decode().split('"')[-4]
        still.simulator.skip(age_s)
    for _ in range(2):  # idempotent
        answer, body = await still.call("POST", f"/v1/responses/{response_id}/cancel")
        said = body["status"] if answer.status == 200 else body["error"]["message"]
        assert said == told


async def test_a_cancel_ends_the_streams_and_leaves_what_had_come(still: Scene) -> None:
    stream = await still.client.responses.create(**STREAMED)
    reader = stream.__aiter__()
    response_id = (await anext(reader)).response.id
    still.simulator.skip(2.5)
    seen = [await anext(reader) for _ in range(30)]
    cancelled = await still.client.responses.cancel(response_id)
    rest = [event.to_dict() async for event in reader]
    assert "response.completed" not in types(rest)
    assert (cancelled.status, cancelled.usage) == ("cancelled", None)
    assert cancelled.output[-1].to_dict()["status"] == "in_progress"
    assert len(cancelled.output_text) > len(seen[-1].to_dict()["delta"])
    still.simulator.skip(60)
    assert (await still.client.responses.retrieve(response_id)).to_dict() == cancelled.to_dict()


async def test_some_cancelled_responses_complete_all_the_same(still: Scene) -> None:
    created = await still.client.responses.create(**ASK, background=True, metadata={"scenario": "cancelled_completes"})
    assert (await still.client.responses.cancel(created.id)).status == "cancelled"
    still.simulator.skip(60)
    assert (await still.client.responses.retrieve(created.id)).status == "completed"


async def test_what_is_deleted_or_forgotten_is_not_found(still: Scene) -> None:
    deleted = await still.client.responses.create(**ASK, background=True)
    forgotten = await still.client.responses.create(**ASK, background=True)
    assert (await still.call("DELETE", f"/v1/responses/{deleted.id}"))[1] == {
        "id": deleted.id, "object": "response", "deleted": True,
    }  # fmt: skip
    assert still.simulator.forget(forgotten.id)
    assert not still.simulator.forget(forgotten.id)
    for gone in (deleted.id, forgotten.id):
        with pytest.raises(openai.NotFoundError) as missing:
            await still.client.responses.retrieve(gone)
        assert missing.value.body == {
            "message": f"Response with id '{gone}' not found.",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }


async def test_an_unstored_background_response_is_there_for_ten_minutes_after_its_end(still: Scene) -> None:
    created = await still.client.responses.create(**ASK, background=True, store=False)
    still.simulator.skip(600)
    assert (await still.client.responses.retrieve(created.id)).to_dict()["store"] is False
    still.simulator.skip(10)
    with pytest.raises(openai.NotFoundError):
        await still.client.responses.retrieve(created.id)


async def test_a_foreground_stream_dies_with_its_connection(still: Scene) -> None:
    stream = await still.client.responses.create(**ASK, stream=True)
    response_id = (await anext(stream.__aiter__())).response.id
    assert (await still.client.responses.retrieve(response_id)).status == "in_progress"
    await stream.close()
    await eventually(lambda: still.simulator.status(response_id) is None)
    with pytest.raises(openai.NotFoundError):
        await still.client.responses.retrieve(response_id)


async def test_the_same_is_so_on_a_server_that_lets_handlers_run_on() -> None:
    async with staged() as at:
        runner = web.AppRunner(at.simulator.app())
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        client = at.client.with_options(base_url=f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
        stream = await client.responses.create(**ASK, stream=True)
        response_id = (await anext(stream.__aiter__())).response.id
        await stream.close()
        await eventually(lambda: at.simulator.status(response_id) is None)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response_id)
        await runner.cleanup()


# --- what stands beside a response -----------------------------------------------------------------------


async def test_input_items_come_in_pages(still: Scene) -> None:
    said = [{"role": "user", "content": f"line {n}"} for n in range(5)]
    created = await still.client.responses.create(model="gpt-5.2", input=said, background=True)  # type: ignore[arg-type]
    pages = await still.client.responses.input_items.list(created.id, limit=2, order="asc")
    assert pages.has_more
    texts = [item.to_dict()["content"][0]["text"] async for item in pages]
    assert texts == [f"line {n}" for n in range(5)]
    newest = await still.client.responses.input_items.list(created.id, limit=1)
    assert newest.data[0].to_dict()["content"][0]["text"] == "line 4"


async def test_tokens_are_counted_and_conversations_compacted(still: Scene) -> None:
    counted = await still.client.responses.input_tokens.count(**ASK)
    assert counted.input_tokens > 0
    compacted = await still.client.responses.compact(**ASK)
    assert [item.type for item in compacted.output] == ["message", "compaction"]


async def test_a_previous_response_must_be_known(still: Scene) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await still.client.responses.create(**ASK, previous_response_id="resp_nobody")
    assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")


async def test_encrypted_reasoning_is_given_at_create_and_refused_at_retrieve(instant: Scene) -> None:
    response = await instant.client.responses.create(**ASK, include=["reasoning.encrypted_content"])
    assert response.output[0].to_dict()["encrypted_content"]
    with pytest.raises(openai.BadRequestError, match="persisted responses"):
        await instant.client.responses.retrieve(response.id, include=["reasoning.encrypted_content"])


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model": "gpt-5.2"}', b'{"input": "x"}'])
async def test_a_create_that_makes_no_sense_is_refused(still: Scene, body: bytes) -> None:
    answer, told = await still.call("POST", "/v1/responses", data=body)
    assert (answer.status, told["error"]["type"]) == (400, "invalid_request_error")


# --- keys, prefixes, headers -----------------------------------------------------------------------------


async def test_a_response_belongs_to_the_key_that_made_it(still: Scene) -> None:
    created = await still.client.responses.create(**ASK, background=True)
    keys = {"sk-test-bob": 404, "": 404, KEY: 200}
    for key, status in keys.items():
        for headers in ({"Authorization": f"Bearer {key}"}, {"api-key": key}):
            assert (await still.get(f"/v1/responses/{created.id}", headers=headers))[0].status == status


async def test_a_simulator_with_keys_accepts_no_other() -> None:
    async with staged(api_key=[KEY, "sk-other"]) as locked:
        assert await locked.client.models.list()
        with pytest.raises(openai.AuthenticationError) as refused:
            await locked.another("sk-test-wrong").models.list()
        assert refused.value.code == "invalid_api_key"
        answer, _ = await locked.get("/v1/models", headers={})
        assert answer.status == 401


async def test_the_paths_of_azure_are_served_and_the_dated_ones_want_a_version(still: Scene) -> None:
    azure = openai.AsyncAzureOpenAI(
        base_url=str(still.server.make_url("/openai")), api_key=KEY, api_version="2025-04-01-preview"
    )
    async with azure:
        created = await azure.responses.create(**ASK, background=True)
        assert (await azure.responses.retrieve(created.id)).status == "queued"
    assert (await still.get(f"/openai/responses/{created.id}"))[0].status == 404
    assert (await still.another(base="/openai/v1").responses.retrieve(created.id)).id == created.id


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/nowhere", 404), ("PUT", "/v1/responses", 405)])
async def test_what_does_not_exist_is_refused_in_the_apis_own_shape(
    still: Scene, method: str, path: str, status: int
) -> None:
    answer, body = await still.call(method, path)
    assert answer.status == status
    assert set(body["error"]) == {"message", "type", "param", "code"}


async def test_every_answer_has_the_headers_of_upstream_and_of_its_network(still: Scene) -> None:
    raw = await still.client.responses.with_raw_response.create(**ASK, background=True)
    for name in ("openai-processing-ms", "openai-version", "openai-organization", "alt-svc", "set-cookie"):
        assert raw.headers[name]
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.headers["x-ratelimit-remaining-requests"]
    answer, _ = await still.get("/v1/nowhere")
    assert answer.headers["x-request-id"] != raw.headers["x-request-id"]


async def test_json_is_compressed_for_those_who_accept_it_and_streams_are_not() -> None:
    async with staged(gzip=True) as small:
        answer, _ = await small.get("/v1/models")
        assert answer.headers["Content-Encoding"] == "gzip"
        answer, _ = await small.get("/v1/models", headers={"Accept-Encoding": "identity"})
        assert "Content-Encoding" not in answer.headers
        assert types(await finished_stream(small))[-1] == "response.completed"
