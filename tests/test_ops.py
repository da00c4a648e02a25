"""What operators see and do: health, status, metrics, the API of responses, and who is refused."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from running import PATIENCE_S, Running, Upstream
from stories import KEY, NOON, STILL, all_of, ask, fetch, job, live, some, until

from gateway.domain.facts import Cancelled, Created, Ended, Purged
from gateway.edge.ops_responses import MAX_TAILS
from gateway.edge.ops_story import story
from gateway.telemetry import names

GatewayFor = Callable[..., Awaitable[Running]]
Simulate = Callable[..., Awaitable[Upstream]]

NOWHERE = "http://127.0.0.1:9/v1"
TOKEN = {"Authorization": "Bearer let-me-in"}


async def created(gateway: Running, scenario: str = "normal", *, key: str = "sk-test", **settings: Any) -> str:
    """The id of a background response."""
    client = gateway.client(key)
    made = await client.responses.create(**ask(scenario, **settings), background=True)
    await client.close()
    return str(made.id)


async def finished(gateway: Running) -> list[dict[str, Any]]:
    """A background stream, read to its end."""
    client = gateway.client()
    events = await all_of(await client.responses.create(**job()))
    await client.close()
    return events


@asynccontextmanager
async def tailing(gateway: Running, response_id: str, **query: str) -> AsyncIterator[aiohttp.ClientResponse]:
    url = f"{gateway.ops_url}/responses/{response_id}/events"
    async with aiohttp.ClientSession() as http, http.get(url, params=query) as answer:
        yield answer


# Health


async def test_a_started_gateway_is_alive_and_ready(gateway_for: GatewayFor) -> None:
    gateway = await gateway_for(NOWHERE)
    assert (await fetch(f"{gateway.ops_url}/healthz")).json == {"status": "alive"}
    ready = await fetch(f"{gateway.ops_url}/readyz")
    assert (ready.status, ready.json) == (200, {"status": "ready"})


@pytest.mark.parametrize(("flag", "value", "said"), [("draining", True, "draining"), ("started", False, "starting")])
async def test_readiness_is_red_while_it_starts_or_drains_and_the_process_still_lives(
    gateway_for: GatewayFor, flag: str, value: bool, said: str
) -> None:
    gateway = await gateway_for(NOWHERE)
    setattr(gateway.gateway.context.readiness, flag, value)
    ready = await fetch(f"{gateway.ops_url}/readyz")
    assert (ready.status, ready.json) == (503, {"status": said})
    assert (await fetch(f"{gateway.ops_url}/healthz")).status == 200


async def test_a_store_that_is_down_is_in_the_status_and_leaves_readiness_green(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    gateway = await gateway_for(NOWHERE, store=f"sqlite:///{tmp_path}/responses.db")
    await gateway.gateway.store.close()
    assert (await fetch(f"{gateway.ops_url}/readyz")).status == 200
    store = (await fetch(f"{gateway.ops_url}/statusz")).json["store"]
    assert (store["reachable"], store["writable"], store["bytes"]) == (False, False, None)
    assert store["problem"] == "The store is closed."
    listed = await fetch(f"{gateway.ops_url}/responses")
    assert (listed.status, listed.error["code"]) == (503, "store_unavailable")


# Status


async def test_the_status_tells_what_the_process_is_depends_on_and_holds(
    simulate: Simulate, gateway_for: GatewayFor, tmp_path: Path
) -> None:
    upstream = await simulate(**STILL)
    gateway = await gateway_for(upstream.url, store=f"sqlite:///{tmp_path}/responses.db")
    await created(gateway)
    client = gateway.client()
    stream = await client.responses.create(**job())
    await anext(aiter(stream))

    status = (await fetch(f"{gateway.ops_url}/statusz")).json

    assert (status["version"], status["status"]) == ("0.1.0", "ready")
    assert status["uptime_s"] >= 0
    assert status["store"]["kind"] == "sqlite"
    assert status["store"]["durability"] == "process"
    assert status["store"]["reachable"] is True
    assert status["store"]["bytes"] > 0
    assert status["upstream"] == {"base_url": upstream.url, "reachable": True, "unreachable_responses": 0}
    assert status["exporter"] == {"configured": False, "endpoint": None, "failing": False}
    assert status["live"]["responses"] == 2
    assert status["live"]["by_mode"] == {"background": 1, "background_stream": 1}
    assert status["live"]["by_status"] == {"queued": 2}
    assert status["followers"] == 1
    assert status["tasks"] >= 4  # three that always run, and a pump
    assert status["settings"]["upstream"] == upstream.url
    await client.close()


async def test_the_status_knows_whether_upstream_answered_last(simulate: Simulate, gateway_for: GatewayFor) -> None:
    upstream = await simulate()
    gateway = await gateway_for(upstream.url)

    async def reachable() -> bool | None:
        found: bool | None = (await fetch(f"{gateway.ops_url}/statusz")).json["upstream"]["reachable"]
        return found

    assert await reachable() is None
    await fetch(f"{gateway.url}/v1/models")
    assert await reachable() is True
    await upstream.server.close()
    await fetch(f"{gateway.url}/v1/models")
    assert await reachable() is False


async def test_the_status_shows_no_secret(gateway_for: GatewayFor) -> None:
    gateway = await gateway_for(
        "http://127.0.0.1:9/v1?api-version=7",
        upstream_api_key="sk-secret-one",
        ops_token="secret-two",
        environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:secret-three@127.0.0.1:9"},
    )
    status = await fetch(f"{gateway.ops_url}/statusz", key="secret-two")
    assert b"secret" not in status.body
    assert status.json["settings"]["upstream_api_key"] == "***"
    assert status.json["exporter"]["endpoint"] == "http://127.0.0.1:9"


# Metrics


@pytest.mark.parametrize(
    ("accept", "content_type", "ending"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8", b""),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1.0.0", b"# EOF\n"),
    ],
)
async def test_metrics_come_in_the_format_that_is_asked_for(
    simulate: Simulate, gateway_for: GatewayFor, accept: str, content_type: str, ending: bytes
) -> None:
    gateway = await gateway_for((await simulate()).url)
    await finished(gateway)
    scraped = await fetch(f"{gateway.ops_url}/metrics", headers={"Accept": accept})
    assert scraped.headers["Content-Type"].startswith(content_type)
    assert scraped.body.endswith(ending)
    assert f"{names.CREATED.removesuffix('_total')}_total{{".encode() in scraped.body


# The list


async def test_the_list_is_newest_first_and_comes_in_pages(simulate: Simulate, gateway_for: GatewayFor) -> None:
    gateway = await gateway_for((await simulate(**STILL)).url)
    made = [await created(gateway) for _ in range(5)]
    seen: list[str] = []
    pages = []
    query = "?limit=2"
    while query:
        page = (await fetch(f"{gateway.ops_url}/responses{query}")).json
        pages.append((len(page["data"]), page["has_more"]))
        seen += [one["response_id"] for one in page["data"]]
        query = f"?limit=2&before={page['last_key']}" if page["has_more"] else ""
    assert seen == made[::-1]
    assert pages == [(2, True), (2, True), (1, False)]


async def test_the_list_of_nothing_is_empty(gateway_for: GatewayFor) -> None:
    gateway = await gateway_for(NOWHERE)
    listed = (await fetch(f"{gateway.ops_url}/responses")).json
    assert listed == {"object": "list", "data": [], "has_more": False, "last_key": None}


async def test_the_list_can_be_narrowed(simulate: Simulate, gateway_for: GatewayFor) -> None:
    gateway = await gateway_for((await simulate()).url, patience_polled_s=0.2)
    running = await created(gateway, "stuck")
    done = (await finished(gateway))[0]["response"]["id"]
    await until(lambda: live(gateway, running).response.stuck)

    async def ids(query: str) -> list[str]:
        listed = (await fetch(f"{gateway.ops_url}/responses?{query}")).json
        return [one["response_id"] for one in listed["data"]]

    assert await ids("") == [done, running]
    assert await ids("live=true") == [running]
    assert await ids("live=false") == [done]
    assert await ids("status=completed") == [done]
    assert await ids("status=queued&live=true") == [running]
    assert await ids("status=failed") == []
    assert await ids("stuck=false") == [done]
    await until(lambda: live(gateway, running).saved.stuck)
    assert await ids("stuck=true") == [running]


async def test_what_the_process_holds_is_shown_rather_than_what_the_store_has(
    simulate: Simulate, gateway_for: GatewayFor
) -> None:
    # Nothing is written down while nobody looks around: so the store is behind.
    gateway = await gateway_for((await simulate(**STILL)).url, patience_s=3600, linger_s=3600, give_up_after_s=3600)
    response_id = await created(gateway)
    live(gateway, response_id).count(resumes=7)
    (listed,) = (await fetch(f"{gateway.ops_url}/responses")).json["data"]
    shown = (await fetch(f"{gateway.ops_url}/responses/{response_id}")).json
    assert listed["resumes"] == shown["resumes"] == 7


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("live=yes", "live"),
        ("stuck=1", "stuck"),
        ("status=done", "status"),
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("limit=501", "limit"),
        ("limit=9999999999999999999999", "limit"),
        ("stuk=true", "stuk"),
    ],
)
async def test_a_query_that_means_nothing_is_refused_by_name(gateway_for: GatewayFor, query: str, param: str) -> None:
    gateway = await gateway_for(NOWHERE)
    refused = await fetch(f"{gateway.ops_url}/responses?{query}")
    assert (refused.status, refused.error["param"]) == (400, param)
    assert refused.headers["x-gateway-error"] == refused.error["code"] == "invalid_request"


# One story


async def test_a_response_has_a_story_by_its_id_its_key_and_its_token(
    simulate: Simulate, gateway_for: GatewayFor
) -> None:
    upstream = await simulate(**STILL)
    gateway = await gateway_for(upstream.url)
    client = gateway.client()
    first = await some(await client.responses.create(**job()), 1)
    response_id = first[0]["response"]["id"]
    await client.responses.retrieve(response_id)
    resumed = await client.responses.retrieve(response_id, stream=True, starting_after=0)
    await until(lambda: live(gateway, response_id).response.counts.disconnects)
    upstream.simulator.skip(1)
    await until(lambda: live(gateway, response_id).response.started_at)
    upstream.simulator.skip(60)
    await all_of(resumed)
    await client.close()
    told = (await gateway.facts.wait_for(Ended)).response

    shown = (await fetch(f"{gateway.ops_url}/responses/{response_id}")).json

    assert shown == (await fetch(f"{gateway.ops_url}/responses/{told.key}")).json
    assert shown == (await fetch(f"{gateway.ops_url}/responses/{response_id}~2")).json
    assert shown["response_id"] == response_id
    assert (shown["mode"], shown["followed"], shown["model"]) == ("background_stream", "pumped", told.model)
    assert (shown["status"], shown["ending"], shown["live"]) == ("completed", "terminal", False)
    assert [one["status"] for one in shown["statuses"]] == ["queued", "in_progress", "completed"]
    assert [one["at"] for one in shown["statuses"]] == [told.created_at, told.started_at, told.status_at]
    assert shown["queue_s"] <= shown["first_output_s"] <= shown["duration_s"]
    assert (shown["client_polls"], shown["upstream_polls"]) == (1, 0)
    assert (shown["attaches"], shown["resumes"], shown["disconnects"]) == (2, 1, 1)
    assert shown["tokens"]["output"] > 0
    assert (shown["tail"], shown["last_event"]) == (told.tail, "response.completed")
    assert shown["trace_id"] == f"{told.trace.trace_id:032x}"
    assert shown["span_id"] == f"{told.trace.span_id:016x}"
    assert shown["upstream_request_id"] == told.upstream_request_id
    assert told.owner.startswith(shown["owner"])
    assert len(shown["owner"]) < len(told.owner)


async def test_a_story_tells_what_is_stuck_since_when_and_who_reads(
    simulate: Simulate, gateway_for: GatewayFor
) -> None:
    gateway = await gateway_for((await simulate(**STILL)).url, patience_s=0.2)
    client = gateway.client()
    stream = await client.responses.create(**job())
    response_id = (await anext(aiter(stream))).response.id
    await until(lambda: live(gateway, response_id).response.stuck)
    shown = (await fetch(f"{gateway.ops_url}/responses/{response_id}")).json
    told = live(gateway, response_id).response
    assert shown["stuck"] == {"reason": "queued", "since": told.stuck_at}
    assert (
        shown["created_at"] <= shown["progress_at"] == max(told.progress_at, told.status_at) < shown["stuck"]["since"]
    )
    assert (shown["readers"], shown["live"], shown["duration_s"] > 0) == (1, True, True)
    await client.close()


async def test_the_words_of_an_error_are_content_and_its_code_is_not(
    simulate: Simulate, gateway_for: GatewayFor
) -> None:
    upstream = await simulate()
    for content, shown in ((False, False), (True, True)):
        gateway = await gateway_for(upstream.url, ops_content=content)
        response_id = await created(gateway, "fails")
        await gateway.facts.wait_for(Ended)
        error = (await fetch(f"{gateway.ops_url}/responses/{response_id}")).json["error"]
        assert error["code"] == "server_error"
        assert (error["message"] is not None) is shown


@pytest.mark.parametrize("name", ["resp_unknown", "resp_%2F..%2F", "%00", "a~b~3"])
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/events"), ("POST", "/cancel")])
async def test_a_response_that_nobody_knows_is_a_404(
    gateway_for: GatewayFor, name: str, method: str, path: str
) -> None:
    gateway = await gateway_for(NOWHERE)
    missing = await fetch(f"{gateway.ops_url}/responses/{name}{path}", method)
    assert (missing.status, missing.error["code"]) == (404, "response_not_found")


async def test_a_status_that_ends_without_having_run_was_queued_until_then(
    simulate: Simulate, gateway_for: GatewayFor
) -> None:
    gateway = await gateway_for((await simulate(**STILL)).url)
    response_id = await created(gateway)
    await fetch(f"{gateway.ops_url}/responses/{response_id}/cancel", "POST")
    told = (await gateway.facts.wait_for(Ended)).response
    statuses = story(told, None, NOON, content=False)["statuses"]
    assert [one["status"] for one in statuses] == ["queued", "cancelled"]
    assert statuses[0]["seconds"] == round(told.status_at - told.created_at, 3)
    assert statuses[1]["seconds"] is None


# Events


async def test_events_are_shown_without_their_contents(simulate: Simulate, gateway_for: GatewayFor) -> None:
    gateway = await gateway_for((await simulate()).url)
    events = await finished(gateway)
    shown = await fetch(f"{gateway.ops_url}/responses/{events[0]['response']['id']}/events")
    *listed, end = shown.events
    assert [(one["number"], one["type"]) for one in listed] == [(one["sequence_number"], one["type"]) for one in events]
    assert all(one.keys() == {"number", "type", "bytes"} for one in listed)
    assert end == {"code": None, "message": None}
    said = [one["delta"] for one in events if one["type"] == "response.output_text.delta"]
    assert not [word for word in said if len(word) > 4 and word.encode() in shown.body]


async def test_the_contents_of_events_are_shown_where_the_setting_says_so(
    simulate: Simulate, gateway_for: GatewayFor
) -> None:
    gateway = await gateway_for((await simulate()).url, ops_content=True)
    events = await finished(gateway)
    shown = await fetch(f"{gateway.ops_url}/responses/{events[0]['response']['id']}/events?after=3")
    assert [json.loads(one["data"]) for one in shown.events[:-1]] == events[4:]


async def test_events_that_are_followed_come_live_to_the_end(simulate: Simulate, gateway_for: GatewayFor) -> None:
    upstream = await simulate(**STILL)
    gateway = await gateway_for(upstream.url, heartbeat_s=0.05)
    client = gateway.client()
    stream = await client.responses.create(**job())
    response_id = (await anext(aiter(stream))).response.id
    async with asyncio.timeout(PATIENCE_S), tailing(gateway, response_id, follow="true") as answer:
        assert await answer.content.readline() == b"event: response.created\n"
        while await answer.content.readline() != b": keepalive\n":
            pass
        upstream.simulator.skip(60)
        lines = [line async for line in answer.content]
    assert b"event: response.completed\n" in lines
    assert lines[-3:] == [b"event: end\n", b'data: {"code": null, "message": null}\n', b"\n"]
    await client.close()


async def test_events_that_are_not_followed_stop_at_what_is_there(simulate: Simulate, gateway_for: GatewayFor) -> None:
    gateway = await gateway_for((await simulate(**STILL)).url)
    client = gateway.client()
    stream = await client.responses.create(**job())
    response_id = (await anext(aiter(stream))).response.id
    shown = await fetch(f"{gateway.ops_url}/responses/{response_id}/events?follow=false")
    assert [one["type"] for one in shown.events][:1] == ["response.created"]
    assert not [one for one in shown.events if "code" in one]
    await client.close()


async def test_the_end_of_a_log_without_a_terminal_event_says_why(simulate: Simulate, gateway_for: GatewayFor) -> None:
    gateway = await gateway_for((await simulate(**STILL)).url)
    client = gateway.client()
    await some(await client.responses.create(**job()), 1)
    (made,) = gateway.facts.of(Created)
    cancelled = await fetch(f"{gateway.ops_url}/responses/{made.response.key}/cancel", "POST")
    assert cancelled.json["status"] == "cancelled"
    shown = await fetch(f"{gateway.ops_url}/responses/{made.response.key}/events?follow=true")
    assert shown.events[-1] == {"code": "response_cancelled", "message": "The response was cancelled."}
    await client.close()


@pytest.mark.parametrize("query", ["after=-1", "after=x", "after=1.5", "follow=perhaps", "since=3"])
async def test_a_cursor_that_is_none_is_refused_by_name(
    simulate: Simulate, gateway_for: GatewayFor, query: str
) -> None:
    gateway = await gateway_for((await simulate()).url)
    response_id = await created(gateway)
    refused = await fetch(f"{gateway.ops_url}/responses/{response_id}/events?{query}")
    assert (refused.status, refused.error["param"]) == (400, query.partition("=")[0])


async def test_an_operator_who_watches_keeps_no_foreground_stream_alive(
    simulate: Simulate, gateway_for: GatewayFor
) -> None:
    gateway = await gateway_for((await simulate(**STILL)).url, linger_s=0.1)
    client = gateway.client()
    stream = await client.responses.create(**ask(), stream=True)
    response_id = (await anext(aiter(stream))).response.id
    async with asyncio.timeout(PATIENCE_S), tailing(gateway, response_id, follow="true") as answer:
        await answer.content.readline()
        await stream.close()
        assert b"response_abandoned" in await answer.read()
    await client.close()


async def test_operators_who_watch_are_so_many_and_no_more(simulate: Simulate, gateway_for: GatewayFor) -> None:
    gateway = await gateway_for((await simulate(**STILL)).url)
    response_id = await created(gateway)
    url = f"{gateway.ops_url}/responses/{response_id}/events"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        watching = [await http.get(url, params={"follow": "true"}) for _ in range(MAX_TAILS)]
        turned_away = await fetch(f"{url}?follow=true")
        assert (turned_away.status, turned_away.error["code"]) == (503, "gateway_overloaded")
        for one in watching:
            one.close()
        async with asyncio.timeout(PATIENCE_S):
            while (await fetch(url)).status == 503:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


# Cancel


async def test_an_operator_cancels_with_the_credential_of_the_owner(
    simulate: Simulate, gateway_for: GatewayFor
) -> None:
    upstream = await simulate(api_key="sk-owner")
    gateway = await gateway_for(upstream.url)
    response_id = await created(gateway, "stuck", key="sk-owner")
    cancelled = await fetch(f"{gateway.ops_url}/responses/{response_id}/cancel", "POST", key="sk-operator")
    assert (cancelled.status, cancelled.json["status"], cancelled.json["live"]) == (200, "cancelled", False)
    assert upstream.simulator.status(response_id) == "cancelled"
    assert (await gateway.facts.wait_for(Cancelled)).status == 200
    assert [ended.source for ended in gateway.facts.of(Ended)] == ["cancel"]

    again = await fetch(f"{gateway.ops_url}/responses/{response_id}/cancel", "POST")
    assert (again.status, again.error["code"]) == (409, "response_not_live")
    assert "cancelled" in again.error["message"]
    assert upstream.asked("POST", "/cancel") == 1


async def test_what_upstream_refuses_to_cancel_comes_back_as_upstream_said_it(
    simulate: Simulate, gateway_for: GatewayFor
) -> None:
    gateway = await gateway_for((await simulate(**STILL)).url)
    client = gateway.client()
    stream = await client.responses.create(**ask(), stream=True)
    response_id = (await anext(aiter(stream))).response.id
    by_operator = await fetch(f"{gateway.ops_url}/responses/{response_id}/cancel", "POST")
    by_owner = await fetch(f"{gateway.url}/v1/responses/{response_id}/cancel", "POST")
    assert (by_operator.status, by_operator.json) == (by_owner.status, by_owner.json)
    assert by_operator.status == 400
    await client.close()


async def test_a_cancel_while_upstream_is_gone_says_so(simulate: Simulate, gateway_for: GatewayFor) -> None:
    upstream = await simulate(**STILL)
    gateway = await gateway_for(upstream.url)
    response_id = await created(gateway)
    await upstream.server.close()
    refused = await fetch(f"{gateway.ops_url}/responses/{response_id}/cancel", "POST")
    assert (refused.status, refused.error["code"]) == (502, "upstream_unreachable")


async def test_a_response_that_waits_for_its_owner_cannot_be_cancelled_until_the_owner_was_heard_from(
    simulate: Simulate, gateway_for: GatewayFor, tmp_path: Path
) -> None:
    upstream = await simulate(**STILL)
    store = f"sqlite:///{tmp_path}/responses.db"
    first = await gateway_for(upstream.url, store=store)
    response_id = await created(first)
    await first.gateway.stop()
    second = await gateway_for(upstream.url, store=store)
    url = f"{second.ops_url}/responses/{response_id}"

    assert (await fetch(url)).json["waits_for_owner"] is True
    assert (await fetch(f"{second.ops_url}/statusz")).json["live"]["waiting_for_owner"] == 1
    refused = await fetch(f"{url}/cancel", "POST")
    assert (refused.status, refused.error["code"]) == (409, "waiting_for_owner")
    assert "waits for its owner" in refused.error["message"]
    assert upstream.asked("POST", "/cancel") == 0

    await fetch(f"{second.url}/v1/responses/{response_id}")
    assert (await fetch(f"{url}/cancel", "POST")).json["status"] == "cancelled"


async def test_a_credential_that_upstream_does_not_take_any_more_waits_for_its_owner(
    simulate: Simulate, gateway_for: GatewayFor
) -> None:
    upstream = await simulate(**STILL, api_key=["sk-old"])
    gateway = await gateway_for(upstream.url, poll_schedule_s=(3600.0,))
    response_id = await created(gateway, key="sk-old")
    live(gateway, response_id).credential = [("Authorization", "Bearer sk-expired")]
    url = f"{gateway.ops_url}/responses/{response_id}"
    assert (await fetch(f"{url}/cancel", "POST")).status == 401
    assert (await fetch(f"{url}/cancel", "POST")).status == 409
    assert (await fetch(url)).json["waits_for_owner"] is True


# Purge


async def test_a_purge_deletes_all_that_is_past_its_retention_and_says_how_many(
    simulate: Simulate, gateway_for: GatewayFor, tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path}/responses.db"
    gateway = await gateway_for((await simulate(speed=1000.0)).url, store=store, retention_s=0.001, tombstone_s=3600)
    running = await created(gateway, "stuck")
    for _ in range(3):
        await finished(gateway)
    purged = await fetch(f"{gateway.ops_url}/purge", "POST")
    assert purged.json == {"object": "purge", "records": 3}
    assert gateway.facts.of(Purged)[-1].records == 3
    listed = (await fetch(f"{gateway.ops_url}/responses")).json["data"]
    assert [one["response_id"] for one in listed] == [running]


# Who is refused


@pytest.mark.parametrize("path", ["/statusz", "/metrics", "/responses", "/purge", "/nothing"])
async def test_with_a_token_all_but_the_probes_ask_for_it(gateway_for: GatewayFor, path: str) -> None:
    gateway = await gateway_for(NOWHERE, ops_token="let-me-in")
    url = f"{gateway.ops_url}{path}"
    for headers in ({"Authorization": ""}, KEY, {"Authorization": "Basic let-me-in"}, {"Authorization": "Bearer ü"}):
        refused = await fetch(url, headers=headers)
        assert (refused.status, refused.error["code"]) == (401, "invalid_ops_token")
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert (await fetch(url, headers=TOKEN)).status != 401
    assert (await fetch(url, headers={"Authorization": "bearer let-me-in"})).status != 401
    for probe in ("/healthz", "/readyz"):
        assert (await fetch(f"{gateway.ops_url}{probe}", headers={"Authorization": ""})).status == 200


@pytest.mark.parametrize("path", ["/healthz", "/statusz", "/responses"])
@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:9464", "localhost.evil.example", "10.0.0.1", ""]
)
async def test_a_name_that_is_not_this_machines_is_refused(gateway_for: GatewayFor, path: str, host: str) -> None:
    gateway = await gateway_for(NOWHERE)
    refused = await fetch(f"{gateway.ops_url}{path}", headers={"Host": host})
    assert (refused.status, refused.error["code"]) == (403, "forbidden")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "127.8.8.8:80", "[::1]:9464", "[::1]"])
async def test_any_name_of_the_loopback_will_do(gateway_for: GatewayFor, host: str) -> None:
    gateway = await gateway_for(NOWHERE)
    assert (await fetch(f"{gateway.ops_url}/statusz", headers={"Host": host})).status == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost"])
async def test_a_page_of_another_origin_is_refused(gateway_for: GatewayFor, origin: str) -> None:
    gateway = await gateway_for(NOWHERE)
    refused = await fetch(f"{gateway.ops_url}/purge", "POST", headers={"Origin": origin})
    assert (refused.status, refused.error["code"]) == (403, "forbidden")
    own = await fetch(f"{gateway.ops_url}/purge", "POST", headers={"Origin": gateway.ops_url})
    assert own.status == 200


async def test_what_is_not_there_is_an_error_that_says_what_is(gateway_for: GatewayFor) -> None:
    gateway = await gateway_for(NOWHERE)
    missing = await fetch(f"{gateway.ops_url}/v1/responses", "POST")
    assert (missing.status, missing.error["code"]) == (404, "not_found")
    assert "/statusz" in missing.error["message"]
    wrong = await fetch(f"{gateway.ops_url}/purge")
    assert (wrong.status, wrong.error["code"], wrong.headers["Allow"]) == (405, "method_not_allowed", "POST")
