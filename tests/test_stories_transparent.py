"""Whatever is no response, and betas of what is: answered through the gateway as directly, byte for byte.

Two upstreams that are alike, ids and times included, are asked the same: one directly, one through a gateway.
"""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from running import PATIENCE_S, Running, Upstream
from stories import NOON, Heard, ask, events_in, until

from gateway.domain.facts import Ended

Json = dict[str, Any]
Ask = Callable[..., Awaitable[Heard]]
Walk = Callable[[Ask], Awaitable[None]]

TWIN: Json = {"clock": lambda: NOON, "speed": 1.0, "seed": 7}
BETA = {"OpenAI-Beta": "responses_multi_agent=v1"}
# Design promise 1: what a gateway leaves out and puts in. And the time of day, which goes on.
_NOT_COMPARED = {"set-cookie", "alt-svc", "connection", "transfer-encoding", "keep-alive", "date"}
_OF_STREAMS = {"cache-control", "x-accel-buffering"}
_OWN = ("x-gateway-",)


def shown(answer: Heard) -> tuple[int, list[tuple[str, str]], bytes]:
    """An answer as far as it has to be the same."""
    streamed = answer.headers.get("Content-Type", "").startswith("text/event-stream")
    left_out = _NOT_COMPARED | (_OF_STREAMS if streamed else set())
    headers = [(name.lower(), value) for name, value in answer.headers.items()]
    kept = [(name, value) for name, value in headers if name not in left_out and not name.startswith(_OWN)]
    return answer.status, sorted(kept), answer.body.replace(b": keepalive\n\n", b"")


def asker(base_url: str, heard: list[Heard]) -> Ask:
    """Asks there, and notes down what it hears. `pieces`: the body is sent in so many, without a length."""

    async def ask_there(
        method: str, path: str, body: object = None, *, headers: Json | None = None, pieces: int = 0
    ) -> Heard:
        raw = None if body is None else json.dumps(body).encode()

        async def in_pieces() -> AsyncIterator[bytes]:
            assert raw is not None
            for start in range(0, len(raw), len(raw) // pieces + 1):
                yield raw[start : start + len(raw) // pieces + 1]
                await asyncio.sleep(0)

        sent = {"Authorization": "Bearer sk-test", "Content-Type": "application/json", **(headers or {})}
        limit = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with (
            aiohttp.ClientSession(timeout=limit, auto_decompress=False) as http,
            http.request(method, base_url + path, data=in_pieces() if pieces else raw, headers=sent) as answer,
        ):
            heard.append(Heard(answer.status, answer.headers.copy(), await answer.read()))
        raw_answer = heard[-1]
        if raw_answer.headers.get("Content-Encoding") == "gzip":
            return Heard(raw_answer.status, raw_answer.headers, gzip.decompress(raw_answer.body))
        return raw_answer

    return ask_there


async def conversations(ask: Ask) -> None:
    said = [{"type": "message", "role": "user", "content": f"Wave {number}"} for number in range(3)]
    made = (await ask("POST", "/conversations", {"items": said, "metadata": {"tide": "high"}})).json["id"]
    await ask("GET", f"/conversations/{made}")
    await ask("POST", f"/conversations/{made}", {"metadata": {"tide": "low"}})
    await ask("POST", f"/conversations/{made}/items?include[]=message.output_text.logprobs", {"items": said}, pieces=7)
    listed = await ask("GET", f"/conversations/{made}/items?limit=2&order=asc")
    last = listed.json["last_id"]
    await ask("GET", f"/conversations/{made}/items?after={last}&include%5B%5D=a&include%5B%5D=b")
    await ask("GET", f"/conversations/{made}/items/{last}")
    await ask("DELETE", f"/conversations/{made}/items/{last}")
    await ask("GET", f"/conversations/{made}/items/{last}")
    await ask("POST", "/conversations", {"items": said * 10})
    await ask("GET", f"/conversations/{made}", headers={"Accept-Encoding": "gzip"})
    await ask("HEAD", f"/conversations/{made}")
    await ask("PUT", f"/conversations/{made}", {})
    await ask("DELETE", f"/conversations/{made}")
    await ask("GET", f"/conversations/{made}")


async def webhook_endpoints(ask: Ask) -> None:
    fields = {"name": "tides", "url": "https://example.org/hook", "event_types": ["response.completed"]}
    await ask("GET", "/webhook_event_types")
    made = (await ask("POST", "/webhook_endpoints", fields)).json["id"]
    await ask("POST", "/webhook_endpoints", {"name": "without"})
    await ask("GET", f"/webhook_endpoints/{made}")
    await ask("GET", "/webhook_endpoints?limit=1")
    await ask("POST", f"/webhook_endpoints/{made}", {"event_types": ["response.failed"]})
    await ask("POST", f"/webhook_endpoints/{made}/rotate_secret", {"keep_old_secret_active_for_24_hours": True})
    await ask("POST", f"/webhook_endpoints/{made}/test", {"event_type": "response.failed"})
    await ask("POST", f"/webhook_endpoints/{made}/test", {"event_type": "tide.high"})
    await ask("DELETE", f"/webhook_endpoints/{made}")
    await ask("GET", f"/webhook_endpoints/{made}")


async def compacting_and_counting(ask: Ask) -> None:
    said = [{"role": "user", "content": "What did the tide bring?"}, {"role": "assistant", "content": "A boot."}]
    for path in ("/responses/compact", "/responses/compact?beta=true", "/responses/input_tokens"):
        await ask("POST", path, {"model": "gpt-5.2", "input": said}, headers=BETA)
        await ask("POST", path, {"model": "gpt-5.2", "input": said}, pieces=20)
        await ask("POST", path, {"input": said})
        await ask("POST", path, [])
        await ask("GET", path)
        await ask("DELETE", path)


async def everything_else(ask: Ask) -> None:
    await ask("GET", "/models")
    words = {"model": "gpt-5.2", "messages": [{"role": "user", "content": "Say hello."}]}
    await ask("POST", "/chat/completions", words)
    await ask("POST", "/chat/completions", {**words, "stream": True}, pieces=5)
    await ask("GET", "/files/file-1/content?bytes=300000")
    await ask("GET", "/nothing/of/the/kind?a=%20&b=+")


PASSED = (conversations, webhook_endpoints, compacting_and_counting, everything_else)


async def beta_responses(ask_there: Ask) -> None:
    """The multi-agent beta: its query and its header on every request; a create is one whatever it is asked with."""
    body = {**ask(), "multi_agent": {"enabled": True}}
    await ask_there("POST", "/responses?beta=true", {**body, "background": True})
    for more in ({}, {"background": True}):
        made = await ask_there("POST", "/responses?beta=true", {**body, **more}, headers=BETA)
        await ask_there("GET", f"/responses/{made.json['id']}/input_items?beta=true&limit=1", headers=BETA)
        await ask_there("GET", f"/responses/{made.json['id']}?beta=true&include[]=x", headers=BETA)
        await ask_there("POST", f"/responses/{made.json['id']}/cancel?beta=true", headers=BETA)
        await ask_there("DELETE", f"/responses/{made.json['id']}?beta=true", headers=BETA)
    await ask_there("POST", "/responses?beta=true", {**body, "stream": True}, headers=BETA, pieces=9)
    streamed = await ask_there(
        "POST", "/responses?beta=true", {**body, "background": True, "stream": True}, headers=BETA
    )
    assert b'"agent":{"agent_name":"/root"}' in streamed.body
    first = events_in(streamed.body)[0]["response"]["id"]
    await ask_there("GET", f"/responses/{first}/input_items?beta=true", headers=BETA)


@pytest.mark.parametrize(
    ("walk", "packed"),
    [
        *((walk, packed) for walk in PASSED for packed in (False, True)),
        (beta_responses, False),  # what the gateway reads too is asked for uncompressed
    ],
    ids=lambda value: ("gzip" if value else "plain") if isinstance(value, bool) else value.__name__,
)
async def test_an_answer_through_the_gateway_is_the_direct_one(
    simulate: Any, gateway_for: Any, walk: Walk, packed: bool
) -> None:
    direct, behind = await simulate(**TWIN, gzip=packed), await simulate(**TWIN, gzip=packed)
    gateway = await gateway_for(behind.url, poll_schedule_s=(3600.0,))
    one: list[Heard] = []
    two: list[Heard] = []
    walks = [
        asyncio.create_task(walk(asker(direct.url, one))),
        asyncio.create_task(walk(asker(f"{gateway.url}/v1", two))),
    ]
    while (await asyncio.wait(walks, timeout=0.05))[1]:
        for side in (direct, behind):
            if side.simulator.connections():
                side.simulator.skip(60)
    for done in walks:
        await done
    assert len(one) > 4
    assert [shown(answer) for answer in two] == [shown(answer) for answer in one]
    asked = [[(seen.method, seen.path, seen.body) for seen in side.simulator.requests] for side in (direct, behind)]
    assert asked[0] == asked[1]


async def test_what_the_gateway_asks_for_itself_says_the_beta_of_the_create(simulate: Any, gateway_for: Any) -> None:
    upstream: Upstream = await simulate()
    gateway: Running = await gateway_for(upstream.url)
    client = gateway.client()
    agents = {"betas": ["responses_multi_agent=v1"], "multi_agent": {"enabled": True}, "background": True}
    polled = await client.beta.responses.create(**ask(), **agents)
    ended = await gateway.facts.wait_for(Ended)
    assert (ended.response.response_id, ended.response.status) == (polled.id, "completed")
    cut = await client.beta.responses.create(**ask("drops"), **agents, stream=True)
    events = [event.to_dict() async for event in cut]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    asked = upstream.simulator.asked("/responses/resp_", "GET")
    assert asked
    assert {(seen.header("openai-beta"), "beta=true" in seen.path) for seen in asked} == {
        ("responses_multi_agent=v1", True)
    }


async def test_polls_of_a_beta_are_as_cheap_as_any_and_another_beta_is_upstreams_to_answer(
    simulate: Any, gateway_for: Any
) -> None:
    upstream: Upstream = await simulate()
    gateway: Running = await gateway_for(upstream.url)
    client = gateway.client()
    betas = ["responses_multi_agent=v1"]
    made = await client.beta.responses.create(**ask(), betas=betas, multi_agent={"enabled": True}, background=True)
    await gateway.facts.wait_for(Ended)
    await until(lambda: not gateway.gateway.context.tracker.live)
    before = upstream.asked("GET", made.id)
    for _ in range(3):
        assert (await client.beta.responses.retrieve(made.id, betas=betas)).status == "completed"
    assert upstream.asked("GET", made.id) == before
    more = {"OpenAI-Beta": "responses_multi_agent=v1,responses_tides=v1"}
    assert (await client.beta.responses.retrieve(made.id, extra_headers=more)).status == "completed"
    assert upstream.simulator.requests[-1].header("openai-beta") == more["OpenAI-Beta"]
