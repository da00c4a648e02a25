"""One response, one trace, whatever happens to the gateway or the collector: stories with real processes."""

import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from collecting import Collector
from processes import Process, eventually, serve
from running import Running, Upstream
from stories import MODEL, all_of, ask, fetch, job, some, types

from gateway import app
from gateway.telemetry import names
from gateway.telemetry.receiver import Received

Serve = Callable[..., Awaitable[Process]]
Simulate = Callable[..., Awaitable[Upstream]]

CHAT = "chat gpt-5.2"
CREATE = "POST /v1/responses"
FOREVER = {"OTEL_BSP_SCHEDULE_DELAY": "86400000"}
"""Spans are gathered for a day: none is handed to the exporter before the process is killed."""


@pytest.fixture
async def collector(parts: AsyncExitStack) -> Collector:
    """A collector that is away."""
    collector = Collector()
    parts.push_async_callback(collector.close)
    return collector


@pytest.fixture
def run(parts: AsyncExitStack, tmp_path: Path, collector: Collector) -> Serve:
    """Start gateways on one SQLite file, one after the other, that export to the collector."""

    async def start(upstream: Upstream, environ: dict[str, str] | None = None, **settings: Any) -> Process:
        quick = {"poll_schedule_s": "0.05,0.1,0.2", "drain_delay_s": 0, "upstream_retry_max_s": 0.2}
        exporting = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50", **(environ or {})}
        store = f"sqlite:///{tmp_path}/responses.db"
        process = await serve(upstream.url, store, environ=exporting, **{**quick, **settings})
        parts.push_async_callback(process.close)
        return process

    return start


async def finished(process: Process) -> str:
    """A background stream, read to its end: by then the end is committed. The response's id."""
    events = await all_of(await process.client().responses.create(**job()))
    assert types(events)[-1] == "response.completed"
    return str(events[0]["response"]["id"])


def content(span: Received) -> Received:
    """What a span says, less what names the process that sent it."""
    return replace(span, resource={name: said for name, said in span.resource.items() if name != "service.instance.id"})


def children_of(process: Process) -> list[int]:
    """The processes that it has started. Source: proc_tid_children(5)."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def state_of(pid: int) -> str:
    """One letter, Z for one that has ended; nothing for one that is not there. Source: proc_pid_stat(5)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


async def runs(pid: int) -> bool:
    return state_of(pid) not in ("", "Z")


async def metric(process: Process, name: str) -> float:
    """The sum of a metric's series."""
    lines = (await fetch(f"{process.ops_url}/metrics")).body.decode().splitlines()
    series = (f"{name} ", f"{name}{{")
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(series))


async def test_killed_after_the_commit_the_next_process_sends_the_generation(
    simulate: Simulate, run: Serve, collector: Collector
) -> None:
    upstream = await simulate()
    await collector.open()
    first = await run(upstream, FOREVER)
    response_id = await finished(first)
    (exporter,) = children_of(first)
    await first.kill()
    assert await collector.span("POST"), "what was told before has its exporter's last word"
    assert collector.named(CHAT) == []
    await eventually(lambda: runs(exporter), lambda running: not running)

    await run(upstream)
    generation = await collector.span(CHAT)
    assert generation.attributes[names.GENAI_RESPONSE_ID] == response_id
    trace = collector.trace(generation.trace_id)
    roots = {span.span_id: span.name for span in trace if not span.parent_id}
    assert [*roots.values()] == [CREATE], "with what the dead one may not have got out"
    assert {span.name for span in trace} >= {CREATE, "queued", "in_progress", CHAT}
    assert {span.parent_id for span in trace} <= {"", *(span.span_id for span in trace)}


async def test_killed_after_the_hand_over_to_the_exporter_it_sends_it_too(
    simulate: Simulate, run: Serve, collector: Collector
) -> None:
    upstream = await simulate()
    collector.swallows = True
    await collector.open()
    first = await run(upstream)
    await finished(first)
    # The stream's own spans go by another way: two requests are under way when the generation is.
    await collector.until(lambda: collector.asked >= 2)
    await first.kill()
    assert collector.spans == ()

    collector.swallows = False
    await run(upstream)
    assert await collector.span(CHAT)


async def test_an_exporter_that_dies_is_replaced_and_sends_what_was_not_taken(
    simulate: Simulate, run: Serve, collector: Collector
) -> None:
    upstream = await simulate()
    collector.swallows = True
    await collector.open()
    process = await run(upstream)
    response_id = await finished(process)
    await collector.until(lambda: collector.asked >= 2)
    (exporter,) = children_of(process)
    os.kill(exporter, signal.SIGKILL)

    collector.swallows = False
    generation = await collector.span(CHAT)
    assert generation.attributes[names.GENAI_RESPONSE_ID] == response_id
    await eventually(lambda: metric(process, names.SPANS_DUE), lambda due: due == 0)
    lost = f'{names.SPANS_DROPPED}{{reason="export_failed"}}'
    assert await metric(process, lost) >= 1, "those that went through the queue"
    assert children_of(process) != [exporter]


async def test_killed_after_the_send_it_sends_the_same_span_again(
    simulate: Simulate, run: Serve, collector: Collector
) -> None:
    upstream = await simulate()
    collector.silent = True
    await collector.open()
    first = await run(upstream)
    await finished(first)
    await collector.span(CHAT)
    await first.kill()

    collector.silent = False
    second = await run(upstream)
    one, other, *more = await collector.until(lambda: len(found := collector.named(CHAT)) > 1 and found)
    assert more == []
    assert content(one) == content(other)
    # What the collector has confirmed is sent no more.
    await eventually(lambda: metric(second, names.SPANS_DUE), lambda due: due == 0)
    await second.kill()
    third = await run(upstream)
    await finished(third)
    await collector.until(lambda: len(collector.named(CHAT)) > 2)
    assert len({span.span_id for span in collector.named(CHAT)}) == 2
    assert len(collector.named(CHAT)) == 3


async def test_a_collector_that_was_away_gets_what_happened_meanwhile(
    simulate: Simulate, run: Serve, collector: Collector
) -> None:
    upstream = await simulate()
    process = await run(upstream, {"OTEL_EXPORTER_OTLP_TIMEOUT": "0.2"})
    ids = {await finished(process), await finished(process)}
    await eventually(lambda: metric(process, names.SPANS_DUE), lambda due: due == 2)
    assert (await fetch(f"{process.url}/v1/responses/{ids.copy().pop()}")).status == 200

    await collector.open()
    await collector.until(lambda: len(collector.named(CHAT)) == 2)
    assert {span.attributes[names.GENAI_RESPONSE_ID] for span in collector.named(CHAT)} == ids
    await eventually(lambda: metric(process, names.SPANS_DUE), lambda due: due == 0)
    assert await metric(process, names.SPANS_EXPORTED) >= 2


async def test_a_caller_that_is_no_parent_is_linked_to_by_whichever_process_tells_of_the_create(
    simulate: Simulate, run: Serve, collector: Collector
) -> None:
    upstream = await simulate(speed=2.0)
    first = await run(upstream, FOREVER, upstream_api_key="sk-gateway", trust_traceparent="link")
    caller = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    await first.client().responses.create(**ask(), background=True, extra_headers=caller)
    await first.kill()

    await collector.open()
    await run(upstream, upstream_api_key="sk-gateway", trust_traceparent="link")
    (link,) = (await collector.span(CREATE)).links
    assert link == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    assert (await collector.span(CHAT)).trace_id != link[0]


@pytest.mark.parametrize(("before", "after"), [("always_on", "always_off"), ("always_off", "always_on")])
async def test_what_was_decided_at_the_start_holds_whatever_is_set_later(
    simulate: Simulate, run: Serve, collector: Collector, before: str, after: str
) -> None:
    upstream = await simulate(speed=2.0)
    await collector.open()
    first = await run(upstream, {"OTEL_TRACES_SAMPLER": before}, upstream_api_key="sk-gateway")
    created = await first.client().responses.create(**ask(), background=True)
    await first.kill()

    second = await run(upstream, {"OTEL_TRACES_SAMPLER": after}, upstream_api_key="sk-gateway")
    poll = second.client().responses.retrieve
    await eventually(lambda: poll(created.id), lambda response: response.status == "completed")
    other = await finished(second)
    sampled = created.id if before == "always_on" else other
    assert (await collector.span(CHAT)).attributes[names.GENAI_RESPONSE_ID] == sampled
    second.tell_to_stop()
    assert await second.stopped() == 0
    assert len(collector.named(CHAT)) == 1


async def test_what_an_unsampled_response_is_promoted_for_is_known_to_the_process_after(
    simulate: Simulate, run: Serve, collector: Collector
) -> None:
    upstream = await simulate(speed=1.0)
    await collector.open()
    unsampled = {"OTEL_TRACES_SAMPLER": "always_off"}
    first = await run(upstream, unsampled, upstream_api_key="sk-gateway", patience_polled_s=0.1)
    created = await first.client().responses.create(**ask("slow", queue_s=3600), background=True)
    stuck = f'{names.BECAME_STUCK}{{model="{MODEL}",reason="queued"}}'
    await eventually(lambda: metric(first, stuck), lambda times: times == 1)
    first.tell_to_stop()
    assert await first.stopped() == 0

    await run(upstream, unsampled, upstream_api_key="sk-gateway")
    upstream.simulator.skip(7200)
    generation = await collector.span(CHAT)
    assert generation.attributes[names.GENAI_RESPONSE_ID] == created.id
    assert generation.attributes[names.GATEWAY_PROMOTED] == "stuck"


async def test_killed_in_the_middle_it_is_one_tree_with_one_generation_of_the_true_length(
    simulate: Simulate, run: Serve, collector: Collector
) -> None:
    upstream = await simulate(speed=4.0)
    await collector.open()
    first = await run(upstream, FOREVER)
    before = await some(await first.client().responses.create(**job(delta_count=100)), 20)
    response_id, last = before[0]["response"]["id"], before[-1]["sequence_number"]
    await first.kill()

    second = await run(upstream)
    await all_of(await second.client().responses.retrieve(response_id, stream=True, starting_after=last))
    generation = await collector.span(CHAT)
    second.tell_to_stop()
    assert await second.stopped() == 0

    trace = collector.trace(generation.trace_id)
    assert [span.name for span in trace if not span.parent_id] == [CREATE]
    assert {span.parent_id for span in trace} <= {"", *(span.span_id for span in trace)}
    assert [span.name for span in trace].count(CHAT) == 1
    assert {"queued", "in_progress", "reattach", "stream"} <= {span.name for span in trace}
    story = (await fetch(f"{upstream.url}/responses/{response_id}")).json
    assert generation.attributes[names.GENAI_USAGE_OUTPUT] == story["usage"]["output_tokens"]
    phases = [span for span in trace if span.name in ("queued", "in_progress")]
    assert generation.start == min(span.start for span in trace) == min(span.start for span in phases)
    assert generation.end == max(span.end for span in phases)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_the_standard_variables_say_where_spans_go_as_what_and_with_which_credential(
    simulate: Simulate, run: Serve, collector: Collector, protocol: str
) -> None:
    upstream = await simulate()
    await collector.open()
    environ = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_ENDPOINT": await collector.open_grpc() if protocol == "grpc" else collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=husum,authorization=Bearer%20of-the-collector",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_SERVICE_NAME": "llm-edge",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,service.namespace=tides",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "12",
        "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "10",
    }
    await finished(await run(upstream, environ))
    generation = await collector.span(CHAT[:10])
    sent = [{name.lower(): value for name, value in headers.items()} for headers in collector.headers]
    assert {(headers["x-tenant"], headers["authorization"]) for headers in sent} == {
        ("husum", "Bearer of-the-collector")
    }
    resource = generation.resource
    assert (resource["service.name"], resource["service.namespace"]) == ("llm-edge", "tides")
    assert resource["deployment.environment.name"] == "test"
    assert len(generation.attributes) == 12
    assert generation.attributes["gen_ai.operation.name"] == "chat", "the first ones stay"
    assert all(len(value) <= 10 for value in generation.attributes.values() if isinstance(value, str))


@pytest.mark.parametrize("trouble", ["away", "deaf", "refusing"])
async def test_whatever_the_collector_does_clients_and_the_stop_do_not_notice_and_what_is_lost_is_counted(
    simulate: Simulate,
    gateway_for: Callable[..., Awaitable[Running]],
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    monkeypatch.setattr(app, "_TELEMETRY_S", 0.2)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1" if trouble == "away" else "2")
    collector.swallows, collector.refuses = trouble == "deaf", trouble == "refusing"
    if trouble != "away":
        await collector.open()
    upstream = await simulate()
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "10"}
    gateway = await gateway_for(upstream.url, environ=environ)
    for _ in range(3):
        assert (await gateway.client().responses.create(**ask())).status == "completed"
    assert types(await all_of(await gateway.client().responses.create(**job())))[-1] == "response.completed"
    await gateway.gateway.stop()

    text = gateway.gateway.metrics.render("text/plain")[1].decode()
    series = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(names.SPANS_DROPPED))
    lost = {name.split('"')[1]: float(count) for name, count in series.items()}
    # Four creates, an attempt for each, a stream and a phase; four generations and a phase, which no file keeps here.
    due = sum(not line.startswith("#") and line.startswith(names.SPANS_DUE) for line in text.splitlines())
    assert sum(lost.values()) == 4 + 4 + 1 + 1 + 4
    assert lost["shutdown"] >= 4
    assert due == 1
