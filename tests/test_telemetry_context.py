"""Which trace a response belongs to, who is believed about that, and where its spans go."""

import pytest
from lives import T, a_life, a_response
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.domain import facts
from gateway.domain.response import Trace
from gateway.telemetry.tracing import Tracing

GRACE_S = 60.0
CALLER = f"00-{0xABC:032x}-{0xDEF:016x}-01"


async def drawn(traceparent: str | None, tracestate: str | None = None, **environ: str) -> tuple[Tracing, Trace]:
    tracing = Tracing(environ, exporter=InMemorySpanExporter)
    return tracing, tracing.draw(traceparent, tracestate)


async def test_a_callers_trace_is_gone_on_with() -> None:
    tracing, trace = await drawn(CALLER, "vendor=1")
    assert (trace.trace_id, trace.remote_span_id, trace.sampled, trace.state) == (0xABC, 0xDEF, True, "vendor=1")
    assert tracing.traceparent(trace) == f"00-{0xABC:032x}-{trace.span_id:016x}-01"
    assert len({trace.span_id, trace.parent_span_id, 0xDEF}) == 3
    await tracing.close(GRACE_S)


async def test_the_caller_is_the_parent_of_the_server_span() -> None:
    memory = InMemorySpanExporter()
    tracing = Tracing({}, exporter=lambda: memory)
    trace = tracing.draw(CALLER, "vendor=1")
    tracing.observe(facts.Created(T, a_response(trace=trace)))
    await tracing.close(GRACE_S)
    (span,) = memory.get_finished_spans()
    parent = span.parent
    assert parent is not None
    assert span.context.trace_state.to_header() == "vendor=1"
    assert (parent.span_id, parent.is_remote) == (0xDEF, True)


async def test_a_callers_decision_not_to_sample_is_kept() -> None:
    tracing, trace = await drawn(CALLER[:-2] + "00")
    assert (trace.sampled, trace.flags) == (False, 0)
    await tracing.close(GRACE_S)


@pytest.mark.parametrize("traceparent", [None, "", "nonsense", f"00-{0:032x}-{0xDEF:016x}-01", "00-" + "f" * 600])
async def test_without_a_trace_that_can_be_read_a_new_one_begins(traceparent: str | None) -> None:
    tracing, trace = await drawn(traceparent)
    assert (trace.remote_span_id, trace.sampled, trace.flags) == (None, True, 3)
    assert tracing.draw(traceparent, None).trace_id != trace.trace_id
    await tracing.close(GRACE_S)


async def test_a_linked_caller_is_a_link_from_the_server_span_of_a_trace_of_our_own() -> None:
    memory = InMemorySpanExporter()
    tracing = Tracing({}, exporter=lambda: memory, trust="link")
    trace = tracing.draw(CALLER, None)
    tracing.observe(facts.Created(T, a_response(trace=trace)))
    await tracing.close(GRACE_S)
    (span,) = memory.get_finished_spans()
    assert (trace.remote_span_id, span.parent) == (None, None)
    assert trace.trace_id != 0xABC
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == [(0xABC, 0xDEF)]


async def test_an_ignored_caller_leaves_no_sign() -> None:
    memory = InMemorySpanExporter()
    tracing = Tracing({}, exporter=lambda: memory, trust="ignore")
    trace = tracing.draw(CALLER, "vendor=1")
    tracing.observe(facts.Created(T, a_response(trace=trace)))
    await tracing.close(GRACE_S)
    (span,) = memory.get_finished_spans()
    assert (trace.remote_span_id, trace.state, span.parent, span.links) == (None, "", None, ())
    assert trace.trace_id != 0xABC


@pytest.mark.parametrize(
    ("sampler", "share", "alone", "with_caller"),
    [
        ("", "", True, True),
        ("always_off", "", False, False),
        ("parentbased_always_off", "", False, True),
        ("traceidratio", "0", False, False),
        ("parentbased_traceidratio", "0", False, True),
        ("parentbased_traceidratio", "1", True, True),
        ("parentbased_traceidratio", "much", True, True),
        ("unheard_of", "", True, True),
    ],
)
async def test_the_standard_variables_choose_the_sampler(
    sampler: str, share: str, alone: bool, with_caller: bool
) -> None:
    tracing, trace = await drawn(None, OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=share)
    assert (trace.sampled, trace.flags) == (alone, 2 + alone)
    assert tracing.draw(CALLER, None).sampled == with_caller
    await tracing.close(GRACE_S)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
    ],
)
async def test_without_an_endpoint_nothing_is_exported_and_the_callers_header_goes_on(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    tracing = Tracing(environ)
    assert bool(caplog.records) == ("zipkin" in environ.values()), "what cannot be done is warned of"
    trace = tracing.draw(CALLER, None)
    assert not tracing.exporting
    assert not trace.sampled
    assert tracing.traceparent(trace) == CALLER
    assert tracing.traceparent(tracing.draw(None, None)).endswith("-02")
    for fact in a_life():
        tracing.observe(fact)
    await tracing.close(GRACE_S)


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/x"},
            "http://t/x",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http://c:4317"),
    ],
)
async def test_the_standard_variables_choose_the_endpoint(environ: dict[str, str], endpoint: str) -> None:
    tracing = Tracing(environ)
    assert tracing.endpoint == endpoint
    await tracing.close(GRACE_S)


@pytest.mark.parametrize(
    ("variables", "service"),
    [
        ({}, "responses-gateway"),
        ({"OTEL_SERVICE_NAME": "edge"}, "edge"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=l%20m,deployment.environment.name=prod,nonsense"}, "l m"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=llm", "OTEL_SERVICE_NAME": "edge"}, "edge"),
    ],
)
async def test_the_service_is_called_as_the_standard_variables_say(variables: dict[str, str], service: str) -> None:
    memory = InMemorySpanExporter()
    tracing = Tracing(variables, exporter=lambda: memory)
    tracing.observe(facts.Created(T, a_response()))
    await tracing.close(GRACE_S)
    assert memory.get_finished_spans()[0].resource.attributes["service.name"] == service
