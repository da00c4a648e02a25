"""What a user finds in a trace: stories over real HTTP, with the SDK, told to a collector."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import openai
import pytest
from collecting import Collector
from running import Running, Upstream
from stories import STILL, all_of, ask, fetch, job, some, until

from gateway.domain.facts import ClientPolled, Detached, Ended
from gateway.telemetry import names
from gateway.telemetry.receiver import Received

CHAT = "chat gpt-5.2"
POLL = "GET /v1/responses/{id}"
Start = Callable[..., Awaitable[tuple[Upstream, Running]]]


@pytest.fixture
async def collector(parts: AsyncExitStack) -> Collector:
    collector = Collector()
    parts.push_async_callback(collector.close)
    await collector.open()
    return collector


@pytest.fixture
def start(
    simulate: Callable[..., Awaitable[Upstream]], gateway_for: Callable[..., Awaitable[Running]], collector: Collector
) -> Start:
    """A simulator, and a gateway in front of it that tells the collector."""

    async def begin(*, simulated: Any = None, sampler: str = "", **settings: Any) -> tuple[Upstream, Running]:
        upstream = await simulate(**(simulated or {}))
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "10",
            "OTEL_TRACES_SAMPLER": sampler,
        }
        return upstream, await gateway_for(upstream.url, environ=environ, **settings)

    return begin


def traceparent(number: int, *, sampled: bool = True) -> dict[str, str]:
    """A client's span: a number tells traces apart."""
    return {"traceparent": f"00-{number:032x}-{number:016x}-0{int(sampled)}"}


def of_trace(collector: Collector, number: int) -> dict[str, Received]:
    return {span.name: span for span in collector.trace(f"{number:032x}")}


async def test_an_attempt_that_upstream_refuses_and_the_one_after_it_are_two_spans(
    start: Start, collector: Collector
) -> None:
    _, gateway = await start(background_tracking="stream")
    await gateway.client().responses.create(**ask("refuses_stream"), background=True)
    await collector.until(lambda: len(collector.named("POST")) == 2)
    generation = await collector.span(CHAT)
    first, second = sorted(collector.named("POST"), key=lambda span: span.start)
    assert {first.parent_id, second.parent_id} == {generation.span_id}
    assert (first.attributes["http.response.status_code"], first.attributes["error.type"]) == (400, "400")
    assert (second.attributes["http.response.status_code"], second.error) == (200, False)
    assert ("http.request.resend_count" in first.attributes, second.attributes["http.request.resend_count"]) == (
        False,
        1,
    )


async def test_what_a_client_polls_and_resumes_within_spans_of_its_own_is_in_its_traces(
    start: Start, collector: Collector
) -> None:
    upstream, gateway = await start(simulated=STILL)
    events = await gateway.client().responses.create(**job(), extra_headers=traceparent(1))
    upstream.simulator.skip(2)
    seen = await some(events, 5)
    url = f"{gateway.url}/v1/responses/{seen[0]['response']['id']}"
    await fetch(url, headers=traceparent(2))
    await fetch(url, headers=traceparent(3, sampled=False))
    await fetch(url)
    upstream.simulator.skip(60)
    await fetch(f"{url}?stream=true&starting_after=4", headers=traceparent(4))
    generation = await collector.span(CHAT)
    await collector.until(lambda: len(collector.named(POLL)) == 2)

    assert generation.trace_id == f"{1:032x}"
    polled, resumed = of_trace(collector, 2)[POLL], of_trace(collector, 4)[POLL]
    for number, span in ((2, polled), (4, resumed)):
        assert (span.kind, span.parent_id) == ("server", f"{number:016x}")
        assert span.links == ((generation.trace_id, generation.span_id),)
        assert span.attributes[names.GENAI_OPERATION] == "fetch_response"
        assert not [name for name in span.attributes if "usage" in name]
    assert polled.attributes["gateway.served"] == "shared"
    assert resumed.attributes["gen_ai.request.stream_cursor"] == "4"
    assert resumed.attributes["gateway.left.reason"] == "end"
    assert of_trace(collector, 3) == {}
    # In the response's own trace stand both readers, by whom and how far.
    streams = [span for span in collector.trace(generation.trace_id) if span.name == "stream"]
    assert {(span.attributes["gateway.attach.kind"], span.attributes["gateway.left.reason"]) for span in streams} == {
        ("first", "left"),
        ("resume", "end"),
    }
    assert {span.attributes["gateway.owner"] for span in streams} == {generation.attributes["gateway.owner"]}
    assert {span.attributes["user_agent.original"].partition("/")[0] for span in streams} == {"AsyncOpenAI", "Python"}


async def test_a_clients_poll_that_fails_says_so_in_its_trace(start: Start, collector: Collector) -> None:
    upstream, gateway = await start(simulated=STILL, poll_max_age_s=0.001)
    created = await gateway.client().responses.create(**ask(), background=True)
    await upstream.server.close()
    await fetch(f"{gateway.url}/v1/responses/{created.id}", headers=traceparent(2))
    await collector.until(lambda: POLL in of_trace(collector, 2))
    span = of_trace(collector, 2)[POLL]
    assert (span.error, span.attributes["http.response.status_code"], span.attributes["error.type"]) == (
        True,
        502,
        "502",
    )


async def test_many_polls_make_few_spans(start: Start, collector: Collector) -> None:
    upstream, gateway = await start(simulated=STILL, poll_max_age_s=3600)
    created = await gateway.client().responses.create(**ask(), background=True)
    for _ in range(200):
        await fetch(f"{gateway.url}/v1/responses/{created.id}")
    upstream.simulator.skip(60)
    generation = await collector.span(CHAT)
    assert generation.attributes["gateway.polls.client"] == len(gateway.facts.of(ClientPolled)) == 200
    assert len(collector.trace(generation.trace_id)) < 10


async def test_a_conversation_can_be_walked_back_along_its_links(start: Start, collector: Collector) -> None:
    _, gateway = await start()
    one = await gateway.client().responses.create(**ask())
    two = await gateway.client().responses.create(**ask(), previous_response_id=one.id)
    # Whose it is not, to that one it is nothing but an id.
    with pytest.raises(openai.BadRequestError):
        await gateway.client("sk-another").responses.create(**ask(), previous_response_id=one.id)
    await collector.until(lambda: len(collector.named(CHAT)) == 3)
    spans = {span.attributes.get("gen_ai.response.id"): span for span in collector.named(CHAT)}
    first, second, third = (spans[response_id] for response_id in (one.id, two.id, None))
    assert second.links == ((first.trace_id, first.span_id),)
    assert second.attributes["gen_ai.request.previous_response.id"] == one.id
    assert (first.links, third.links) == ((), ())


async def test_the_generation_tells_of_its_continuation_tokens(start: Start, collector: Collector) -> None:
    upstream, gateway = await start(simulated=STILL)
    events = await gateway.client().responses.create(**job())
    upstream.simulator.skip(2)
    seen = await some(events, 5)
    url = f"{gateway.url}/v1/responses/{seen[0]['response']['id']}"
    await fetch(url)
    await fetch(f"{url}~3")
    upstream.simulator.skip(1)
    await some(await gateway.client().responses.retrieve(seen[0]["response"]["id"], stream=True, starting_after=2), 2)
    await fetch(url)
    await until(lambda: len(gateway.facts.of(Detached)) == 2)
    upstream.simulator.skip(60)
    generation = await collector.span(CHAT)
    prefix = "gateway.continuation_tokens."
    told = {name.removeprefix(prefix): v for name, v in generation.attributes.items() if name.startswith(prefix)}
    assert told == {
        "issued": 3,
        "redeemed": 2,
        "redeemed.poll": 1,
        "redeemed.resume": 1,
        "redeemed.form.suffix": 1,
        "redeemed.form.starting_after": 1,
        "outstanding": True,
    }


@pytest.mark.parametrize("sampler", ["always_off", "always_on"])
async def test_of_unsampled_responses_those_that_fail_or_are_resumed_are_told_and_why(
    start: Start, collector: Collector, sampler: str
) -> None:
    upstream, gateway = await start(simulated=STILL, sampler=sampler)
    create = gateway.client().responses.create
    quiet = await create(**ask(), background=True)
    failed = await create(**ask("fails"), background=True)
    events = await create(**job())
    upstream.simulator.skip(2)
    resumed = (await some(events, 5))[0]["response"]["id"]
    reading = await gateway.client().responses.retrieve(resumed, stream=True, starting_after=3)
    upstream.simulator.skip(60)
    await all_of(reading)
    await until(lambda: len(gateway.facts.of(Ended)) == 3)
    await gateway.gateway.stop()

    found = {span.attributes["gen_ai.response.id"]: span for span in collector.named(CHAT)}
    reasons = {response_id: span.attributes.get("gateway.promoted") for response_id, span in found.items()}
    if sampler == "always_on":
        assert reasons == {quiet.id: None, failed.id: None, resumed: None}
    else:
        assert reasons == {failed.id: "failed", resumed: "resumed"}
        assert {span.parent_id for span in found.values()} == {""}, "what they would hang on was not told"
