"""Which trace a response belongs to, who is believed about that, and where its spans go."""

import pytest
from lives import T, a_life, a_response
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.domain import facts
from gateway.domain.response import Caller, Trace
from gateway.telemetry.tracing import Tracing
from gateway.telemetry.trust import Budget

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


class Clock:
    """Seconds that pass by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_budget_is_a_seconds_worth_at_once_and_so_much_a_second_from_then_on() -> None:
    clock = Clock()
    budget = Budget(3.0, clock)
    assert [budget.take() for _ in range(5)] == [True, True, True, False, False]
    clock.now += 0.5
    assert [budget.take() for _ in range(3)] == [True, False, False]
    clock.now += 0.25
    assert budget.take()
    clock.now += 3600
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    clock.now -= 60
    assert not budget.take(), "a clock that goes back gives nothing"
    clock.now += 0.5
    assert budget.take(), "and takes nothing"
    assert Budget(0.1, clock).take(), "the first one is always believed"


async def test_so_often_a_second_a_sampled_flag_is_believed_beyond_that_the_sampler_decides() -> None:
    clock = Clock()
    environ = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
    tracing = Tracing(environ, exporter=InMemorySpanExporter, believed_per_s=2, clock=clock)
    unsampled = tracing.draw(CALLER[:-2] + "00", None)
    assert (unsampled.sampled, unsampled.remote_sampled) == (False, False)
    traces = [tracing.draw(CALLER, "vendor=1") for _ in range(3)]
    assert [trace.sampled for trace in traces] == [True, True, False]
    beyond = traces[2]
    assert (beyond.trace_id, beyond.remote_span_id, beyond.state, beyond.flags) == (0xABC, 0xDEF, "vendor=1", 0)
    assert beyond.remote_sampled, "it is still what the caller said"
    assert tracing.traceparent(beyond).endswith("-00")
    clock.now += 0.5
    assert tracing.draw(CALLER, None).sampled
    await tracing.close(GRACE_S)


async def test_polls_are_believed_as_often_and_take_nothing_from_creates() -> None:
    environ = {"OTEL_TRACES_SAMPLER": "parentbased_always_off"}
    tracing = Tracing(environ, exporter=InMemorySpanExporter, believed_per_s=2, clock=Clock())
    assert [tracing.heard(CALLER, "vendor=1") for _ in range(3)] == [*[Caller(0xABC, 0xDEF, 1, "vendor=1")] * 2, None]
    assert tracing.draw(CALLER, None).sampled
    await tracing.close(GRACE_S)


@pytest.mark.parametrize("traceparent", [None, "nonsense", CALLER[:-2] + "00"])
async def test_a_request_without_a_sampled_span_of_its_client_gets_none(traceparent: str | None) -> None:
    tracing = Tracing({}, exporter=InMemorySpanExporter)
    assert tracing.heard(traceparent, None) is None
    await tracing.close(GRACE_S)


async def test_nor_where_callers_are_ignored_or_nothing_is_exported() -> None:
    tracing = Tracing({}, exporter=InMemorySpanExporter, trust="ignore")
    assert tracing.heard(CALLER, None) is None
    await tracing.close(GRACE_S)
    assert Tracing({}).heard(CALLER, None) is None
