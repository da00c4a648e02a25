"""Every metric counts real traffic: clients, a simulator and a gateway over HTTP, and a scrape of it all."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from running import PATIENCE_S, Running, Samples, Upstream
from stories import KEY, MODEL, STILL, Ahead, all_of, ask, fetch, following, job, live, until
from test_stories_odd_upstreams import COMPLETED, CREATED, DELTA, SSE_HEAD, data_of
from test_stories_store_failure import Failing
from traffic import everything
from wire import scripted_upstream

import gateway.app
from gateway.domain.facts import (
    Delivered,
    Detached,
    Ended,
    LoopLagged,
    NumbersSkipped,
    PickedUp,
    RequestServed,
    ResumeRefused,
    StoreMeasured,
    Surveyed,
    UpstreamPolled,
)
from gateway.telemetry.catalogue import METRICS
from gateway.telemetry.receiver import Receiver

Stage = Callable[..., Awaitable[tuple[Upstream, Running]]]
Simulate = Callable[..., Awaitable[Upstream]]
GatewayFor = Callable[..., Awaitable[Running]]

ELSEWHERE = {
    "upstream_expiry_timestamp_seconds": "test_stories_stuck: what is not stored expires upstream",
    "sequence_gaps_total": "below: numbers that upstream leaves out",
    "completion_detection_clamped_total": "below: a gateway whose clock is behind",
    "late_terminals_total": "below: an end that comes late",
    "resumes_refused_total": "below: every reason",
    "responses_adopted_total": "below: after a restart",
    "responses_let_go_total": "test_stories_replicas",
    "responses_unheld": "test_stories_replicas",
    "creates_untracked_total": "below: while the store is down",
    "store_failures_total": "below: while the store is down",
    "cost_total": "below: by the prices that are set",
    "spans_dropped_total": "test_telemetry_export",
    "generation_spans_due": "test_telemetry_export",
    "telemetry_observers_removed_total": "test_telemetry_metrics",
    "purged_records_total": "below: with a resume that comes too late",
}


def of(samples: Samples, name: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All samples of one metric."""
    endings = ("", "_sum", "_count", "_bucket")
    return {key: value for key, value in samples.items() if key[0] in {f"{name}{ending}" for ending in endings}}


async def ended(gateway: Running, response_id: str) -> Ended:
    return await gateway.facts.wait_for(Ended, lambda fact: fact.response.response_id == response_id)


async def background(gateway: Running, scenario: str = "normal", **fields: Any) -> str:
    return str((await gateway.client().responses.create(**ask(scenario), background=True, **fields)).id)


async def test_every_metric_of_the_catalogue_moves_with_traffic(
    parts: Any, simulate: Simulate, gateway_for: GatewayFor, tmp_path: Path
) -> None:
    upstream, collector = await simulate(speed=5.0), Receiver()
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": await collector.start(), "OTEL_BSP_SCHEDULE_DELAY": "50"}
    parts.push_async_callback(collector.close)
    impatient = {"patience_s": 0.3, "patience_polled_s": 0.3, "linger_s": 0.2, "drain_s": 0.1}
    gateway = await gateway_for(upstream.url, store=f"sqlite:///{tmp_path}/r.db", environ=environ, **impatient)
    seen = dict[str, bool]()

    async def look() -> None:
        """Which show something; a gauge may go back to nothing."""
        while True:
            now = await gateway.scrape()
            for metric in METRICS:
                name = metric.name.removeprefix("responses_gateway_")
                seen[name] = seen.get(name, False) or any(of(now, name).values())
            await asyncio.sleep(0.02)

    def unmoved() -> set[str]:
        return {name for name, moved in seen.items() if not moved} - ELSEWHERE.keys()

    looking = asyncio.create_task(look())
    until_s = time.monotonic() + PATIENCE_S
    while not seen or unmoved():
        await everything(gateway, upstream)
        assert time.monotonic() < until_s, unmoved()
    looking.cancel()
    assert seen.keys() >= ELSEWHERE.keys(), "a metric that is not in the catalogue any more"


# Polls


async def test_a_poll_by_the_schedule_has_a_lag_and_one_that_a_client_asks_for_has_none(stage: Stage) -> None:
    _, gateway = await stage(poll_schedule_s=(3600.0,), poll_max_age_s=0.001)
    response_id = await background(gateway, "stuck")
    await gateway.client().responses.retrieve(response_id)
    asked = await gateway.facts.wait_for(UpstreamPolled)
    assert asked.lag is None
    assert await gateway.shown("upstream_poll_lag_seconds_count") == 0

    gateway.gateway.context.tracker.poller.hurry(live(gateway, response_id))
    due = await gateway.facts.wait_for(UpstreamPolled, lambda fact: fact.lag is not None)
    assert due.lag is not None
    assert due.lag >= 0
    assert await gateway.shown("upstream_poll_lag_seconds_count") == 1
    assert await gateway.shown("poll_duration_seconds_count") == 2


async def test_the_first_client_that_learns_an_end_picks_it_up_and_nobody_after_it(stage: Stage) -> None:
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    response_id = await background(gateway)
    upstream.simulator.skip(60)
    end = await ended(gateway, response_id)
    assert await gateway.shown("completion_pickup_seconds_count", by="poll") == 0, "completed and not fetched yet"

    await asyncio.gather(*(client.responses.retrieve(response_id) for _ in range(10)))
    picked_up = await gateway.facts.wait_for(PickedUp)
    await client.responses.retrieve(response_id)
    found = await gateway.gateway.store.get(end.response.key)
    assert found is not None
    assert found.counts.pickups == len(gateway.facts.of(PickedUp)) == 1
    assert picked_up.seconds == pytest.approx(picked_up.at - end.response.status_at)
    assert await gateway.shown("completion_pickup_seconds_count", by="poll") == 1


async def test_who_reads_a_stream_to_its_end_has_picked_it_up(stage: Stage) -> None:
    _, gateway = await stage()
    client = gateway.client()
    events = await all_of(await client.responses.create(**job()))
    picked_up = await gateway.facts.wait_for(PickedUp)
    assert picked_up.by == "stream"
    await client.responses.retrieve(events[0]["response"]["id"])
    assert await gateway.shown("completion_pickup_seconds_count", by="stream") == 1
    assert await gateway.shown("completion_pickup_seconds_count", by="poll") == 0


async def test_who_cancels_knows_the_end_and_an_answer_in_the_foreground_is_no_pickup(stage: Stage) -> None:
    _, gateway = await stage()
    client = gateway.client()
    await client.responses.create(**ask())
    await all_of(await client.responses.create(**ask(), stream=True))
    await client.responses.cancel(await background(gateway, "slow"))
    assert (await gateway.facts.wait_for(PickedUp)).response.status == "cancelled"
    assert len(gateway.facts.of(PickedUp)) == 1


async def test_what_was_picked_up_before_a_restart_is_not_picked_up_again(
    simulate: Simulate, gateway_for: GatewayFor, tmp_path: Path
) -> None:
    upstream, store = await simulate(), f"sqlite:///{tmp_path}/responses.db"
    first = await gateway_for(upstream.url, store=store)
    response_id = await background(first)
    await ended(first, response_id)
    await first.client().responses.retrieve(response_id)
    await first.facts.wait_for(PickedUp)
    await first.gateway.stop()

    second = await gateway_for(upstream.url, store=store)
    assert (await second.client().responses.retrieve(response_id)).status == "completed"
    await second.gateway.stop()
    assert second.facts.of(PickedUp) == []


@pytest.mark.parametrize(("ahead_s", "clamped"), [(3600.0, 0), (-3600.0, 1)])
async def test_how_long_a_completion_took_to_be_known_is_by_upstreams_own_time(
    stage: Stage, ahead_s: float, clamped: int
) -> None:
    clock = Ahead()
    clock.by_s = ahead_s
    _, gateway = await stage(clock=clock)
    end = await ended(gateway, await background(gateway))
    assert end.response.completed_at is not None
    expected = max(0.0, end.at - end.response.completed_at)
    assert await gateway.shown("completion_detection_seconds_sum", observed="poll") == pytest.approx(expected)
    assert await gateway.shown("completion_detection_clamped_total") == clamped


@pytest.mark.parametrize(("body", "observed"), [(ask() | {"background": True}, "poll"), (job(), "stream")])
async def test_queue_and_first_output_say_how_they_were_observed(
    stage: Stage, body: dict[str, Any], observed: str
) -> None:
    _, gateway = await stage()
    answer = await fetch(f"{gateway.url}/v1/responses", "POST", body=body)
    end = await gateway.facts.wait_for(Ended)
    assert answer.status == 200
    assert end.response.started_at is not None
    assert end.response.first_output_at is not None
    queued, output = end.response.started_at, end.response.first_output_at
    created = end.response.created_at
    waited = await gateway.shown("response_queue_seconds_sum", observed=observed, model=MODEL)
    assert waited == pytest.approx(queued - created)
    labels = {"mode": str(end.response.mode), "observed": observed}
    assert await gateway.shown("response_time_to_first_output_seconds_sum", **labels) == pytest.approx(output - created)


async def test_an_end_that_comes_after_tracking_was_given_up_is_a_late_one(stage: Stage) -> None:
    upstream, gateway = await stage(simulated=STILL, give_up_after_s=0.3)
    response_id = await background(gateway)
    await ended(gateway, response_id)
    upstream.simulator.skip(60)
    await gateway.client().responses.retrieve(response_id)
    await gateway.facts.wait_for(Ended, lambda fact: fact.late)
    assert await gateway.shown("late_terminals_total", status="completed") == 1
    assert await gateway.shown("responses_given_up_total", ending="abandoned", mode="background") == 1


# Streams


async def test_a_resume_says_how_far_behind_it_was(stage: Stage) -> None:
    upstream, gateway = await stage(simulated=STILL)
    client = gateway.client()
    stream = await client.responses.create(**job())
    upstream.simulator.skip(60)
    events = await all_of(stream)
    await all_of(await client.responses.retrieve(events[0]["response"]["id"], stream=True, starting_after=9))
    assert await gateway.shown("resume_events_behind_count") == 1
    assert await gateway.shown("resume_events_behind_sum") == len(events) - 10


async def test_a_resume_that_is_refused_is_counted_with_its_reason(stage: Stage, monkeypatch: Any) -> None:
    made: list[Failing] = []
    monkeypatch.setattr(gateway.app, "open_store", lambda settings, clock: made.append(Failing(clock)) or made[-1])
    clock = Ahead()
    _, running = await stage(clock=clock, max_followers=1, resume_window_s=60)
    client = running.client()
    first = await all_of(await client.responses.create(**job(), store=False))
    url = f"{running.url}/v1/responses/{first[0]['response']['id']}?stream=true"
    reading = await client.responses.create(**job("stuck"))
    await following(reading, 1)

    assert (await fetch(url)).error["code"] == "gateway_overloaded", "a replay, not a resume"
    assert (await fetch(f"{url}&starting_after=3")).error["code"] == "gateway_overloaded"
    made[0].down = True
    assert (await fetch(f"{url}&starting_after=3")).error["code"] == "store_unavailable"
    made[0].down = False
    await reading.close()
    await running.facts.wait_for(Detached, lambda fact: fact.how == "client")
    clock.by_s = 61
    await fetch(f"{running.ops_url}/purge", "POST")
    assert (await fetch(f"{url}&starting_after=3")).error["code"] == "stream_expired"

    assert [fact.reason for fact in running.facts.of(ResumeRefused)] == ["overloaded", "store", "expired"]
    for reason in ("overloaded", "store", "expired"):
        assert await running.shown("resumes_refused_total", reason=reason) == 1
    assert await running.shown("purged_records_total") == 1


@pytest.mark.parametrize(
    ("numbers", "gaps"), [((0, 1, 2), []), ((0, 5, 9), [(0, 4), (5, 3)]), ((4, 5, 6), []), ((0, 0, 0), [])]
)
async def test_numbers_that_upstream_leaves_out_are_gaps(
    parts: Any, gateway_for: GatewayFor, numbers: tuple[int, ...], gaps: list[tuple[int, int]]
) -> None:
    sent = [
        {**event, "sequence_number": number} for event, number in zip((CREATED, DELTA, COMPLETED), numbers, strict=True)
    ]

    async def answer(asked: Any) -> None:
        await asked.exactly(int(asked.header(b"content-length")[0]))
        for event in sent:
            await asked.send((SSE_HEAD if event is sent[0] else b"") + data_of(event))

    upstream = await scripted_upstream(parts, answer)
    running = await gateway_for(upstream.url)
    await fetch(f"{running.url}/v1/responses", "POST", body=ask() | {"stream": True})
    assert [(fact.after, fact.missing) for fact in running.facts.of(NumbersSkipped)] == gaps
    assert await running.shown("sequence_gaps_total") == len(gaps)


async def test_delivery_is_sampled_once_a_second_for_a_reader_that_keeps_up(stage: Stage) -> None:
    _, gateway = await stage(simulated={"speed": 10.0})
    client = gateway.client()
    events = await all_of(await client.responses.create(**job(delta_count=100, duration_s=20)))
    sampled = gateway.facts.of(Delivered)
    assert 1 <= len(sampled) < len(events) / 10
    assert all(later.at - earlier.at >= 0.9 for earlier, later in pairwise(sampled))
    assert all(0 <= fact.seconds < PATIENCE_S for fact in sampled)
    assert await gateway.shown("event_delivery_seconds_count") == len(sampled)

    await all_of(await client.responses.retrieve(events[0]["response"]["id"], stream=True))
    assert len(gateway.facts.of(Delivered)) == len(sampled), "a replay is no delivery"


async def test_readers_and_outstanding_tokens_are_counted_as_they_come_and_go(stage: Stage) -> None:
    _, gateway = await stage(simulated=STILL, linger_s=1)
    client = gateway.client()
    stream = await client.responses.create(**job())
    await following(stream, 1)
    response_id = await background(gateway, "stuck")
    await gateway.facts.wait_for(Surveyed, lambda fact: (fact.followers, fact.outstanding) == (1, 1))
    assert await gateway.shown("continuation_tokens_outstanding") == 1
    assert await gateway.shown("stream_followers") == 1
    await stream.close()
    await client.responses.cancel(response_id)
    await gateway.facts.wait_for(Surveyed, lambda fact: fact.at > gateway.facts.of(Ended)[-1].at and not fact.followers)
    await until(lambda: gateway.facts.of(Surveyed)[-1].outstanding == 0)


async def test_a_token_that_is_outstanding_is_so_after_a_restart_too(
    simulate: Simulate, gateway_for: GatewayFor, tmp_path: Path
) -> None:
    upstream, store = await simulate(), f"sqlite:///{tmp_path}/responses.db"
    first = await gateway_for(upstream.url, store=store)
    response_id = await background(first, "stuck")
    await first.gateway.stop()

    second = await gateway_for(upstream.url, store=store)
    await second.facts.wait_for(Surveyed, lambda fact: fact.outstanding == 1)
    assert await second.shown("responses_adopted_total", how="waits_for_owner") == 1
    await second.client().responses.retrieve(response_id)
    assert await second.shown("continuation_tokens_redeemed_total", how="poll", form="none") == 1


# HTTP


async def test_requests_in_flight_are_those_that_are_being_answered(stage: Stage) -> None:
    _, gateway = await stage(simulated=STILL)
    assert await gateway.shown("http_requests_in_flight") == 0
    answers = [asyncio.create_task(fetch(f"{gateway.url}/v1/responses", "POST", body=ask())) for _ in range(3)]
    await until(lambda: gateway.gateway.context.in_flight.count == 3)
    assert await gateway.shown("http_requests_in_flight") == 3
    for answer in answers:
        answer.cancel()
    await until(lambda: gateway.gateway.context.in_flight.count == 0)
    assert await gateway.shown("http_requests_in_flight") == 0


async def test_bytes_are_those_of_the_bodies_in_whatever_way_they_came(stage: Stage) -> None:
    _, gateway = await stage()
    url, received, sent = f"{gateway.url}/v1", 0, 0
    models = await fetch(f"{url}/models")
    streamed = await fetch(f"{url}/responses", "POST", body=b'{"model":"m","input":"x","stream":true}', parsed=False)
    refused = await fetch(f"{url}/../outside")
    chunked = b'{"model":"m","input":"x"}'
    async with (
        aiohttp.ClientSession(headers=KEY) as http,
        http.post(f"{url}/responses", data=aiohttp.AsyncIterablePayload(pieces(chunked))) as answer,
    ):
        sent += len(await answer.read())
    received += len(b'{"model":"m","input":"x","stream":true}') + len(chunked)
    sent += sum(len(one.body) for one in (models, streamed, refused))
    await until(lambda: len(gateway.facts.of(RequestServed)) == 4)
    assert await gateway.shown("http_bytes_total", direction="received") == received
    assert await gateway.shown("http_bytes_total", direction="sent") == sent


async def pieces(data: bytes) -> Any:
    for start in range(0, len(data), 10):
        yield data[start : start + 10]


async def test_a_stream_lasts_and_its_headers_come_early(stage: Stage) -> None:
    _, gateway = await stage()
    await all_of(await gateway.client().responses.create(**job()))
    served = await gateway.facts.wait_for(RequestServed, lambda fact: fact.streamed)
    assert served.seconds < served.lifetime
    route = {"route": served.route}
    assert await gateway.shown("http_stream_lifetime_seconds_sum", **route) == pytest.approx(served.lifetime)
    assert await gateway.shown("http_time_to_headers_seconds_sum", **route) == pytest.approx(served.seconds)


async def test_an_answer_that_upstream_breaks_off_is_upstreams_fault_though_it_began_well(
    parts: Any, gateway_for: GatewayFor
) -> None:
    async def answer(asked: Any) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot quite")
        asked.close()

    upstream = await scripted_upstream(parts, answer)
    running = await gateway_for(upstream.url)
    with suppress(aiohttp.ClientError):
        await fetch(f"{running.url}/v1/models")
    served = await running.facts.wait_for(RequestServed)
    assert (served.status, served.origin) == (200, "upstream")


async def test_while_the_store_is_down_creates_are_untracked_and_named_by_their_mode(
    stage: Stage, monkeypatch: Any
) -> None:
    made: list[Failing] = []
    monkeypatch.setattr(gateway.app, "open_store", lambda settings, clock: made.append(Failing(clock)) or made[-1])
    _, running = await stage()
    made[0].down = True
    await background(running)
    await fetch(f"{running.url}/v1/responses", "POST", body=b"not JSON")
    assert await running.shown("creates_untracked_total", reason="store", mode="background") == 1
    assert await running.shown("creates_untracked_total", reason="not_json", mode="unknown") == 1
    assert await running.shown("store_failures_total", operation="create") == 1


# The gateway itself


async def test_cost_is_counted_once_per_response_by_the_prices_that_are_set(stage: Stage) -> None:
    _, gateway = await stage(prices="gpt-*=1000/1000/2000")
    response_id = await background(gateway)
    end = await ended(gateway, response_id)
    await gateway.client().responses.retrieve(response_id)
    assert end.response.usage is not None
    assert end.response.model is not None
    cost = (end.response.usage.input * 1000 + end.response.usage.output * 2000) / 1e6
    assert await gateway.shown("cost_total", model=end.response.model) == pytest.approx(cost)


async def test_the_room_of_the_store_is_measured_and_memory_has_no_disk(stage: Stage) -> None:
    _, gateway = await stage()
    measured = await gateway.facts.wait_for(StoreMeasured)
    on_disk = gateway.gateway.settings.store.path is not None
    assert await gateway.shown("store_bytes") == measured.bytes
    assert (await gateway.shown("store_free_bytes") is not None) is on_disk
    assert await gateway.shown("store_capacity_bytes") == measured.capacity_bytes


async def test_a_busy_loop_shows_as_lag(stage: Stage) -> None:
    _, gateway = await stage()
    await gateway.facts.wait_for(LoopLagged)
    before = await gateway.shown("event_loop_lag_seconds_count") or 0
    seen = len(gateway.facts.of(LoopLagged))
    asyncio.get_running_loop().call_soon(busy, 0.4)
    await until(lambda: len(gateway.facts.of(LoopLagged)) > seen)
    assert max(fact.seconds for fact in gateway.facts.of(LoopLagged)) > 0.1
    assert (await gateway.shown("event_loop_lag_seconds_count") or 0) > before


def busy(seconds: float) -> None:
    until_s = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < until_s:
        pass


async def test_upstream_is_reachable_when_its_last_answer_was_one(stage: Stage) -> None:
    upstream, gateway = await stage()
    assert await gateway.shown("upstream_reachable") is None, "nothing was asked yet"
    await fetch(f"{gateway.url}/v1/models")
    assert await gateway.shown("upstream_reachable") == 1
    await upstream.server.close()
    with suppress(openai.OpenAIError):
        await gateway.client().models.list()
    assert await gateway.shown("upstream_reachable") == 0
