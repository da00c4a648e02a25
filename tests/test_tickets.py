"""A ticket stands for the credential in a URL: for one response, for a while, for reading only."""

import asyncio
import re

import aiohttp
import pytest
from processes import serve
from running import PATIENCE_S
from stories import STILL, Ahead, all_of, ask, events_in, fetch, job, some

from gateway.domain.continuation import CursorForm
from gateway.domain.facts import Attached, Ended, RequestServed
from gateway.domain.ticket import Ticket, read_ticket
from gateway.edge.tickets import taken_out

EVENT_SOURCE = {"Accept": "text/event-stream"}
ALICE, BOB = "sk-alice", "sk-bob"


async def ticket_for(url, key="sk-test", **options):
    """A ticket for the response at this URL, as text."""
    got = await fetch(f"{url}/x-gateway-ticket", "POST", key=key, **options)
    assert got.status == 200, got.body
    return got.json["ticket"]


async def by_ticket(url, ticket, query="", **options):
    """A GET that carries nothing but the ticket."""
    return await fetch(f"{url}?{query}{'&' if query else ''}x-gateway-ticket={ticket}", key="", **options)


async def created(gateway, body=None, key="sk-test"):
    """The URL of a response that was just created, and all its events if it is streamed."""
    first = await fetch(f"{gateway.url}/v1/responses", "POST", body=body or job(), key=key)
    response_id = first.events[0]["response"]["id"] if first.events else first.json["id"]
    return f"{gateway.url}/v1/responses/{response_id}", first


async def test_a_ticket_reads_the_stream_without_a_credential(stage):
    upstream, gateway = await stage()
    url, first = await created(gateway)
    got = await fetch(f"{url}/x-gateway-ticket", "POST")
    assert got.headers["Cache-Control"] == "no-store"
    assert got.json == {
        "object": "x-gateway-ticket",
        "response_id": url.rpartition("/")[2],
        "ticket": got.json["ticket"],
        "expires_at": got.json["expires_at"],
    }
    asked = len(upstream.simulator.requests)

    assert (await by_ticket(url, got.json["ticket"], "stream=true")).body == first.body
    tail = await by_ticket(url, got.json["ticket"], "stream=true&starting_after=40")
    assert tail.events == first.events[41:]
    assert (await by_ticket(f"{url}~40", got.json["ticket"], "stream=true")).events[-1] == tail.events[-1]
    assert len(upstream.simulator.requests) == asked


async def test_an_event_source_reconnects_by_ticket_and_is_stopped_at_the_end(stage):
    _, gateway = await stage()
    url, first = await created(gateway)
    ticket = await ticket_for(url)

    rest = await by_ticket(url, ticket, "stream=true", headers={**EVENT_SOURCE, "Last-Event-ID": "40"})
    assert re.findall(rb"^id: (\d+)$", rest.body, re.M)[0] == b"41"
    assert events_in(rest.body) == first.events[41:]
    last = first.events[-1]["sequence_number"]
    end = await by_ticket(url, ticket, "stream=true", headers={**EVENT_SOURCE, "Last-Event-ID": str(last)})
    assert (end.status, end.body) == (204, b"")
    assert {fact.form for fact in gateway.facts.of(Attached)} == {CursorForm.NONE, CursorForm.LAST_EVENT_ID}


async def test_a_ticket_polls_a_running_response_with_its_owners_credential(stage):
    upstream, gateway = await stage(simulated={**STILL, "api_key": ALICE})
    url, _ = await created(gateway, {**ask(), "background": True}, ALICE)
    ticket = await ticket_for(url, ALICE)

    assert (await by_ticket(url, ticket)).json["status"] == "queued"
    upstream.simulator.skip(60)
    ended = await by_ticket(url, ticket, headers={"Prefer": "wait=30"})
    assert (ended.status, ended.json["status"]) == (200, "completed")
    await gateway.facts.wait_for(Ended)
    assert (await by_ticket(url, ticket)).headers["x-gateway-served"] == "store"
    assert {seen.header("Authorization") for seen in upstream.simulator.requests} == {f"Bearer {ALICE}"}


async def test_with_the_gateways_own_key_a_ticket_is_an_owners_too(stage):
    _, gateway = await stage(simulated={"api_key": "sk-own"}, upstream_api_key="sk-own")
    url, first = await created(gateway, key=ALICE)

    refused = await fetch(f"{url}/x-gateway-ticket", "POST", key=BOB)
    assert (refused.status, refused.error["code"]) == (404, "response_not_found")
    ticket = await ticket_for(url, ALICE)
    assert (await by_ticket(url, ticket, "stream=true")).body == first.body
    assert (await by_ticket(url, ticket)).json["status"] == "completed"


async def test_only_an_owner_gets_a_ticket(stage):
    upstream, gateway = await stage(simulated={"api_key": [ALICE, BOB]})
    url, _ = await created(gateway, key=ALICE)

    for key in (BOB, "sk-wrong", ""):
        refused = await fetch(f"{url}/x-gateway-ticket", "POST", key=key)
        assert (refused.status, refused.error["code"]) == (404, "response_not_found")
    unknown = await fetch(f"{gateway.url}/v1/responses/resp_unknown/x-gateway-ticket", "POST", key=ALICE)
    assert (unknown.status, unknown.error["code"]) == (404, "response_not_found")
    assert not upstream.asked("POST", "ticket")


async def test_whom_upstream_shows_a_response_gets_a_ticket_for_it(stage):
    upstream, gateway = await stage()
    url, first = await created(gateway)
    other = {"Authorization": "Bearer sk-test", "OpenAI-Organization": "org_rotated"}

    ticket = await ticket_for(url, key="", headers=other)
    assert (await by_ticket(url, ticket, "stream=true")).body == first.body
    assert upstream.asked("GET", url.rpartition("/")[2]) == 1


async def test_a_ticket_is_good_for_nothing_but_reading_its_one_response(stage):
    upstream, gateway = await stage()
    url, _ = await created(gateway)
    other, _ = await created(gateway)
    ticket = await ticket_for(url)
    asked = len(upstream.simulator.requests)

    for method, target in [
        ("GET", other),
        ("GET", f"{url}/input_items"),
        ("GET", f"{gateway.url}/v1/models"),
        ("POST", f"{url}/cancel"),
        ("POST", f"{url}/x-gateway-ticket"),
        ("DELETE", url),
        ("HEAD", url),
        ("POST", f"{gateway.url}/v1/responses"),
    ]:
        answer = await fetch(f"{target}?x-gateway-ticket={ticket}", method, body=b"{}" if method == "POST" else None)
        assert answer.status == 401, (method, target)
        if method != "HEAD":
            assert answer.error["code"] == "invalid_ticket"
            assert "x-gateway-ticket and the credential" in answer.error["message"]
    assert len(upstream.simulator.requests) == asked


@pytest.mark.parametrize(
    "forge", ["", "1.ab.cd", "{0}0", "9{0}", "{1}.{2}.{4}", "{1}.00{2}.{3}", "{0}&x-gateway-ticket={0}x"]
)
async def test_a_forged_ticket_is_refused(stage, forge):
    _, gateway = await stage()
    url, _ = await created(gateway)
    ticket = await ticket_for(url)
    expires_at, owner, signature = ticket.split(".")

    answer = await by_ticket(url, forge.format(ticket, expires_at, owner, signature, "0" * 64), "stream=true")
    first_of_two = forge.startswith("{0}&")
    assert answer.status == (200 if first_of_two else 401)


async def test_a_ticket_begins_connections_until_it_expires_and_a_stream_that_has_begun_goes_on(stage):
    clock = Ahead()
    upstream, gateway = await stage(simulated=STILL, clock=clock, ticket_s=60)
    stream = await gateway.client().responses.create(**job())
    url = f"{gateway.url}/v1/responses/{(await some(stream, 2))[0]['response']['id']}"
    ticket = await ticket_for(url)
    clock.by_s = 58
    async with aiohttp.ClientSession() as http, http.get(f"{url}?stream=true&x-gateway-ticket={ticket}") as begun:
        assert begun.status == 200
        clock.by_s = 62
        late = await by_ticket(url, ticket, "stream=true", headers=EVENT_SOURCE)
        upstream.simulator.skip(60)
        async with asyncio.timeout(PATIENCE_S):
            events = events_in(await begun.read())

    assert (late.status, late.error["code"]) == (401, "ticket_expired")
    assert "starting_after=N" in late.error["message"]
    assert events[-1]["type"] == "response.completed"


async def test_what_has_no_events_is_polled_by_ticket_and_what_only_upstream_knows_needs_the_credential(stage):
    _, gateway = await stage(give_up_after_s=3600, clock=(clock := Ahead()))
    url, _ = await created(gateway, {**ask("stuck"), "background": True})
    ticket = await ticket_for(url)
    streamed = await by_ticket(url, ticket, "stream=true")
    assert (streamed.status, streamed.error["param"]) == (400, "stream")
    included = await by_ticket(url, ticket, "include%5B%5D=x")
    assert (included.status, "include[]" in included.error["message"]) == (400, True)

    clock.by_s = 3700
    await gateway.facts.wait_for(Ended)
    again = await by_ticket(url, await ticket_for(url))
    assert (again.status, again.error["code"]) == (409, "waiting_for_owner")


async def test_a_deleted_response_takes_its_tickets_with_it(stage):
    _, gateway = await stage()
    url, _ = await created(gateway)
    ticket = await ticket_for(url)
    assert (await fetch(url, "DELETE")).status == 200

    gone = await by_ticket(url, ticket, "stream=true", headers=EVENT_SOURCE)
    assert (gone.status, gone.error["code"]) == (404, "response_not_found")


async def test_a_ticket_outlives_a_restart_of_the_gateway(parts, simulate, tmp_path):
    upstream, store = await simulate(), f"sqlite:///{tmp_path}/responses.db"
    first = await serve(upstream.url, store)
    parts.push_async_callback(first.close)
    events = await all_of(await first.client().responses.create(**job()))
    path = f"/v1/responses/{events[0]['response']['id']}"
    ticket = await ticket_for(first.url + path)
    await first.kill()

    second = await serve(upstream.url, store)
    parts.push_async_callback(second.close)
    assert (await by_ticket(second.url + path, ticket, "stream=true")).events == events


async def test_no_ticket_goes_upstream_or_into_any_fact_and_the_rest_of_the_query_stays(stage):
    upstream, gateway = await stage()
    url, _ = await created(gateway)
    ticket = await ticket_for(url)
    for name in ("x-gateway-ticket", "X-Gateway-Ticket", "x%2Dgateway-ticke%74"):
        assert (await fetch(f"{url}?{name}={ticket}", key="")).status == 200
        await fetch(f"{gateway.url}/v1/files?{name}={ticket}", key="")
    assert ticket not in repr(gateway.facts.facts)
    assert not [seen.path for seen in upstream.simulator.requests if ticket in seen.path]
    assert {fact.route for fact in gateway.facts.of(RequestServed)} >= {"/responses/{id}/x-gateway-ticket"}

    assert taken_out(f"a=%20&x-gateway-ticket={ticket}&b&a=+") == (ticket, "a=%20&b&a=+")
    assert taken_out("a=x-gateway-ticket") == (None, "a=x-gateway-ticket")


async def test_the_place_of_tickets_takes_a_post_alone_and_is_never_asked_of_upstream(stage):
    upstream, gateway = await stage()
    url, _ = await created(gateway)
    asked = len(upstream.simulator.requests)
    for method in ("GET", "DELETE", "PUT", "OPTIONS"):
        answer = await fetch(f"{url}/x-gateway-ticket", method)
        assert (answer.status, answer.error["code"]) == (404, "not_found")
    assert len(upstream.simulator.requests) == asked


async def test_a_store_that_is_down_is_a_503_that_says_when_to_come_back(stage):
    _, gateway = await stage()
    url, _ = await created(gateway)
    ticket = await ticket_for(url)
    await gateway.gateway.store.close()

    for answer in (await by_ticket(url, ticket), await fetch(f"{url}/x-gateway-ticket", "POST")):
        assert (answer.status, answer.error["code"]) == (503, "store_unavailable")
        assert answer.headers["Retry-After"] == "2"


def test_a_ticket_is_bound_to_its_response_owner_expiry_and_secret():
    secret, ticket = b"s" * 32, Ticket("resp_1", "ab12", 1_790_000_000)
    text = ticket.signed(secret)

    assert read_ticket(text, secret, response_id="resp_1") == ticket
    assert read_ticket(text, secret, response_id="resp_2") is None
    assert read_ticket(text, b"t" * 32, response_id="resp_1") is None
    for longer in (text.replace("1790000000", "1790000001"), text.replace(".ab12.", ".ab13."), text + "0", text + "\n"):
        assert read_ticket(longer, secret, response_id="resp_1") is None
    # No other division of the same characters is the same ticket.
    assert read_ticket(Ticket("2.resp_1", "ab1", 1).signed(secret), secret, response_id="resp_1") is None
