"""The levers and the log of the simulator, and the API beside /responses."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp.test_utils import TestServer
from scene import (
    ASK,
    KEY,
    STREAMED,
    Scene,
    acting,
    all_of,
    finished_stream,
    numbers,
    staged,
    types,
    until_cut,
)

from gateway.simulator import SCENARIOS, Seen
from gateway.simulator.content import content_blocks
from gateway.simulator.seen import SeenLog

# --- the levers and the log ------------------------------------------------------------------------------


async def test_the_log_has_requests_as_they_came_over_the_wire(still: Scene) -> None:
    body = b'{"model":  "gpt-5.2", "input": "spaces kept", "background": true}'
    url = still.server.make_url("/").with_path("/v1/responses").with_query("include[]=a&x=%7E")
    async with still.http.post(url, data=body, headers={"X-Mixed-Case": "Yes"}) as answer:
        assert answer.status == 200
    await still.client.models.list()
    (seen,) = still.simulator.asked("/responses")
    assert (seen.method, seen.body, seen.json()["input"]) == ("POST", body, "spaces kept")
    assert seen.path == str(url.relative())
    assert ("X-Mixed-Case", "Yes") in seen.headers
    assert seen.header("x-mixed-case") == "Yes"
    assert len(still.simulator.requests) == 2
    _, shown = await still.get("/_simulator/requests?path_contains=responses")
    assert [one["body"] for one in shown] == [body.decode()]
    assert ["X-Mixed-Case", "Yes"] in shown[0]["headers"]


def test_the_log_is_bounded_in_requests_and_in_bytes() -> None:
    log = SeenLog(requests=3, body_bytes=10)
    for body in (b"1", b"2", b"3", b"4"):
        log.add(Seen("GET", "/", [], body))
    assert [one.body for one in log] == [b"2", b"3", b"4"]
    log.add(Seen("GET", "/", [], b"12345678"))
    assert [one.body for one in log] == [b"3", b"4", b"12345678"]
    log.add(Seen("GET", "/", [], b"more than ten bytes"))
    assert [one.body for one in log] == [b"more than ten bytes"]


async def test_in_an_outage_every_answer_is_an_error_and_then_all_is_well(still: Scene) -> None:
    created = await still.client.responses.create(**ASK, background=True)
    await still.call("POST", "/_simulator/outage", json={"status": 503})
    assert still.simulator.outage == 503
    with pytest.raises(openai.InternalServerError) as broken:
        await still.client.responses.retrieve(created.id)
    assert broken.value.status_code == 503
    await still.call("POST", "/_simulator/outage", json={})
    assert (await still.client.responses.retrieve(created.id)).status == "queued"


async def test_an_outage_can_drop_every_connection_the_open_ones_too(still: Scene) -> None:
    stream = await still.client.responses.create(**STREAMED)
    response_id = (await anext(stream.__aiter__())).response.id
    still.simulator.outage = "drop"
    await until_cut(stream)
    with pytest.raises(openai.APIConnectionError):
        await still.client.responses.retrieve(response_id)
    await still.call("POST", "/_simulator/outage", json={})
    assert (await still.client.responses.retrieve(response_id)).status == "queued"


@pytest.mark.parametrize("how", ["reset", "half", "eof"])
async def test_open_streams_can_be_cut_at_any_moment(still: Scene, how: str) -> None:
    stream = await still.client.responses.create(**STREAMED)
    response_id = (await anext(stream.__aiter__())).response.id
    _, told = await still.call("POST", "/_simulator/cut", json={"id": response_id, "how": how})
    assert told == {"cut": 1}
    await (all_of if how == "eof" else until_cut)(stream)
    assert still.simulator.status(response_id) == "queued"


async def test_the_levers_work_from_another_process_and_refuse_nonsense(still: Scene) -> None:
    created = await still.client.responses.create(**ASK, background=True)
    await still.call("POST", "/_simulator/skip", json={"seconds": 60})
    _, made = await still.get("/_simulator/responses")
    assert made == [{"id": created.id, "status": "completed", "connections": 0}]
    await still.call("POST", f"/_simulator/forget/{created.id}")
    assert still.simulator.status(created.id) is None
    _, about = await still.get("/_simulator/scenarios")
    assert about == {name: scenario.about for name, scenario in SCENARIOS.items()}
    for path, body in (("outage", {"status": 200}), ("skip", {"seconds": "x"}), ("cut", {"how": "?"}), ("skip", [])):
        answer, _ = await still.call("POST", f"/_simulator/{path}", json=body)
        assert answer.status == 400
    assert len(still.simulator.requests) == 1


async def test_a_restarted_server_still_has_its_responses() -> None:
    async with staged() as at:
        created = await at.client.responses.create(**ASK, background=True)
        await at.server.close()
        async with TestServer(at.simulator.app()) as again:
            client = at.client.with_options(base_url=str(again.make_url("/v1")))
            assert (await client.responses.retrieve(created.id)).status == "queued"
            assert types(await finished_stream(Scene(at.simulator, again, client, at.http)))[-1] == "response.completed"


# --- elsewhere -------------------------------------------------------------------------------------------


async def test_chat_completions_answer_and_stream_until_done(instant: Scene) -> None:
    ask: Any = {"model": "gpt-5.2", "messages": [{"role": "user", "content": "Hello"}]}
    whole = await instant.client.chat.completions.create(**ask)
    stream = await instant.client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    async with instant.http.post(
        instant.server.make_url("/v1/chat/completions"), json={**ask, "stream": True}
    ) as answer:
        assert (await answer.read()).endswith(b"data: [DONE]\n\n")


async def test_an_upload_is_hashed_as_it_comes_and_a_download_is_made_as_it_goes(still: Scene) -> None:
    size = 3_000_001
    sent = b"".join(content_blocks("file-a", size))

    async def in_pieces() -> AsyncIterator[bytes]:
        for start in range(0, size, 100_000):
            yield sent[start : start + 100_000]

    _, told = await still.call("POST", "/v1/files", data=in_pieces())
    assert (told["bytes"], told["sha256"]) == (size, hashlib.sha256(sent).hexdigest())
    assert still.simulator.requests[0].body == b""
    url = still.server.make_url(f"/v1/files/file-a/content?bytes={size}")
    async with still.http.get(url) as answer:
        assert answer.content_length == size
        assert await answer.read() == sent
    uploaded = await still.client.files.create(file=b"content", purpose="user_data")
    assert uploaded.status == "processed"


async def test_a_websocket_carries_one_response_after_the_other(instant: Scene) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with instant.http.ws_connect(instant.server.make_url("/v1/responses"), headers=headers) as socket:

        async def ask(**more: Any) -> list[dict[str, Any]]:
            await socket.send_json({"type": "response.create", **ASK, **more})
            got = [await socket.receive_json()]
            while got[-1]["type"] not in ("response.completed", "error"):
                got.append(await socket.receive_json())
            return got

        first = await ask()
        assert numbers(first) == list(range(len(first)))
        second = await ask(stream_id="lane", previous_response_id=first[0]["response"]["id"])
        assert {event["stream_id"] for event in second} == {"lane"}
        (refused,) = await ask(background=True)
        assert (refused["status"], refused["error"]["param"]) == (400, "background")


async def test_lanes_of_a_websocket_go_on_beside_each_other_and_there_are_so_many(still: Scene) -> None:
    async with still.http.ws_connect(still.server.make_url("/v1/responses")) as socket:
        for lane in (*("a", "a"), *(f"lane-{number}" for number in range(15))):
            await socket.send_json({"type": "response.create", "stream_id": lane, **ASK})
        begun = [await socket.receive_json() for _ in range(31)]
        refused = [message for message in begun if message["type"] == "error"]
        assert [(error["stream_id"], error["error"]["code"]) for error in refused] == [
            ("lane-14", "websocket_stream_limit_reached")
        ]
        of_a = [message["type"] for message in begun if message["stream_id"] == "a"]
        assert of_a == ["response.created", "response.in_progress"]

        still.simulator.skip(60)
        said = {("response.completed", "a"), *(("response.completed", f"lane-{number}") for number in range(14))}
        said.add(("response.created", "a"))  # the second one of its lane
        while said:
            message = await socket.receive_json()
            said.discard((message["type"], message["stream_id"]))


async def test_a_websocket_remembers_what_is_not_stored_and_warms_up_without_output(instant: Scene) -> None:
    async def ask(socket: aiohttp.ClientWebSocketResponse, **more: Any) -> list[dict[str, Any]]:
        await socket.send_json({"type": "response.create", **ASK, **more})
        got = [await socket.receive_json()]
        while got[-1]["type"] not in ("response.completed", "error"):
            got.append(await socket.receive_json())
        return got

    url = instant.server.make_url("/v1/responses")
    async with instant.http.ws_connect(url) as socket:
        warm = await ask(socket, generate=False, store=False)
        assert [event["type"] for event in warm] == ["response.created", "response.in_progress", "response.completed"]
        previous = warm[0]["response"]["id"]
        assert (await ask(socket, previous_response_id=previous))[-1]["type"] == "response.completed"
    async with instant.http.ws_connect(url) as another:
        (refused,) = await ask(another, previous_response_id=previous)
        assert (refused["status"], refused["error"]["code"]) == (400, "previous_response_not_found")
        (refused,) = await ask(another, stream_id="no lane")
        assert refused["error"]["param"] == "stream_id"


async def test_a_websocket_ends_with_the_server_and_a_plain_get_of_its_path_is_refused(still: Scene) -> None:
    assert (await still.get("/v1/responses"))[0].status == 405
    async with still.http.ws_connect(still.server.make_url("/v1/responses")) as socket:
        closing = asyncio.ensure_future(still.server.close())
        assert (await socket.receive()).type == aiohttp.WSMsgType.CLOSE
        await closing


async def test_a_websocket_can_be_cut(instant: Scene) -> None:
    async with instant.http.ws_connect(instant.server.make_url("/v1/responses")) as socket:
        await socket.send_json({"type": "response.create", **ASK, **acting("drops")})
        got = [message async for message in socket]
    assert len(got) == 12
