"""Facts in, spans out: as values, through the SDK, and over real OTLP to a receiver."""

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from lives import TRACE, T, a_life, a_response, ended
from msgspec import structs
from msgspec.structs import replace
from opentelemetry.trace import SpanKind
from spanning import GRACE_S, attributes, exported, spans_after, tell

from gateway.domain import facts
from gateway.domain.continuation import CursorForm
from gateway.domain.errors import CLIENT_LEFT
from gateway.domain.mode import Parameters
from gateway.domain.response import Caller, Counts, Ending, Status, Stuck, Trace, Usage
from gateway.telemetry import names
from gateway.telemetry.receiver import Receiver, tree
from gateway.telemetry.tracing import Tracing

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


async def test_one_life_is_one_trace_with_the_stored_ids_and_times(receiver: Receiver) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": await receiver.start()}
    tracing = Tracing(environ, version="1.2.3", upstream="https://api.example.com/v1")
    await tracing.open()
    await tell(tracing, a_life())
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
    drawn = tree(spans, [names.GENAI_RESPONSE_STATUS, names.GATEWAY_QUEUE_SECONDS, names.GATEWAY_LEFT_REASON])
    assert re.sub(r" {2,}", "  ", drawn).splitlines() == [
        "POST /v1/responses  +0.000 s  0.500 s",
        "└─ chat gpt-5  +0.000 s  10.000 s  status=completed  queue_seconds=2.000",
        "  ├─ queued  +0.000 s  2.000 s  status=queued",
        "  ├─ stream  +0.600 s  4.400 s  reason=left",
        "  ├─ in_progress  +2.000 s  8.000 s  status=in_progress",
        "  ├─ reattach  +4.500 s  0.250 s",
        "  └─ stream  +6.000 s  4.250 s  reason=end",
    ]


async def test_the_generation_span_tells_the_whole_life() -> None:
    end = next(fact for fact in a_life() if isinstance(fact, facts.Ended))
    span = (await exported([end], upstream="https://api.example.com:8443/v1"))["chat gpt-5"]
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
        "gen_ai.usage.cache_write.input_tokens": 0,
        "gen_ai.usage.output_tokens": 50,
        "gen_ai.usage.reasoning.output_tokens": 30,
        "server.address": "api.example.com",
        "server.port": 8443,
        "gateway.key": "key-1",
        "gateway.route": "openai",
        "gateway.mode": "background_stream",
        "gateway.owner": "owner-ha",
        "gateway.request_id": "request-1",
        "gateway.followed": "pumped",
        "gateway.ending": "terminal",
        "gateway.source": "stream",
        "gateway.queue_seconds": 2,
        "gateway.events": 20,
        "gateway.polls.client": 2,
        "gateway.polls.upstream": 1,
        "gateway.attaches": 2,
        "gateway.resumes": 1,
        "gateway.disconnects": 1,
        "gateway.reattaches": 1,
    }
    assert span.status.is_unset


async def test_usage_is_on_the_generation_span_alone() -> None:
    life = [fact for fact in a_life() if not isinstance(fact, facts.Detached)]
    done = next(fact.response for fact in life if isinstance(fact, facts.Ended))
    spans = await exported([*life, facts.UpstreamPolled(T + 10, done, "terminal", 200, 0.1)])
    assert [name for name, span in spans.items() if any("usage" in key for key in attributes(span))] == ["chat gpt-5"]


@pytest.mark.parametrize("attended", [True, False])
@pytest.mark.parametrize(("caller", "records"), [(None, False), (0xDEF, False), (0xDEF, True)])
async def test_tokens_that_the_callers_own_span_counts_are_not_summed_twice(
    caller: int | None, records: bool, attended: bool
) -> None:
    trace = replace(TRACE, remote_span_id=caller, remote_sampled=records)
    spans = await exported([ended(Status.COMPLETED, attended=attended, trace=trace, usage=Usage(input=7))])
    prefix = "gateway" if records and attended else "gen_ai"
    found = {key: tokens for key, tokens in attributes(spans["chat gpt-5"]).items() if ".usage.input" in key}
    assert found == {f"{prefix}.usage.input_tokens": 7}


async def test_what_the_model_was_asked_for_and_gave_has_the_conventions_names() -> None:
    asked = Parameters(400, 0.5, 0.9, "high", "json", "flex", "pmpt_1", "2")
    end = ended(
        Status.COMPLETED,
        parameters=asked,
        service_tier="flex",
        previous_response_id="resp_0",
        conversation="conv_1",
        output_types=("reasoning", "compaction", "message", "function_call"),
        usage=Usage(input=9, cache_written=3),
    )
    told = attributes((await exported([end]))["chat gpt-5"])
    assert (
        told.items()
        >= {
            "gen_ai.request.max_tokens": 400,
            "gen_ai.request.temperature": 0.5,
            "gen_ai.request.top_p": 0.9,
            "gen_ai.request.reasoning.level": "high",
            "gen_ai.output.type": "json",
            "gen_ai.prompt.name": "pmpt_1",
            "gen_ai.prompt.version": "2",
            "openai.request.service_tier": "flex",
            "openai.response.service_tier": "flex",
            "gen_ai.request.previous_response.id": "resp_0",
            "gen_ai.conversation.id": "conv_1",
            "gen_ai.conversation.compacted": True,
            "gen_ai.response.finish_reasons": ("stop", "tool_calls"),
            "gen_ai.usage.cache_write.input_tokens": 3,
        }.items()
    )


async def test_the_tier_that_everybody_gets_is_not_said() -> None:
    told = attributes(
        (await exported([ended(Status.COMPLETED, parameters=Parameters(service_tier="auto"))]))["chat gpt-5"]
    )
    assert not [name for name in told if "service_tier" in name]


async def test_a_response_that_goes_on_from_another_links_to_it() -> None:
    before = Trace(trace_id=0xAAA, span_id=0xBBB, parent_span_id=0xCCC, flags=3, sampled=True)
    span = (await exported([ended(Status.COMPLETED, previous_trace=before)]))["chat gpt-5"]
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == [(0xAAA, 0xBBB)]


async def test_continuation_tokens_are_told_by_how_and_by_the_form_of_the_cursor() -> None:
    counts = Counts(
        tokens_issued=5,
        tokens_redeemed=3,
        redeemed_poll=1,
        redeemed_resume=2,
        redeemed_none=1,
        redeemed_starting_after=1,
        redeemed_suffix=1,
    )
    span = (await exported([ended(Status.COMPLETED, counts=counts, token_open=True)]))["chat gpt-5"]
    prefix = "gateway.continuation_tokens."
    assert {name.removeprefix(prefix): told for name, told in attributes(span).items() if name.startswith(prefix)} == {
        "issued": 5,
        "redeemed": 3,
        "redeemed.poll": 1,
        "redeemed.resume": 2,
        "redeemed.form.none": 1,
        "redeemed.form.starting_after": 1,
        "redeemed.form.suffix": 1,
        "outstanding": True,
    }


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
    asked = a_response(client_path="/openai/v1/responses", user_agent="AsyncOpenAI/Python 3.57.0")
    spans = await exported([facts.Created(T + 1, asked)])
    assert {name: attributes(span) for name, span in spans.items()} == {
        "POST /v1/responses": {
            "http.request.method": "POST",
            "http.route": "/v1/responses",
            "http.response.status_code": 200,
            "url.path": "/openai/v1/responses",
            "url.scheme": "http",
            "user_agent.original": "AsyncOpenAI/Python 3.57.0",
            "gen_ai.response.id": "resp_1",
            "gateway.key": "key-1",
            "gateway.mode": "background_stream",
            "gateway.request_id": "request-1",
        }
    }


async def test_each_attempt_to_create_is_a_span_under_the_generation() -> None:
    asked = a_response(
        path="/v1/responses", query="api-version=2026-11-01&sig=s3cret&token", upstream_request_id="req_1"
    )
    told = [
        facts.Attempted(T, asked.but(upstream_request_id=None), 0, 0.5, 0, "upstream_timeout"),
        facts.Attempted(T + 1, asked, 400, 0.25, 1),
        facts.Attempted(T + 2, asked, 200, 0.125, 2),
    ]
    spans = await spans_after(told, upstream="https://api.example.com:8443/v1")
    assert {span.parent.span_id for span in spans} == {TRACE.span_id}
    assert {(span.name, span.kind) for span in spans} == {("POST", SpanKind.CLIENT)}
    assert [round((span.end_time - span.start_time) / 1e9, 3) for span in spans] == [0.5, 0.25, 0.125]
    every = {
        "http.request.method": "POST",
        "url.full": "https://api.example.com:8443/v1/responses?api-version=2026-11-01&REDACTED",
        "server.address": "api.example.com",
        "server.port": 8443,
    }
    known = {"gateway.upstream.request_id": "req_1"}
    assert list(map(attributes, spans)) == [
        {**every, "error.type": "upstream_timeout"},
        {**every, **known, "http.response.status_code": 400, "http.request.resend_count": 1, "error.type": "400"},
        {**every, **known, "http.response.status_code": 200, "http.request.resend_count": 2},
    ]
    assert [span.status.is_unset for span in spans] == [False, False, True]


async def test_a_reader_tells_from_where_it_read_how_far_and_who_left() -> None:
    left = facts.Detached(
        T + 9,
        a_response(),
        "resume",
        "slow",
        50,
        40,
        8,
        T + 5,
        CursorForm.LAST_EVENT_ID,
        10,
        "curl/8",
        "0123456789abcdef",
    )
    ended_well = facts.Detached(T + 9, a_response(), "first", "end", 50, 51, 0, T + 5)
    spans = await spans_after([left, ended_well])
    assert [attributes(span) for span in spans] == [
        {
            "gateway.attach.kind": "resume",
            "gateway.cursor.form": "last_event_id",
            "gateway.cursor.after": 10,
            "gateway.events.delivered": 40,
            "gateway.events.replayed": 8,
            "gateway.left.number": 50,
            "gateway.left.side": "client",
            "gateway.left.reason": "slow",
            "gateway.owner": "01234567",
            "user_agent.original": "curl/8",
        },
        {
            "gateway.attach.kind": "first",
            "gateway.cursor.form": "none",
            "gateway.events.delivered": 51,
            "gateway.events.replayed": 0,
            "gateway.left.number": 50,
            "gateway.left.reason": "end",
        },
    ]


CALLER = Caller(trace_id=0xABC, span_id=0xDEF, flags=3, state="vendor=1")


def served(detail: Any = None, status: int = 200, **changes: Any) -> facts.RequestServed:
    """A client's GET of a response, by a client that records its own span."""
    about = {"response": a_response(status=Status.COMPLETED), "path": "/v1/responses/resp_1", "request_id": "request-2"}
    fact = facts.RequestServed(T + 9, "GET", "/responses/{id}", status, None, 0.5, 2.0, detail=detail, **about)
    return structs.replace(fact, **{"caller": CALLER, **changes})


async def test_what_a_client_asks_for_within_a_span_of_its_own_stands_in_its_trace_and_links_to_the_generation() -> (
    None
):
    polled = facts.ClientPolled(T + 9, a_response(), "terminal", "shared")
    span = (await exported([served(polled)]))["GET /v1/responses/{id}"]
    assert span.kind is SpanKind.SERVER
    assert (span.context.trace_id, span.context.trace_state.to_header()) == (0xABC, "vendor=1")
    assert span.parent is not None
    assert (span.parent.span_id, span.parent.is_remote) == (0xDEF, True)
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == [(TRACE.trace_id, TRACE.span_id)]
    assert (span.start_time, span.end_time) == (int((T + 7) * 1e9), int((T + 9) * 1e9))
    assert attributes(span) == {
        "http.request.method": "GET",
        "http.route": "/v1/responses/{id}",
        "http.response.status_code": 200,
        "url.path": "/v1/responses/resp_1",
        "url.scheme": "http",
        "gen_ai.operation.name": "fetch_response",
        "gen_ai.provider.name": "openai",
        "openai.api.type": "responses",
        "gen_ai.response.id": "resp_1",
        "gen_ai.response.model": "gpt-5-2026-01-01",
        "gen_ai.response.status": "completed",
        "gen_ai.response.finish_reasons": ("stop",),
        "gateway.outcome": "terminal",
        "gateway.served": "shared",
        "gateway.key": "key-1",
        "gateway.request_id": "request-2",
    }


async def test_so_does_a_resume_and_says_from_where() -> None:
    read = facts.Detached(T + 9, a_response(), "resume", "end", 19, 9, 2, T + 7, CursorForm.STARTING_AFTER, 10)
    spans = await exported([served(read)])
    told = attributes(spans["GET /v1/responses/{id}"])
    assert (told["gen_ai.request.stream"], told["gen_ai.request.stream_cursor"]) == (True, "10")
    assert (told["gateway.events.delivered"], told["gateway.left.reason"]) == (9, "end")


async def test_a_request_that_failed_says_so_and_one_that_its_client_gave_up_is_no_error() -> None:
    failed = (await exported([served(status=502)]))["GET /v1/responses/{id}"]
    assert (failed.status.is_unset, attributes(failed)["error.type"]) == (False, "502")
    given_up = (await exported([served(status=CLIENT_LEFT)]))["GET /v1/responses/{id}"]
    assert given_up.status.is_unset
    assert "http.response.status_code" not in attributes(given_up)
    cancel = {"method": "POST", "route": "/responses/{id}/cancel"}
    asked = (await exported([served(**cancel)]))["POST /v1/responses/{id}/cancel"]
    assert "gen_ai.operation.name" not in attributes(asked), "there is no such operation in the convention"


async def test_where_a_traceparent_is_no_more_than_a_link_such_a_span_has_a_trace_of_its_own() -> None:
    span = (await exported([served()], trust="link"))["GET /v1/responses/{id}"]
    assert span.parent is None
    assert span.context.trace_id not in (0xABC, TRACE.trace_id)
    assert [link.context.trace_id for link in span.links] == [TRACE.trace_id, 0xABC]


async def test_of_an_unsampled_response_a_sampled_client_still_has_its_own_spans() -> None:
    unsampled = a_response(trace=UNSAMPLED)
    polled = facts.ClientPolled(T, unsampled, "unchanged", "store")
    assert set(await exported([polled, served(polled, response=unsampled)])) == {"GET /v1/responses/{id}"}


async def test_five_thousand_polls_make_no_five_thousand_spans() -> None:
    running = a_response(status=Status.IN_PROGRESS)
    polls: list[facts.Fact] = []
    for number in range(5000):
        polls.append(facts.ClientPolled(T + number, running, "unchanged", "shared"))
        polls.append(served(polls[-1], caller=None))
        # What a poll shows may grow each time without being news.
        polls.append(facts.UpstreamPolled(T + number, running, "changed", 200, 0.1))
        polls.append(facts.UpstreamPolled(T + number, running, "error", 503, 0.1, failures=number))
    polls.append(facts.UpstreamPolled(T + 5000, running, "changed", 200, 0.1, news=True))
    spans = await spans_after(polls)
    assert [span.name for span in spans] == ["fetch_response"] * 14
    assert [attributes(span).get("gateway.polls.failures_before") for span in spans] == [
        *(None, 1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 2047, 4095),
        None,
    ]


async def test_what_else_happens_to_a_response_hangs_under_its_generation() -> None:
    about = {"last_event": "response.queued", "upstream_request_id": "req_1", "path": "/v1/responses"}
    stuck = a_response(status=Status.QUEUED, stuck=Stuck.QUEUED, status_at=T + 2, progress_at=T + 1, **about)
    spans = await exported(
        [
            facts.BecameStuck(T + 60, stuck),
            facts.Cancelled(T + 70, a_response(), 200, 0.5),
            facts.UpstreamPolled(T + 71, a_response(status=Status.CANCELLED), "terminal", 200, 0.25),
            facts.UpstreamPolled(T + 72, a_response(), "unchanged", 200, 0.25),
            facts.Reattached(T + 73, stuck, 8, "refused", 0.25, 404),
        ],
        upstream="http://127.0.0.1:8081/v1",
    )
    assert {span.parent.span_id for span in spans.values() if span.parent} == {TRACE.span_id}
    assert attributes(spans["stuck"]) == {
        "gateway.stuck.reason": "queued",
        "gateway.stuck.since": "2026-09-21T14:13:22.000+00:00",
        "gateway.last_event": "response.queued",
        "gateway.upstream.request_id": "req_1",
        "gen_ai.response.id": "resp_1",
        "gen_ai.response.status": "queued",
        "gen_ai.request.model": "gpt-5",
        "gen_ai.response.model": "gpt-5-2026-01-01",
        "gateway.key": "key-1",
        "gateway.mode": "background_stream",
    }
    again = attributes(spans["reattach"])
    assert again["url.full"] == "http://127.0.0.1:8081/v1/responses/resp_1?stream=true&starting_after=8"
    assert (again["http.response.status_code"], again["error.type"], again["gateway.outcome"]) == (
        404,
        "404",
        "refused",
    )
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
    lost = ended(Status.IN_PROGRESS, Ending.LOST, started_at=T + 2)
    final = lost.response.but(status=Status.COMPLETED, ending=Ending.TERMINAL, usage=Usage(input=7), ended_at=T + 99)
    spans = await exported([lost, facts.Ended(T + 99, final, late=True, source="poll")])
    assert set(spans) == {"in_progress", "chat gpt-5", "late_terminal"}
    assert attributes(spans["chat gpt-5"])["error.type"] == "lost"
    assert attributes(spans["late_terminal"])["gen_ai.usage.input_tokens"] == 7


async def test_another_process_ends_the_trace_that_a_dead_one_began() -> None:
    first = await exported(a_life()[:10])
    second = await exported([facts.TakenUp(T + 6, a_life()[9].response, "pumped"), *a_life()[10:]])  # type: ignore[attr-defined]
    assert "chat gpt-5" not in first
    assert {span.parent.span_id for span in first.values() if span.parent} == {second["chat gpt-5"].context.span_id}
    assert second["chat gpt-5"].start_time == first["POST /v1/responses"].start_time
    for name in ("POST /v1/responses", "queued"):
        # What the dead one may not have got out is told again, as it was.
        assert second[name].to_json() == first[name].to_json()


async def test_however_often_an_end_is_sent_its_spans_are_the_same() -> None:
    late = ended(Status.COMPLETED).response.but(ended_at=T + 99)
    told = [a_life()[16], facts.Ended(T + 99, late, late=True, source="poll")]
    once, again = [await exported(told) for _ in range(2)]
    assert set(once) == {"in_progress", "chat gpt-5", "late_terminal"}
    assert {name: span.to_json() for name, span in once.items()} == {
        name: span.to_json() for name, span in again.items()
    }
    assert len({span.context.span_id for span in once.values()}) == 3


async def test_a_create_that_upstream_never_answered_is_told_when_it_is_given_up() -> None:
    lost = ended(None, Ending.UPSTREAM_LOST, answered_at=None, response_id=None)
    spans = await exported([facts.TakenUp(T + 6, lost.response, "ended"), lost])
    server, generation = spans["POST /v1/responses"], spans["chat gpt-5"]
    assert generation.parent is not None
    assert generation.parent.span_id == server.context.span_id
    assert attributes(server)["error.type"] == "upstream_lost"


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
            # Whichever process it was stuck in: the record says so.
            [ended(Status.COMPLETED, trace=UNSAMPLED, counts=Counts(stucks=1, resumes=1))],
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
