"""A retry never pays twice, and two creates that are meant are two: stories of creates that are sent again."""

import asyncio
import json
import re

import pytest
from running import PATIENCE_S
from stories import STILL, Ahead, ask, fetch, job, live, numbers, types, until
from wire import dial, exchange, scripted_upstream

import gateway.edge.delivery
import gateway.relay.answers
from gateway.domain.attempt import JOIN_S
from gateway.domain.facts import Detached, Ended, Joined

RETRY = {"x-stainless-retry-count": "1"}
AGAIN = {"x-stainless-retry-count": "2"}
NAMED = {"Idempotency-Key": "the tide of Monday"}
AT_ONCE = {"retry_after_s": 0.01}


@pytest.fixture(autouse=True)
def loaded_machine(monkeypatch):
    """A connection that is closed at once is seen to be, also where that takes a while."""
    monkeypatch.setattr(gateway.edge.delivery, "GIVEN_S", PATIENCE_S)
    monkeypatch.setattr(gateway.relay.answers, "GIVEN_S", PATIENCE_S)


async def create(gateway, body, headers=None, key="sk-test"):
    """A create by a client whose connection breaks when it has the answer, so that it may have got lost."""
    others = gateway.connections
    answer = await fetch(f"{gateway.url}/v1/responses", "POST", body=body, headers=headers, key=key)
    await until(lambda: gateway.connections == others)
    return answer


def posts(upstream):
    return upstream.asked("POST", "/v1/responses")


def upstreams(answer):
    """The headers that are not the gateway's own."""
    return [(name, value) for name, value in answer.headers.items() if not re.match("(?i)x-gateway-|date$", name)]


def same(first, second):
    assert (first.status, first.body) == (second.status, second.body)
    assert upstreams(first) == upstreams(second)


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("scenario", ["normal", "created_202"])
async def test_an_answer_that_may_be_lost_is_given_again_as_it_was(stage, scenario, background):
    upstream, gateway = await stage()
    body = {**ask(scenario), "background": background}
    first = await create(gateway, body)
    await gateway.facts.wait_for(Ended)
    same(await create(gateway, body, RETRY), first)
    same(await create(gateway, body, AGAIN), first)
    assert posts(upstream) == 1
    assert [(fact.by, fact.retry) for fact in gateway.facts.of(Joined)] == [("retry", 1), ("retry", 2)]


@pytest.mark.parametrize("background", [True, False])
async def test_a_stream_is_given_again_from_its_first_event(stage, background):
    upstream, gateway = await stage()
    body = {**ask(), "stream": True, "background": background}
    first = await create(gateway, body)
    same(await create(gateway, body, RETRY), first)
    assert posts(upstream) == 1
    assert types(first.events)[-1] == "response.completed"


async def test_tracked_by_its_stream_a_response_is_shown_again_as_it_was_at_first(stage):
    upstream, gateway = await stage(background_tracking="stream")
    body = {**ask(), "background": True}
    first = await create(gateway, body)
    await gateway.facts.wait_for(Ended)
    same(await create(gateway, body, RETRY), first)
    assert posts(upstream) == 1


async def test_what_is_not_kept_any_more_is_answered_with_the_response_as_it_is(stage, monkeypatch):
    monkeypatch.setattr(gateway.relay.answers, "KEPT_BYTES", 1)
    upstream, running = await stage()
    body = {**ask(), "background": True}
    first = await create(running, body)
    await running.facts.wait_for(Ended)
    again = await create(running, body, RETRY)
    assert (again.status, again.json["id"], again.json["status"]) == (200, first.json["id"], "completed")
    assert posts(upstream) == 1


async def test_two_creates_that_are_meant_are_two(stage):
    upstream, gateway = await stage()
    client = gateway.client()
    at_once = [client.responses.create(**ask(), background=True) for _ in range(5)]
    made = [*await asyncio.gather(*at_once), await client.responses.create(**ask(), background=True)]
    assert len({response.id for response in made}) == posts(upstream) == 6


async def test_an_answer_that_was_given_is_given_to_nobody_else(stage):
    upstream, gateway = await stage()
    first = await gateway.client().responses.create(**ask())
    body = ask()
    second = await create(gateway, body, RETRY)
    assert second.json["id"] != first.id
    assert posts(upstream) == 2


async def test_a_client_that_wants_its_connection_closed_has_its_answer_all_the_same(parts, stage):
    upstream, gateway = await stage()
    body = b'{"model": "m", "input": "i"}'
    head = b"POST /v1/responses HTTP/1.1\r\nHost: g\r\nConnection: close\r\nContent-Length: %d\r\n" % len(body)
    for retry in (b"0", b"1"):
        await exchange(parts, gateway.url, head + b"x-stainless-retry-count: " + retry + b"\r\n\r\n" + body)
    assert posts(upstream) == 2


async def test_what_upstream_refused_is_a_new_attempt(stage):
    upstream, gateway = await stage()
    made = await gateway.client(max_retries=2).responses.create(**ask("rate_limited", **AT_ONCE))
    assert made.status == "completed"
    assert posts(upstream) == 3
    assert gateway.facts.of(Joined) == []


async def test_while_equal_ones_run_a_retry_of_what_was_refused_joins_none_of_them(stage):
    _, gateway = await stage(simulated={"speed": 2.0})
    client = gateway.client(max_retries=20)
    creates = [client.responses.create(**ask("flaky", **AT_ONCE)) for _ in range(12)]
    made = await asyncio.gather(*creates)
    assert len({response.id for response in made}) == 12
    assert gateway.facts.of(Joined) == []


async def test_nobody_joins_what_is_another_owners(stage):
    upstream, gateway = await stage()
    body = {**ask(), "background": True}
    alice = await create(gateway, body, key="sk-alice")
    bob = await create(gateway, body, RETRY, key="sk-bob")
    assert bob.json["id"] != alice.json["id"]
    same(await create(gateway, body, RETRY, key="sk-alice"), alice)
    assert posts(upstream) == 2


async def test_after_ten_minutes_a_retry_is_a_new_create(stage):
    clock = Ahead()
    upstream, gateway = await stage(clock=clock)
    body = {**ask(), "background": True}
    first = await create(gateway, body)
    clock.by_s = JOIN_S + 1
    assert (await create(gateway, body, RETRY)).json["id"] != first.json["id"]
    assert posts(upstream) == 2


async def test_a_first_try_that_seems_to_wait_still_is_joined_and_both_get_the_answer(parts, stage):
    upstream, gateway = await stage(simulated=STILL)
    body = b'{"model": "m", "input": "i"}'
    line = await dial(parts, gateway.url)
    await line.send(b"POST /v1/responses HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await until(lambda: posts(upstream))
    again = asyncio.ensure_future(fetch(f"{gateway.url}/v1/responses", "POST", body=body, headers=RETRY, key=""))
    await gateway.facts.wait_for(Joined)
    upstream.simulator.skip(60)
    answer = await again
    assert (await line.head()).startswith(b"HTTP/1.1 200")
    assert await line.exactly(len(answer.body)) == answer.body
    assert posts(upstream) == 1


async def test_an_answer_too_large_to_be_kept_goes_to_one_and_the_other_is_told_so(parts, stage):
    upstream, gateway = await stage(simulated=STILL, event_limit_bytes=100)
    body = b'{"model": "m", "input": "i"}'
    line = await dial(parts, gateway.url)
    await line.send(b"POST /v1/responses HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await until(lambda: posts(upstream))
    again = asyncio.ensure_future(fetch(f"{gateway.url}/v1/responses", "POST", body=body, headers=RETRY, key=""))
    await gateway.facts.wait_for(Joined)
    upstream.simulator.skip(60)
    first, second = await line.head(), await again
    assert {first.split(b" ", 2)[1], b"%d" % second.status} == {b"200", b"502"}
    assert posts(upstream) == 1


async def test_an_answer_too_large_to_be_kept_that_nobody_waits_for_is_let_go(parts, gateway_for):
    left = asyncio.Event()

    async def script(asked):
        await left.wait()
        await asked.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 200)
        await asked.rest()

    upstream = await scripted_upstream(parts, script)
    gateway = await gateway_for(upstream.url, event_limit_bytes=100)
    leaving = asyncio.ensure_future(create(gateway, ask()))
    await until(lambda: upstream.asked)
    leaving.cancel()
    await until(lambda: not gateway.connections)
    left.set()
    async with asyncio.timeout(PATIENCE_S):
        await upstream.lines_closed.acquire()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_foreground_response_whose_client_left_for_good_is_stopped_and_joined_by_nobody(stage, stream):
    upstream, gateway = await stage(simulated=STILL, linger_s=0.05)
    body = {**ask("late"), "stream": stream}
    leaving = asyncio.ensure_future(create(gateway, body))
    await until(lambda: posts(upstream))
    leaving.cancel()
    await gateway.facts.wait_for(Ended)
    again = asyncio.ensure_future(create(gateway, body, RETRY))
    await until(lambda: posts(upstream) == 2)
    upstream.simulator.skip(60)
    assert (await again).status == 200


async def test_what_upstream_may_have_made_is_not_asked_for_twice(stage):
    upstream, gateway = await stage()
    body = {**ask("vanishes"), "background": True}
    first = await create(gateway, body)
    assert (first.status, first.headers["x-should-retry"]) == (502, "false")
    same(await create(gateway, body, RETRY), first)
    assert posts(upstream) == 1


async def test_a_key_names_a_create_whoever_sends_it_and_however_often(stage):
    upstream, gateway = await stage()
    client = gateway.client()
    body = {**ask(), "background": True}
    made = await asyncio.gather(*[client.responses.create(**body, extra_headers=NAMED) for _ in range(5)])
    await gateway.facts.wait_for(Ended)
    made.append(await client.responses.create(**body, extra_headers=NAMED))
    assert len({response.id for response in made}) == posts(upstream) == 1
    assert {response.status for response in made} == {"queued"}
    assert [fact.by for fact in gateway.facts.of(Joined)] == ["idempotency_key"] * 5


async def test_a_key_with_another_body_is_refused(stage):
    upstream, gateway = await stage()
    await create(gateway, ask(), NAMED)
    refused = await create(gateway, {**ask(), "background": True}, NAMED)
    assert (refused.status, refused.error["type"]) == (422, "invalid_request_error")
    assert refused.error["code"] == "idempotency_key_reused"
    assert posts(upstream) == 1


async def test_another_owner_may_use_the_same_key(stage):
    upstream, gateway = await stage()
    for key in ("sk-alice", "sk-bob"):
        assert (await create(gateway, {**ask(), "user": key}, NAMED, key=key)).status == 200
    assert posts(upstream) == 2


async def test_a_key_whose_create_was_refused_can_be_used_again(stage):
    _, gateway = await stage()
    statuses = [(await create(gateway, ask("rate_limited"), NAMED)).status for _ in range(3)]
    assert statuses == [429, 429, 200]


async def test_a_key_is_forgotten_after_ten_minutes(stage):
    clock = Ahead()
    upstream, gateway = await stage(clock=clock)
    body = {**ask(), "background": True}
    first = await create(gateway, body, NAMED)
    clock.by_s = JOIN_S - 5
    same(await create(gateway, body, NAMED), first)
    clock.by_s = JOIN_S + 5
    assert (await create(gateway, body, NAMED)).json["id"] != first.json["id"]
    assert posts(upstream) == 2


async def test_a_full_gateway_still_lets_a_retry_join_and_nobody_else(stage):
    upstream, gateway = await stage(simulated=STILL, max_live=1)
    body = {**ask(), "background": True}
    first = await create(gateway, body)
    assert (await create(gateway, body)).status == 503
    assert (await create(gateway, body, RETRY)).status == 503  # of the one that was refused just now
    same(await create(gateway, body, RETRY), first)
    assert posts(upstream) == 1


async def test_a_stream_that_found_no_room_is_joined_when_there_is_some(stage):
    upstream, gateway = await stage(simulated=STILL, max_followers=1)
    reader = await gateway.client().responses.create(**job("stalls"))
    body = job("late")
    refused = asyncio.ensure_future(create(gateway, body))
    await until(lambda: posts(upstream) == 2)
    upstream.simulator.skip(5)
    assert (await refused).status == 503
    await reader.close()
    await gateway.facts.wait_for(Detached)
    again = asyncio.ensure_future(create(gateway, body, RETRY))
    await gateway.facts.wait_for(Joined)
    upstream.simulator.skip(60)
    assert numbers((await again).events)[0] == 0
    assert posts(upstream) == 2


async def test_an_error_that_is_sent_again_for_leaves_the_create_to_be_joined_also_on_a_line_that_stays(parts, stage):
    upstream, gateway = await stage(simulated=STILL, max_followers=1)
    reader = await gateway.client(key="sk-other").responses.create(**job("stalls"))
    line = await dial(parts, gateway.url)
    body = json.dumps(job()).encode()
    head = b"POST /v1/responses HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n" % len(body)
    await line.send(head + b"\r\n" + body)
    refused = await line.head()
    assert refused.startswith(b"HTTP/1.1 503")
    await line.exactly(int(re.search(rb"(?i)content-length: (\d+)", refused)[1]))
    await reader.close()
    await gateway.facts.wait_for(Detached)
    await line.send(head + b"x-stainless-retry-count: 1\r\n\r\n" + body)
    assert (await line.head()).startswith(b"HTTP/1.1 200")
    assert [fact.retry for fact in gateway.facts.of(Joined)] == [1]
    assert posts(upstream) == 2


async def test_a_retry_whose_first_try_never_arrived_is_a_create_of_its_own(stage):
    upstream, gateway = await stage()
    body = {**ask(), "background": True}
    given = await gateway.client().responses.create(**body)
    again = await create(gateway, body, RETRY)
    assert again.json["id"] != given.id
    assert posts(upstream) == 2
    assert gateway.facts.of(Joined) == []


async def test_with_keys_of_their_own_equal_creates_stay_apart_though_a_first_try_never_arrived(stage):
    upstream, gateway = await stage(simulated=STILL)
    url = f"{gateway.url}/v1/responses"
    waiting = asyncio.ensure_future(fetch(url, "POST", body=ask(), headers={"Idempotency-Key": "one"}))
    await until(lambda: posts(upstream))
    again = asyncio.ensure_future(fetch(url, "POST", body=ask(), headers={**RETRY, "Idempotency-Key": "two"}))
    await until(lambda: posts(upstream) == 2)
    upstream.simulator.skip(60)
    assert (await waiting).json["id"] != (await again).json["id"]


async def test_a_response_says_how_often_it_was_joined(stage):
    _, gateway = await stage(simulated=STILL)
    body = {**ask(), "background": True}
    made = await create(gateway, body)
    again = await create(gateway, body, RETRY)
    assert live(gateway, made.json["id"]).response.counts.joined == 1
    (joined,) = gateway.facts.of(Joined)
    assert joined.response.response_id == made.json["id"]
    assert joined.request_id == again.headers["x-gateway-request-id"] != made.headers["x-gateway-request-id"]
    scrape = await fetch(f"{gateway.ops_url}/metrics", parsed=False)
    name = "responses_gateway_duplicate_creates_joined_total"
    assert f'{name}{{by="retry"}} 1.0' in scrape.body.decode()
    assert f'{name}{{by="idempotency_key"}} 0.0' in scrape.body.decode()
