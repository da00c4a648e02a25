"""Facts in, spans out: as values, through the SDK, and over real OTLP to a receiver."""

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from lives import TRACE, T, a_life, a_response, ended
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from gateway.domain import facts
from gateway.domain.mode import Mode
from gateway.domain.response import Ending, Status, Stuck, Usage
from gateway.telemetry import names
from gateway.telemetry.receiver import Receiver, tree
from gateway.telemetry.tracing import Tracing

GRACE_S = 60.0
UNSAMPLED = replace(TRACE, sampled=False, flags=2)


@pytest.fixture(autouse=True)
def _no_context_is_lost(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not [record for record in caplog.records if record.name == "opentelemetry.context"]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    yield receiver
    await receiver.close()


async def exported(told: Sequence[facts.Fact], **options: Any) -> dict[str, ReadableSpan]:
    """The spans that some facts make, by name."""
    memory = InMemorySpanExporter()
    tracing = Tracing({}, exporter=memory, **options)
    for fact in told:
        tracing.observe(fact)
    await tracing.close(GRACE_S)
    spans = memory.get_finished_spans()
    assert len({span.name for span in spans}) == len(spans)
    return {span.name: span for span in spans}


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return dict(span.attributes or {})


async def test_one_life_is_one_trace_with_the_stored_ids_and_times(receiver: Receiver) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": await receiver.start()}
    tracing = Tracing(environ, version="1.2.3", upstream="https://api.example.com/v1")
    for fact in a_life():
        tracing.observe(fact)
    await tracing.close(GRACE_S)

    spans = receiver.trace(f"{TRACE.trace_id:032x}")
    assert len(spans) == len(receiver.spans)
    server, generation = f"{TRACE.parent_span_id:016x}", f"{TRACE.span_id:016x}"
    shape = {(s.name, s.kind, s.parent_id, round(s.start - T, 3), round(s.seconds, 3)) for s in spans}
    assert shape == {
        ("POST /v1/responses", "server", "", 0, 0.5),
        ("chat gpt-5", "client", server, 0, 10),
        ("queued", "internal", generation, 0, 2),
        ("in_progress", "internal", generation, 2, 8),
        ("reattach", "client", generation, 4.5, 0.25),
        ("stream", "internal", generation, 0.6, 4.4),
        ("stream", "internal", generation, 6, 4.25),
    }
    assert {s.span_id for s in spans if s.name in ("POST /v1/responses", "chat gpt-5")} == {server, generation}
    assert spans[0].resource["service.name"] == "responses-gateway"
    assert spans[0].resource["service.version"] == "1.2.3"
    drawn = tree(spans, [names.GENAI_RESPONSE_STATUS, names.GATEWAY_QUEUE_SECONDS, names.GATEWAY_LEFT_HOW])
    assert re.sub(r" {2,}", "  ", drawn).splitlines() == [
        "POST /v1/responses  +0.000 s  0.500 s",
        "└─ chat gpt-5  +0.000 s  10.000 s  status=completed  queue_seconds=2.000",
        "  ├─ queued  +0.000 s  2.000 s  status=queued",
        "  ├─ stream  +0.600 s  4.400 s  how=client",
        "  ├─ in_progress  +2.000 s  8.000 s  status=in_progress",
        "  ├─ reattach  +4.500 s  0.250 s",
        "  └─ stream  +6.000 s  4.250 s  how=end",
    ]


async def test_the_generation_span_tells_the_whole_life() -> None:
    span = (await exported([*a_life()[:16], a_life()[16]], upstream="https://api.example.com:8443/v1"))["chat gpt-5"]
    assert attributes(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "openai.api.type": "responses",
        "gen_ai.request.model": "gpt-5",
        "gen_ai.request.stream": True,
        "gen_ai.response.id": "resp_1",
        "gen_ai.response.model": "gpt-5-2026-01-01",
        "gen_ai.response.status": "completed",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": 3,
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.cache_read.input_tokens": 40,
        "gen_ai.usage.output_tokens": 50,
        "gen_ai.usage.reasoning.output_tokens": 30,
        "server.address": "api.example.com",
        "server.port": 8443,
        "gateway.key": "key-1",
        "gateway.route": "openai",
        "gateway.mode": "background_stream",
        "gateway.followed": "pumped",
        "gateway.ending": "terminal",
        "gateway.source": "stream",
        "gateway.late": False,
        "gateway.synthesised": False,
        "gateway.queue_seconds": 2,
        "gateway.events": 20,
        "gateway.polls.client": 2,
        "gateway.polls.upstream": 1,
        "gateway.attaches": 2,
        "gateway.resumes": 1,
        "gateway.disconnects": 1,
        "gateway.reattaches": 1,
        "gateway.continuation_tokens.issued": 0,
        "gateway.continuation_tokens.redeemed": 0,
        "gateway.contradictions": 0,
    }
    assert span.status.is_unset


async def test_usage_is_on_the_generation_span_alone() -> None:
    life = [fact for fact in a_life() if not isinstance(fact, facts.Detached)]
    done = next(fact.response for fact in life if isinstance(fact, facts.Ended))
    spans = await exported([*life, facts.UpstreamPolled(T + 10, done, "terminal", 200, 0.1)])
    assert [name for name, span in spans.items() if any("usage" in key for key in attributes(span))] == ["chat gpt-5"]


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("caller", [None, 0xDEF])
async def test_tokens_that_the_callers_own_span_counts_are_not_summed_twice(mode: Mode, caller: int | None) -> None:
    trace = replace(TRACE, remote_span_id=caller)
    spans = await exported([ended(Status.COMPLETED, mode=mode, trace=trace, usage=Usage(input=7))])
    twice = caller is not None and not mode.background
    prefix = "gateway" if twice else "gen_ai"
    found = {key: tokens for key, tokens in attributes(spans["chat gpt-5"]).items() if ".usage.input" in key}
    assert found == {f"{prefix}.usage.input_tokens": 7}


@pytest.mark.parametrize(
    ("end", "error", "finish"),
    [
        (ended(Status.COMPLETED), None, ("stop",)),
        (ended(Status.CANCELLED), None, ("error",)),
        (ended(Status.INCOMPLETE, incomplete_reason="max_output_tokens"), None, ("length",)),
        (ended(Status.INCOMPLETE, incomplete_reason="content_filter"), None, ("content_filter",)),
        (ended(Status.FAILED, error_code="server_error"), "server_error", ("error",)),
        (ended(Status.FAILED), "_OTHER", ("error",)),
        (ended(Status.IN_PROGRESS, Ending.LOST), "lost", None),
        (ended(Status.QUEUED, Ending.ABANDONED), "abandoned", None),
        (ended(Status.IN_PROGRESS, Ending.UPSTREAM_LOST, error_code="upstream_lost"), "upstream_lost", None),
        (ended(Status.IN_PROGRESS, Ending.DELETED), None, None),
    ],
)
async def test_what_is_an_error_and_what_is_none(end: facts.Ended, error: str | None, finish: Any) -> None:
    span = (await exported([end]))["chat gpt-5"]
    assert attributes(span).get("error.type") == error
    assert attributes(span).get("gen_ai.response.finish_reasons") == finish
    assert span.status.is_unset == (error is None)
    assert span.status.description is None


async def test_a_refused_create_is_a_server_span_and_a_failed_generation() -> None:
    refused = a_response(response_id=None, model=None)
    spans = await exported([facts.Refused(T + 1, refused, 429)])
    assert spans["POST /v1/responses"].status.is_unset, "a 4xx is no error of the server's"
    assert attributes(spans["POST /v1/responses"])["http.response.status_code"] == 429
    assert attributes(spans["chat gpt-5"])["error.type"] == "429"
    spans = await exported([facts.Refused(T + 1, refused, 502)])
    assert attributes(spans["POST /v1/responses"])["error.type"] == "502"


async def test_the_create_is_exported_at_once_and_not_at_the_end_of_the_response() -> None:
    assert set(await exported([facts.Created(T + 1, a_response())])) == {"POST /v1/responses"}


async def test_what_else_happens_to_a_response_hangs_under_its_generation() -> None:
    stuck = a_response(status=Status.QUEUED, stuck=Stuck.QUEUED)
    spans = await exported(
        [
            facts.BecameStuck(T + 60, stuck),
            facts.Cancelled(T + 70, a_response(), 200, 0.5),
            facts.UpstreamPolled(T + 71, a_response(status=Status.CANCELLED), "terminal", 200, 0.25),
            facts.UpstreamPolled(T + 72, a_response(), "unchanged", 200, 0.25),
        ]
    )
    assert {span.parent.span_id for span in spans.values() if span.parent} == {TRACE.span_id}
    assert attributes(spans["stuck"])["gateway.stuck.reason"] == "queued"
    assert spans["stuck"].start_time == spans["stuck"].end_time == int((T + 60) * 1e9)
    assert attributes(spans["cancel"])["http.response.status_code"] == 200
    assert spans["cancel"].end_time == spans["cancel"].start_time + 500_000_000
    poll = spans["fetch_response"]
    assert (poll.start_time, poll.end_time) == (int((T + 71) * 1e9), int((T + 71.25) * 1e9))
    assert (poll.kind, attributes(poll)["gen_ai.response.id"]) == (SpanKind.CLIENT, "resp_1")
    assert attributes(poll)["gen_ai.response.status"] == "cancelled"


@pytest.mark.parametrize(("status", "error"), [(0, "_OTHER"), (503, "503"), (404, "404")])
async def test_a_poll_that_failed_says_how(status: int, error: str) -> None:
    spans = await exported([facts.UpstreamPolled(T, a_response(), "error", status, 1.0)])
    assert attributes(spans["fetch_response"])["error.type"] == error


async def test_a_late_terminal_is_a_child_and_leaves_the_generation_as_it_was() -> None:
    lost = ended(Status.IN_PROGRESS, Ending.LOST)
    final = replace(
        lost.response, status=Status.COMPLETED, ending=Ending.TERMINAL, usage=Usage(input=7), ended_at=T + 99
    )
    spans = await exported([lost, facts.Ended(T + 99, final, late=True, source="poll")])
    assert set(spans) == {"chat gpt-5", "late_terminal"}
    assert attributes(spans["chat gpt-5"])["error.type"] == "lost"
    assert attributes(spans["late_terminal"])["gen_ai.usage.input_tokens"] == 7


async def test_another_process_ends_the_trace_that_a_dead_one_began() -> None:
    first = await exported(a_life()[:10])
    second = await exported(a_life()[10:])
    assert "chat gpt-5" not in first
    assert {span.parent.span_id for span in first.values() if span.parent} == {second["chat gpt-5"].context.span_id}
    assert second["chat gpt-5"].start_time == first["POST /v1/responses"].start_time


async def test_of_an_unsampled_response_nothing_is_exported() -> None:
    quiet = [fact for fact in a_life(trace=UNSAMPLED) if not isinstance(fact, facts.Ended)]
    assert await exported([*quiet, ended(Status.COMPLETED, trace=UNSAMPLED)]) == {}


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ([ended(Status.FAILED, trace=UNSAMPLED)], "failed"),
        ([ended(Status.IN_PROGRESS, Ending.LOST, trace=UNSAMPLED)], "failed"),
        (a_life(trace=UNSAMPLED), "resumed"),
        (
            [
                facts.BecameStuck(T + 5, a_response(stuck=Stuck.QUEUED, trace=UNSAMPLED)),
                facts.Recovered(T + 6, a_response(trace=UNSAMPLED), Stuck.QUEUED),
                ended(Status.COMPLETED, trace=UNSAMPLED),
            ],
            "stuck",
        ),
    ],
)
async def test_an_unsampled_response_that_is_worth_a_look_is_promoted(told: list[facts.Fact], reason: str) -> None:
    spans = await exported(told)
    generation = spans.pop("chat gpt-5")
    assert attributes(generation)["gateway.promoted"] == reason
    assert generation.parent is None, "the create was not exported: nothing may hang under it"
    assert generation.context.trace_flags.sampled
    assert set(spans) <= {"in_progress"}
