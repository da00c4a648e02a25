"""No trace sums tokens twice, or loses them: with OpenTelemetry's own instrumentation of the SDK before the gateway."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest
from collecting import Collector
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from running import Running, Upstream
from stories import STILL, ask, some, until

from gateway.domain.facts import Detached, Ended
from gateway.domain.response import Usage
from gateway.telemetry import names

CHAT = "chat gpt-5.2"
KINDS = (names.GENAI_USAGE_INPUT, names.GENAI_USAGE_OUTPUT)


class Application:
    """A client with OpenTelemetry in it, as its documentation has it: the SDK instrumented, requests with a header."""

    def __init__(self, upstream: Upstream, gateway: Running, collector: Collector, sampler: Any) -> None:
        self.upstream, self.gateway, self.collector = upstream, gateway, collector
        self.memory = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self.memory))
        self.instrumentor = OpenAIInstrumentor()
        self.instrumentor.instrument(tracer_provider=self.provider)
        self.tracer = self.provider.get_tracer("application")
        http = DefaultAsyncHttpxClient(event_hooks={"request": [self._carry]})
        self.sdk = AsyncOpenAI(api_key="sk-test", base_url=f"{gateway.url}/v1", max_retries=0, http_client=http)
        self.create = self.sdk.responses.create

    async def _carry(self, request: httpx2.Request) -> None:
        TraceContextTextMapPropagator().inject(request.headers)

    async def close(self) -> None:
        self.instrumentor.uninstrument()
        await self.sdk.close()
        self.provider.shutdown()

    async def sums(self) -> tuple[dict[int, dict[str, int]], Usage]:
        """The tokens of each trace that has any, and the response's usage, once the gateway has told of its end."""
        ended = await self.gateway.facts.wait_for(Ended)
        generation = await self.collector.span(CHAT)
        assert generation.attributes[names.GENAI_RESPONSE_ID] == ended.response.response_id
        told = [(span.context.trace_id, dict(span.attributes or {})) for span in self.memory.get_finished_spans()]
        told += [(int(span.trace_id, 16), dict(span.attributes)) for span in self.collector.spans]
        found: dict[int, dict[str, int]] = {}
        for trace_id, attributes in told:
            for kind in KINDS:
                if kind in attributes:
                    trace = found.setdefault(trace_id, dict.fromkeys(KINDS, 0))
                    trace[kind] += attributes[kind]
        assert ended.response.usage is not None
        return found, ended.response.usage


Apply = Callable[..., Awaitable[Application]]


@pytest.fixture
async def collector(parts: AsyncExitStack) -> AsyncIterator[Collector]:
    collector = Collector()
    await collector.open()
    yield collector
    await collector.close()


@pytest.fixture
def apply(
    parts: AsyncExitStack,
    simulate: Callable[..., Awaitable[Upstream]],
    gateway_for: Callable[..., Awaitable[Running]],
    collector: Collector,
) -> Apply:
    """An application that goes through a gateway to a simulator."""

    async def start(
        *, sampler: Any = ALWAYS_ON, gateways: str = "", simulated: Any = None, **settings: Any
    ) -> Application:
        upstream = await simulate(**(simulated or {}))
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "20"}
        environ["OTEL_TRACES_SAMPLER"] = gateways
        application = Application(
            upstream, await gateway_for(upstream.url, environ=environ, **settings), collector, sampler
        )
        parts.push_async_callback(application.close)
        return application

    return start


Use = Callable[[Application], Awaitable[Any]]


async def foreground(app: Application) -> None:
    await app.create(**ask())


async def stream(app: Application) -> None:
    async for _ in await app.create(**ask(), stream=True):
        pass


async def stream_helper(app: Application) -> None:
    async with app.sdk.responses.stream(**ask()) as events:
        await events.get_final_response()


async def background(app: Application) -> None:
    created = await app.create(**ask(), background=True)
    while (await app.sdk.responses.retrieve(created.id)).status != "completed":  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def background_that_waits(app: Application) -> None:
    done = await app.create(**ask(), background=True, extra_headers={"Prefer": "wait=60"})
    assert done.status == "completed"


async def background_stream(app: Application) -> None:
    async for _ in await app.create(**ask(), background=True, stream=True):
        pass


async def cut_short(app: Application) -> None:
    async for _ in await app.create(**ask("incomplete"), stream=True):
        pass


async def left_when_it_had_ended(app: Application) -> None:
    """Gone between the end and the word of it: more is on its way than fits into any buffer."""
    events = await app.create(**ask("big", bytes=16_000_000), stream=True)
    await anext(aiter(events))
    await app.gateway.facts.wait_for(Ended)
    await events.close()


USES: list[Use] = [
    foreground,
    stream,
    stream_helper,
    background,
    background_that_waits,
    background_stream,
    cut_short,
    left_when_it_had_ended,
]


async def foreground_given_up(app: Application) -> None:
    asking = asyncio.ensure_future(app.create(**ask()))
    await until(lambda: app.upstream.simulator.requests)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: not next(iter(app.gateway.gateway.context.tracker.live.values())).asking)
    app.upstream.simulator.skip(60)


async def stream_left(app: Application, **how: Any) -> Any:
    """The first few events; then the client is gone, and only then it goes on upstream."""
    events = await app.create(**ask(), stream=True, **how)
    app.upstream.simulator.skip(2)
    seen = await some(events, 5)
    await app.gateway.facts.wait_for(Detached)
    app.upstream.simulator.skip(60)
    return seen


async def background_stream_left(app: Application) -> None:
    await stream_left(app, background=True)


async def background_stream_resumed(app: Application) -> None:
    seen = await stream_left(app, background=True)
    response_id, after = seen[0]["response"]["id"], seen[-1]["sequence_number"]
    async for _ in await app.sdk.responses.retrieve(response_id, stream=True, starting_after=after):
        pass


LEAVING: list[Use] = [foreground_given_up, stream_left, background_stream_left, background_stream_resumed]


@pytest.mark.parametrize("use", LEAVING, ids=lambda use: use.__name__)
async def test_so_it_has_where_its_client_leaves_early(apply: Apply, use: Use) -> None:
    application = await apply(simulated=STILL)
    with application.tracer.start_as_current_span("application"):
        await use(application)
    found, usage = await application.sums()
    assert list(found.values()) == [{names.GENAI_USAGE_INPUT: usage.input, names.GENAI_USAGE_OUTPUT: usage.output}]


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
async def test_a_trace_has_the_tokens_of_its_response_once(apply: Apply, use: Use) -> None:
    application = await apply()
    with application.tracer.start_as_current_span("application"):
        await use(application)
    found, usage = await application.sums()
    assert list(found.values()) == [{names.GENAI_USAGE_INPUT: usage.input, names.GENAI_USAGE_OUTPUT: usage.output}]


@pytest.mark.parametrize("use", [stream, background, background_stream], ids=lambda use: use.__name__)
async def test_so_has_each_of_two_traces_where_they_are_only_linked(apply: Apply, use: Use) -> None:
    application = await apply(trust_traceparent="link")
    with application.tracer.start_as_current_span("application"):
        await use(application)
    found, usage = await application.sums()
    both = {names.GENAI_USAGE_INPUT: usage.input, names.GENAI_USAGE_OUTPUT: usage.output}
    # What a background response that is polled took, the client's own trace never says.
    assert list(found.values()) == [both] * (1 if use is background else 2)


async def test_a_caller_that_records_nothing_leaves_the_tokens_to_the_gateway(apply: Apply) -> None:
    application = await apply(sampler=ALWAYS_OFF, gateways="always_on")
    with application.tracer.start_as_current_span("application"):
        await stream(application)
    found, usage = await application.sums()
    assert application.memory.get_finished_spans() == ()
    assert list(found.values()) == [{names.GENAI_USAGE_INPUT: usage.input, names.GENAI_USAGE_OUTPUT: usage.output}]
