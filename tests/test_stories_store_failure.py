"""The store is down for a while: traffic goes on as the settings say, and nothing is shown that is not in the log."""

import asyncio
import time

import openai
import pytest
from stories import STILL, all_of, ask, fetch, following, job, numbers, until

import gateway.app
from gateway.domain.errors import StoreUnavailable
from gateway.domain.facts import Ended, Joined, RequestServed, StoreFailed, Untracked
from gateway.store.memory import MemoryStore

RETRY = {"x-stainless-retry-count": "1"}


class Failing(MemoryStore):
    """A store with a switch."""

    down = False

    def _check(self):
        if self.down:
            raise StoreUnavailable("The store is switched off.")
        super()._check()


@pytest.fixture
def switched(simulate, gateway_for, monkeypatch):
    """Start a simulator and a gateway over a store with a switch: (upstream, gateway, store)."""
    made = []
    monkeypatch.setattr(gateway.app, "open_store", lambda settings, clock: made.append(Failing(clock)) or made[-1])

    async def start(simulated=STILL, **settings):
        upstream = await simulate(**simulated)
        return upstream, await gateway_for(upstream.url, **settings), made[-1]

    return start


async def test_by_default_a_create_goes_straight_through_and_says_that_it_is_not_tracked(switched):
    _, gateway, store = await switched()
    store.down = True
    answer = await gateway.client().responses.with_raw_response.create(**ask(), background=True)
    assert answer.headers["x-gateway-tracking"] == "off"
    assert answer.parse().status == "queued"
    assert [fact.reason for fact in gateway.facts.of(Untracked)] == ["store"]


async def test_a_create_can_be_refused_instead_before_upstream_is_called(switched):
    upstream, gateway, store = await switched(on_store_failure="refuse")
    store.down = True
    refused = await fetch(f"{gateway.url}/v1/responses", "POST", body=ask())
    assert (refused.status, refused.error["code"]) == (503, "store_unavailable")
    assert int(refused.headers["Retry-After"]) > 0
    assert upstream.asked("POST", "responses") == 0


async def test_a_running_stream_waits_in_memory_and_goes_on_whole(switched):
    upstream, gateway, store = await switched()
    stream = await gateway.client().responses.create(**job())
    upstream.simulator.skip(1.5)
    first = await following(stream, 10)
    store.down = True
    upstream.simulator.skip(10)
    await gateway.facts.wait_for(StoreFailed, lambda fact: fact.operation == "append")
    store.down = False
    events = first + await all_of(stream)
    assert numbers(events) == await upstream.numbers_of(first[0]["response"]["id"])


async def test_a_poll_goes_upstream_and_a_stream_is_refused_for_now(switched):
    upstream, gateway, store = await switched()
    created = await gateway.client().responses.create(**ask(), background=True)
    store.down = True
    polls = upstream.asked("GET", created.id)
    assert (await gateway.client().responses.retrieve(created.id)).id == created.id
    assert upstream.asked("GET", created.id) > polls
    with pytest.raises(openai.InternalServerError) as refused:
        await gateway.client().responses.retrieve(created.id, stream=True)
    assert (refused.value.status_code, refused.value.code) == (503, "store_unavailable")
    assert refused.value.response.headers["Retry-After"]


async def test_under_the_gateways_key_nobody_is_let_through_unasked(switched):
    upstream, gateway, store = await switched(upstream_api_key="sk-gateway")
    created = await gateway.client().responses.create(**ask(), background=True)
    store.down = True
    assert (await fetch(f"{gateway.url}/v1/responses/{created.id}/input_items")).status == 503
    assert upstream.asked("GET", f"{created.id}/input_items") == 0


async def test_the_process_stays_ready_as_it_can_still_take_traffic(switched):
    _, gateway, store = await switched()
    store.down = True
    assert (await fetch(f"{gateway.ops_url}/readyz")).status == 200


async def test_an_end_that_could_not_be_written_is_written_when_the_store_is_back(switched):
    upstream, gateway, store = await switched()
    created = await gateway.client().responses.create(**ask(), background=True)
    store.down = True
    upstream.simulator.skip(60)
    await gateway.facts.wait_for(StoreFailed, lambda fact: fact.operation == "poll")
    store.down = False
    began = time.monotonic()
    while (await gateway.client().responses.retrieve(created.id)).status != "completed":
        assert time.monotonic() - began < 60


async def test_a_client_that_leaves_while_its_create_is_recorded_leaves_no_record_behind(switched):
    upstream, gateway, store = await switched()
    recording, go_on = asyncio.Event(), asyncio.Event()
    record = store.create

    async def slowly(*arguments, **options):
        recorded = await record(*arguments, **options)
        recording.set()
        await go_on.wait()
        return recorded

    store.create = slowly
    create = asyncio.create_task(gateway.client().responses.create(**ask(), background=True))
    await recording.wait()
    create.cancel()
    await gateway.facts.wait_for(RequestServed)
    go_on.set()
    await until(lambda: not store._held)
    assert upstream.simulator.requests == []


async def test_a_retry_joins_no_create_that_was_recorded_and_never_sent(switched):
    upstream, gateway, store = await switched()
    recording, deleting, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    record, delete = store.create, store.delete

    async def for_ever(*arguments, **options):
        await record(*arguments, **options)
        recording.set()
        await asyncio.Event().wait()

    async def slowly(key):
        store.delete = delete
        deleting.set()
        await go_on.wait()
        await delete(key)

    store.create, store.delete = for_ever, slowly
    url, body = f"{gateway.url}/v1/responses", {**ask(), "background": True}
    leaving = asyncio.create_task(fetch(url, "POST", body=body))
    await recording.wait()
    leaving.cancel()
    await deleting.wait()
    store.create = record
    made = await fetch(url, "POST", body=body, headers=RETRY)
    go_on.set()
    assert made.status == 200
    assert upstream.asked("POST", "responses") == 1
    assert gateway.facts.of(Joined) == []


async def test_what_may_be_the_retry_of_a_create_in_hand_is_not_sent_while_the_store_is_down(switched):
    upstream, gateway, store = await switched()
    url, body = f"{gateway.url}/v1/responses", {**ask(), "background": True}
    await fetch(url, "POST", body=body)
    store.down = True
    refused = await fetch(url, "POST", body=body, headers=RETRY)
    assert (refused.status, refused.error["code"]) == (503, "store_unavailable")
    assert (await fetch(url, "POST", body=body)).headers["x-gateway-tracking"] == "off"
    other = await fetch(url, "POST", body={**ask("slow"), "background": True}, headers=RETRY)
    assert other.headers["x-gateway-tracking"] == "off"
    assert upstream.asked("POST", "responses") == 3


@pytest.mark.parametrize("how", ["cancel", "delete"])
async def test_an_end_is_told_though_the_client_that_made_it_left_while_it_was_written(switched, how):
    _, gateway, store = await switched()
    client = gateway.client()
    created = await client.responses.create(**ask("stuck"), background=True)
    writing, go_on = asyncio.Event(), asyncio.Event()
    finish = store.finish

    async def slowly(*arguments, **options):
        done = await finish(*arguments, **options)
        writing.set()
        await go_on.wait()
        return done

    store.finish = slowly
    request = asyncio.create_task(getattr(client.responses, how)(created.id))
    await writing.wait()
    request.cancel()
    await gateway.facts.wait_for(RequestServed, lambda fact: fact.status == 499)
    go_on.set()
    ended = await gateway.facts.wait_for(Ended)
    assert ended.response.response_id == created.id
    await until(lambda: not gateway.gateway.context.tracker.live)
