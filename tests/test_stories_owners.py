"""Yours alone: what one credential made, another is not shown, unless upstream itself shows it."""

import gzip
import json

import openai
import pytest
from project import ALICE, project_upstream
from stories import STILL, all_of, ask, fetch, job, live, numbers, some, until

from gateway.domain.facts import Attached, Ended, UpstreamPolled

BOB = "sk-bob"


@pytest.fixture
def project_stage(parts, gateway_for, store):
    """An upstream of which two keys are one project's, and a gateway."""

    async def start(compressed=False, **settings):
        upstream, project = await project_upstream(parts, "sk-old", "sk-new", gzip=compressed)
        return upstream, await gateway_for(upstream.url, store=store, **settings), project

    return start


async def test_an_unknown_id_is_answered_as_upstream_answers_it(stage):
    upstream, gateway = await stage()
    for path in ("/responses/resp_unknown", "/responses/resp_unknown?stream=true"):
        mine = await fetch(f"{gateway.url}/v1{path}")
        direct = await fetch(f"{upstream.url}{path}")
        assert (mine.status, mine.body) == (direct.status, direct.body) == (404, direct.body)
    for action in ("/cancel", ""):
        method = "POST" if action else "DELETE"
        mine = await fetch(f"{gateway.url}/v1/responses/resp_unknown{action}", method)
        direct = await fetch(f"{upstream.url}/responses/resp_unknown{action}", method)
        assert (mine.status, mine.body) == (direct.status, direct.body) == (404, direct.body)


async def test_a_wrong_credential_is_refused_as_upstream_refuses_it_and_shown_nothing(stage):
    upstream, gateway = await stage(simulated={"api_key": ALICE})
    client = gateway.client(ALICE)
    stream = await client.responses.create(**job())
    response_id = (await all_of(stream))[0]["response"]["id"]
    for path in (f"/responses/{response_id}", f"/responses/{response_id}?stream=true&starting_after=3", "/responses"):
        method = "POST" if path == "/responses" else "GET"
        mine = await fetch(f"{gateway.url}/v1{path}", method, key="sk-wrong", body=ask() if method == "POST" else None)
        direct = await fetch(f"{upstream.url}{path}", method, key="sk-wrong", body=ask() if method == "POST" else None)
        assert (mine.status, mine.body) == (direct.status, direct.body)
        assert mine.status == 401
    assert not gateway.gateway.context.tracker.live


async def test_another_owner_gets_nothing_while_it_runs_nor_after_its_end(stage):
    upstream, gateway = await stage(simulated=STILL)
    alice, bob = gateway.client(ALICE), gateway.client(BOB)
    stream = await alice.responses.create(**job())
    upstream.simulator.skip(2)
    response_id = (await some(stream, 5))[0]["response"]["id"]

    async def bob_tries_everything():
        for again in ({}, {"stream": True}, {"stream": True, "starting_after": 1}):
            with pytest.raises(openai.NotFoundError):
                await bob.responses.retrieve(response_id, **again)
        with pytest.raises(openai.NotFoundError):
            await bob.responses.cancel(response_id)
        with pytest.raises(openai.NotFoundError):
            await bob.responses.delete(response_id)

    await bob_tries_everything()
    upstream.simulator.skip(60)
    await gateway.facts.wait_for(Ended)
    await bob_tries_everything()
    events = await all_of(await alice.responses.retrieve(response_id, stream=True))
    assert numbers(events) == list(range(len(events)))


async def test_the_same_key_of_another_project_is_another_owner(stage):
    upstream, gateway = await stage()
    client = gateway.client(ALICE, project="proj_one")
    created = await client.responses.create(**ask(), background=True)
    await gateway.facts.wait_for(Ended)
    asked = len(upstream.simulator.requests)
    await client.responses.retrieve(created.id)
    assert len(upstream.simulator.requests) == asked
    await client.with_options(project="proj_two").responses.retrieve(created.id)
    assert len(upstream.simulator.requests) == asked + 1


@pytest.mark.parametrize("compressed", [False, True])
async def test_whom_upstream_shows_a_response_owns_it_too(project_stage, compressed):
    upstream, gateway, _ = await project_stage(compressed)
    old, new = gateway.client("sk-old"), gateway.client("sk-new")
    created = await old.responses.create(**ask(), background=True)
    upstream.simulator.skip(60)
    await gateway.facts.wait_for(Ended)
    proof = await new.responses.retrieve(created.id)
    asked = len(upstream.simulator.requests)
    again = await new.responses.retrieve(created.id)
    assert again.output_text == proof.output_text
    assert len(upstream.simulator.requests) == asked


async def test_the_newest_credential_does_the_gateways_own_polling(project_stage):
    _, gateway, project = await project_stage()
    old, new = gateway.client("sk-old"), gateway.client("sk-new")
    created = await old.responses.create(**ask("stuck"), background=True)
    await until(lambda: project.last_poll() == "sk-old")
    await new.responses.retrieve(created.id)
    project.keys.remove("sk-old")
    polls = len(gateway.facts.of(UpstreamPolled))
    await until(lambda: len(gateway.facts.of(UpstreamPolled)) > polls + 2)
    assert {fact.status for fact in gateway.facts.of(UpstreamPolled)} == {200}
    assert project.last_poll() == "sk-new"


async def test_a_revoked_credential_makes_the_response_wait_for_its_owner(project_stage):
    upstream, gateway, project = await project_stage()
    old, new = gateway.client("sk-old"), gateway.client("sk-new")
    created = await old.responses.create(**ask(), background=True)
    project.keys.remove("sk-old")
    await gateway.facts.wait_for(UpstreamPolled, lambda fact: fact.status == 401)
    await until(lambda: live(gateway, created.id).waits_for_owner)
    upstream.simulator.skip(60)
    assert (await new.responses.retrieve(created.id)).status == "completed"
    assert (await gateway.facts.wait_for(Ended)).response.response_id == created.id


async def test_a_client_with_a_new_credential_resumes_a_stream(project_stage):
    upstream, gateway, project = await project_stage()
    old, new = gateway.client("sk-old"), gateway.client("sk-new")
    stream = await old.responses.create(**job("long"))
    upstream.simulator.skip(100)
    before = await some(stream, 10)
    response_id = before[0]["response"]["id"]
    project.keys.remove("sk-old")
    # Upstream itself does not stream it any more: only the gateway's log can go on.
    upstream.simulator.skip(400)
    stream = await new.responses.retrieve(response_id, stream=True, starting_after=9)
    upstream.simulator.skip(3000)
    after = await all_of(stream)
    assert numbers(before + after) == list(range(len(before + after)))
    assert (await gateway.facts.wait_for(Attached, lambda fact: fact.after == 9)).kind == "resume"


async def test_credentials_that_rotate_during_a_cut_stream_lose_no_event(project_stage):
    upstream, gateway, project = await project_stage(upstream_retry_max_s=0.05)
    old, new = gateway.client("sk-old"), gateway.client("sk-new")
    stream = await old.responses.create(**job())
    upstream.simulator.skip(1)
    before = await some(stream, 5)
    response_id = before[0]["response"]["id"]
    project.keys.remove("sk-old")
    upstream.simulator.cut(response_id)
    await until(lambda: live(gateway, response_id).waits_for_owner)
    upstream.simulator.skip(60)
    after = await all_of(await new.responses.retrieve(response_id, stream=True, starting_after=4))
    assert numbers(before + after) == list(range(len(before + after)))


async def poll_on(client, response_id):
    """Polls again and again: the answer to a poll of others that is under way is this client's too."""
    while True:
        await client.responses.retrieve(response_id)


async def test_an_old_client_with_a_revoked_credential_does_not_stop_the_gateways_polling(project_stage):
    upstream, gateway, project = await project_stage(poll_max_age_s=0.001)
    old, new = gateway.client("sk-old"), gateway.client("sk-new")
    created = await old.responses.create(**ask(), background=True)
    await new.responses.retrieve(created.id)
    project.keys.remove("sk-old")
    with pytest.raises(openai.AuthenticationError):
        await poll_on(old, created.id)
    upstream.simulator.skip(60)
    assert (await gateway.facts.wait_for(Ended)).response.response_id == created.id


async def test_an_upstream_without_credentials_is_polled_without_one(stage):
    upstream, gateway = await stage(simulated=STILL)
    url = f"{gateway.url}/v1/responses"
    created = await fetch(url, "POST", key="", body={**ask(), "background": True})
    assert (await fetch(f"{url}/{created.json['id']}", key="")).json["status"] == "queued"
    upstream.simulator.skip(60)
    assert (await gateway.facts.wait_for(Ended)).response.response_id == created.json["id"]
    assert all(seen.header("authorization") is None for seen in upstream.simulator.requests)


async def test_what_one_owner_deletes_no_co_owner_is_shown_from_the_store(project_stage):
    upstream, gateway, _ = await project_stage()
    old, new = gateway.client("sk-old"), gateway.client("sk-new")
    stream = await old.responses.create(**job())
    upstream.simulator.skip(60)
    response_id = (await all_of(stream))[0]["response"]["id"]
    await new.responses.delete(response_id)
    with pytest.raises(openai.NotFoundError):
        await old.responses.retrieve(response_id)
    with pytest.raises(openai.NotFoundError):
        await old.responses.retrieve(response_id, stream=True)


# --- with a credential that the gateway holds ---------------------------------------------------------------------


@pytest.fixture
async def held_key(stage):
    """A gateway that speaks to upstream with its own key, for Alice and Bob."""
    return await stage(simulated={"api_key": "sk-upstream", **STILL}, upstream_api_key="sk-upstream")


async def test_the_gateways_key_goes_upstream_and_the_clients_does_not(held_key):
    upstream, gateway = held_key
    client = gateway.client(ALICE)
    created = await client.responses.create(**ask(), background=True)
    await client.responses.retrieve(created.id)
    await gateway.facts.wait_for(UpstreamPolled)
    seen = upstream.simulator.requests
    assert {one.header("authorization") for one in seen} == {"Bearer sk-upstream"}
    assert not any(ALICE in str(one.headers) for one in seen)


async def test_under_the_gateways_key_owners_are_still_told_apart(held_key):
    upstream, gateway = held_key
    alice, bob = gateway.client(ALICE), gateway.client(BOB)
    stream = await alice.responses.create(**job())
    upstream.simulator.skip(60)
    events = await all_of(stream)
    response_id = events[0]["response"]["id"]
    asked = len(upstream.simulator.requests)
    for refused in (
        bob.responses.retrieve(response_id),
        bob.responses.retrieve(response_id, stream=True),
        bob.responses.retrieve(response_id, include=["message.output_text.logprobs"]),
        bob.responses.cancel(response_id),
        bob.responses.delete(response_id),
        bob.responses.input_items.list(response_id),
        bob.responses.create(**ask(), previous_response_id=response_id),
        bob.responses.create(**ask(), previous_response_id=f"{response_id}~4"),
        bob.responses.compact(model="gpt-5.2", previous_response_id=response_id),
        bob.responses.input_tokens.count(previous_response_id=response_id),
        alice.responses.retrieve("resp_unknown"),
        alice.responses.create(**ask(), previous_response_id="resp_unknown"),
    ):
        with pytest.raises(openai.NotFoundError):
            await refused
    assert len(upstream.simulator.requests) == asked
    assert (await alice.responses.retrieve(response_id)).status == "completed"
    assert (await alice.responses.create(**ask(), background=True, previous_response_id=response_id)).id


@pytest.mark.parametrize(
    "path",
    [
        "/v1/%72esponses/{id}",
        "/v1/Responses/{id}",
        "/v1//responses/{id}",
        "/v1/responses//{id}",
        "/v1/responses%2F{id}",
        "/v1/responses;x=1/{id}",
        "/v1/responses/{id}/",
        "/v1/responses/{id}/input_items",
        "/v1/responses/{id}/input_items/more",
        "/v1/responses/{id}%2Finput_items",
        "/v1/responses/%72{id_less_r}",
        "/openai/v1/responses/{id}",
        "/openai/%761/responses/{id}",
        "/openai//v1/responses/{id}",
        "/openai/responses/{id}?api-version=preview",
    ],
)
async def test_no_spelling_of_a_path_leads_to_another_owners_response(simulate, gateway_for, path):
    upstream = await simulate(api_key="sk-upstream", **STILL)
    gateway = await gateway_for(upstream.url, upstream_api_key="sk-upstream", poll_schedule_s=(300.0,))
    created = await gateway.client(ALICE).responses.create(**ask(), background=True)
    asked = len(upstream.simulator.requests)
    answer = await fetch(gateway.url + path.format(id=created.id, id_less_r=created.id[1:]), key=BOB)
    assert answer.status in (400, 404)
    assert answer.error["code"] in ("invalid_path", "response_not_found")
    assert len(upstream.simulator.requests) == asked


@pytest.mark.parametrize("method", ["HEAD", "PUT", "QUERY", "PROPFIND"])
@pytest.mark.parametrize("action", ["", "/cancel", "/input_items", "/other"])
async def test_no_method_leads_to_another_owners_response(held_key, method, action):
    upstream, gateway = held_key
    created = await gateway.client(ALICE).responses.create(**ask(), background=True)
    answer = await fetch(f"{gateway.url}/v1/responses/{created.id}{action}", method, key=BOB)
    assert answer.status == 404
    assert upstream.asked(method, created.id) == 0


@pytest.mark.parametrize("path", ["/responses", "/responses/compact", "/responses/input_tokens"])
async def test_no_body_that_cannot_be_read_refers_past_the_gateway(held_key, path):
    upstream, gateway = held_key
    created = await gateway.client(ALICE).responses.create(**ask(), background=True)
    body = {**ask(), "previous_response_id": created.id}
    asked = upstream.asked("POST", "/responses")
    packed = gzip.compress(json.dumps(body).encode())
    for sent, headers in (({**body, "stream": "yes"}, {}), (packed, {"Content-Encoding": "gzip"}), (b"[1]", {})):
        answer = await fetch(f"{gateway.url}/v1{path}", "POST", key=BOB, body=sent, headers=headers)
        assert (answer.status, answer.error["code"]) == (400, "invalid_request")
    assert upstream.asked("POST", "/responses") == asked


async def test_a_429_slows_everybody_whose_polls_go_out_with_the_gateways_key(held_key):
    upstream, gateway = held_key
    alice, bob = gateway.client(ALICE), gateway.client(BOB)
    await alice.responses.create(**ask("rate_limited_polls", retry_after_s=100), background=True)
    created = await bob.responses.create(**ask("stuck"), background=True)
    await gateway.facts.wait_for(UpstreamPolled, lambda fact: fact.status == 429)
    await until(lambda: live(gateway, created.id).polling is None)
    asked = upstream.asked("GET", created.id)
    assert (await bob.responses.retrieve(created.id)).status == "queued"
    assert upstream.asked("GET", created.id) == asked
    assert gateway.gateway.context.tracker.poller.slowed(live(gateway, created.id))


async def test_a_deleted_id_stays_unknown_under_the_gateways_key(held_key):
    _, gateway = held_key
    client = gateway.client(ALICE)
    created = await client.responses.create(**ask("stuck"), background=True)
    await client.responses.delete(created.id)
    for one in (client, gateway.client(BOB)):
        with pytest.raises(openai.NotFoundError):
            await one.responses.retrieve(created.id)
