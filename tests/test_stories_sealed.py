"""Sealed credentials: a restart goes on with background responses without their owners."""

import json
import logging
import sqlite3
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis_server
from processes import Process, eventually, serve
from project import project_upstream
from running import Running, Upstream
from stories import STILL, all_of, ask, fetch, job, live, numbers, some, until

from gateway.domain.facts import Ended, LetGo, TakenUp
from gateway.domain.response import Change, Response
from gateway.domain.sealed import Seal

Serve = Callable[..., Awaitable[Process]]
Simulate = Callable[..., Awaitable[Upstream]]
Embed = Callable[..., Awaitable[Running]]

OLD, NEW, ANOTHER = (urlsafe_b64encode(bytes([number]) * 32).decode() for number in range(3))
"""Sealing keys."""
COLLECTOR = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
"""One that is not there: what it is due stays in the store."""


@pytest.fixture
def run(parts: AsyncExitStack, tmp_path: Path) -> Serve:
    """Start gateways on one SQLite file, one after the other, each with its sealing keys."""

    async def start(upstream: Upstream, *keys: str, store: str = f"sqlite:///{tmp_path}/responses.db") -> Process:
        process = await serve(
            upstream.url,
            store,
            environ={"GATEWAY_SEALING_KEYS": ",".join(keys)},
            poll_schedule_s="0.05,0.1,0.2",
            upstream_retry_max_s=0.2,
            drain_delay_s=0,
            lease_s=1,
        )
        parts.push_async_callback(process.close)
        return process

    return start


@pytest.fixture
def embed(gateway_for: Embed, tmp_path: Path) -> Embed:
    """The same within this process; each is to be stopped before the next one."""

    async def start(upstream: Upstream, *keys: str, **settings: Any) -> Running:
        return await gateway_for(
            upstream.url, store=f"sqlite:///{tmp_path}/responses.db", sealing_keys=list(keys), **settings
        )

    return start


async def record(gateway: Running, response_id: str) -> Response:
    """A response as it is at rest."""
    found = await gateway.gateway.store.find(response_id, route="default", owner=None)
    assert found is not None
    return found


def sealed(response: Response) -> str:
    """What is sealed of it."""
    return response.seal.text if response.seal is not None else ""


def uses(gateway: Running, response_id: str) -> str | None:
    """What upstream is asked with about a live response."""
    credential = live(gateway, response_id).credential
    return dict(credential)["authorization"] if credential is not None else None


def at_rest(folder: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """What a killed gateway leaves: its records; and all there is to search in, byte by byte and as a dump."""
    places = {file.name: file.read_bytes() for file in folder.iterdir()}
    db = sqlite3.connect(folder / "responses.db")
    places["a dump"] = "\n".join(db.iterdump()).lower().encode()
    records = [row[0] for row in db.execute("SELECT data FROM record")]
    db.close()
    places["records"] = b"".join(records)
    return [json.loads(one)["response"] for one in records], places


def all_files(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


async def begun(process: Process | Running, upstream: Upstream, key: str, *, streamed: bool) -> str:
    """The id of a background response whose client has gone: of a stream after some events."""
    client = process.client(key)
    if not streamed:
        return str((await client.responses.create(**ask(), background=True)).id)
    stream = await client.responses.create(**job(delta_count=50))
    upstream.simulator.skip(1)
    return str((await some(stream, 3))[0]["response"]["id"])


async def ended(process: Process, response_id: str) -> dict[str, Any]:
    """The story of a response once it has ended; asking the operator's side is no request of an owner."""

    async def story() -> dict[str, Any]:
        shown: dict[str, Any] = (await fetch(f"{process.ops_url}/responses/{response_id}")).json
        return shown

    return await eventually(story, lambda shown: shown["ending"] is not None)


@pytest.mark.parametrize("streamed", [False, True], ids=["polled", "pumped"])
async def test_after_kill_9_a_background_response_goes_on_without_its_owner(
    simulate: Simulate, run: Serve, streamed: bool
) -> None:
    upstream = await simulate(**STILL)
    first = await run(upstream, OLD)
    response_id = await begun(first, upstream, "sk-test", streamed=streamed)
    await first.kill()
    asked = len(upstream.simulator.requests)

    second = await run(upstream, OLD)
    upstream.simulator.skip(60)
    assert (await ended(second, response_id))["status"] == "completed"
    later = upstream.simulator.requests[asked:]
    assert {(one.method, one.header("Authorization")) for one in later} == {("GET", "Bearer sk-test")}
    if streamed:
        replay = await all_of(await second.client().responses.retrieve(response_id, stream=True))
        assert numbers(replay) == await upstream.numbers_of(response_id)


@pytest.mark.parametrize("streamed", [False, True], ids=["polled", "pumped"])
@pytest.mark.parametrize("how", ["killed", "told to stop"])
async def test_another_gateway_goes_on_without_the_owner(
    simulate: Simulate, run: Serve, tmp_path: Path, how: str, streamed: bool
) -> None:
    upstream = await simulate(**STILL)
    one, other = [await run(upstream, OLD, store=redis_server.url_for(tmp_path)) for _ in range(2)]
    response_id = await begun(one, upstream, "sk-test", streamed=streamed)
    asked = len(upstream.simulator.requests)
    await (one.kill() if how == "killed" else told_to_stop(one))

    upstream.simulator.skip(60)
    assert (await ended(other, response_id))["status"] == "completed"
    later = upstream.simulator.requests[asked:]
    assert {(seen.method, seen.header("Authorization")) for seen in later} == {("GET", "Bearer sk-test")}


@pytest.mark.parametrize("keys", [(OLD,), ()], ids=["sealed", "not sealed"])
async def test_an_operator_cancels_anywhere_what_is_sealed(
    simulate: Simulate, gateway_for: Embed, tmp_path: Path, keys: tuple[str, ...]
) -> None:
    upstream = await simulate(**STILL)
    shared = {"store": redis_server.url_for(tmp_path), "sealing_keys": keys}
    one, other = [await gateway_for(upstream.url, **shared) for _ in range(2)]
    created = await one.client().responses.create(**ask(), background=True)
    answer = await fetch(f"{other.ops_url}/responses/{created.id}/cancel", "POST", key="sk-operator")
    if keys:
        assert (answer.status, answer.json["status"]) == (200, "cancelled")
        asked = next(seen for seen in upstream.simulator.requests if seen.path.endswith("/cancel"))
        assert asked.header("Authorization") == "Bearer sk-test"
        owner = one.client()
        await eventually(lambda: owner.responses.retrieve(created.id), lambda response: response.status == "cancelled")
    else:
        assert (answer.status, answer.error["code"]) == (409, "response_not_live")
        assert "Another gateway holds" in answer.error["message"]


async def told_to_stop(process: Process) -> None:
    process.tell_to_stop()
    assert await process.stopped() == 0


@pytest.mark.parametrize("streamed", [False, True], ids=["polled", "pumped"])
async def test_tokens_rotate_through_two_restarts_and_the_newest_one_goes_on(
    parts: AsyncExitStack, run: Serve, streamed: bool
) -> None:
    upstream, project = await project_upstream(parts, "token-0")
    process, token = await run(upstream, OLD), "token-0"
    response_id = await begun(process, upstream, token, streamed=streamed)
    for restart in range(2):
        for rotation in range(3):
            before, token = token, f"token-{restart}-{rotation}"
            project.keys.add(token)
            await process.client(token).responses.retrieve(response_id)
            project.keys.remove(before)
        await process.kill()
        project.used.clear()
        process = await run(upstream, OLD)
        await until(project.last_poll)
        assert {key for key, _ in project.used} == {token}

    upstream.simulator.skip(60)
    assert (await ended(process, response_id))["status"] == "completed"


async def test_a_key_is_changed_in_two_restarts_without_any_owner(simulate: Simulate, run: Serve) -> None:
    upstream = await simulate(**STILL)
    process = await run(upstream, OLD)
    created = await process.client().responses.create(**ask(), background=True)
    for keys in ((NEW, OLD), (NEW,)):
        await told_to_stop(process)
        process = await run(upstream, *keys)

    upstream.simulator.skip(60)
    assert (await ended(process, created.id))["status"] == "completed"


@pytest.mark.parametrize("kind", ["another key", "no key", "garbage"])
async def test_a_seal_that_no_key_opens_is_as_good_as_none_and_the_log_says_so_once(
    simulate: Simulate, embed: Embed, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    upstream = await simulate(**STILL)
    first = await embed(upstream, OLD)
    created = await first.client().responses.create(**ask(), background=True)
    if kind == "garbage":
        held = live(first, created.id)
        held.response = held.response.but(seal=Seal("g\udcff rbage", time.time()))
    await first.gateway.stop()

    second = await embed(upstream, *{"another key": (ANOTHER,), "garbage": (OLD,)}.get(kind, ()))
    assert [fact.how for fact in second.facts.of(TakenUp)] == ["waits_for_owner"]
    assert live(second, created.id).waits_for_owner
    said = [one for one in caplog.records if one.levelno == logging.WARNING and "sealed credential" in one.message]
    assert len(said) == 1

    upstream.simulator.skip(60)
    owner = second.client()
    await eventually(lambda: owner.responses.retrieve(created.id), lambda response: response.status == "completed")


async def test_whoever_waited_for_its_owner_is_sealed_when_the_owner_comes(simulate: Simulate, run: Serve) -> None:
    upstream = await simulate(**STILL)
    first = await run(upstream)
    created = await first.client().responses.create(**ask(), background=True)
    await first.kill()
    second = await run(upstream, OLD)
    await second.client().responses.retrieve(created.id)
    await second.kill()

    third = await run(upstream, OLD)
    upstream.simulator.skip(60)
    assert (await ended(third, created.id))["status"] == "completed"


async def test_a_credential_that_upstream_refuses_is_not_kept(parts: AsyncExitStack, embed: Embed) -> None:
    upstream, project = await project_upstream(parts, "sk-old")
    gateway = await embed(upstream, OLD)
    created = await gateway.client("sk-old").responses.create(**ask(), background=True)
    assert sealed(await record(gateway, created.id))
    project.keys.clear()
    await until(lambda: live(gateway, created.id).waits_for_owner)
    await eventually(lambda: record(gateway, created.id), lambda response: not sealed(response))


@pytest.mark.parametrize("streamed", [False, True], ids=["polled", "pumped"])
async def test_a_response_goes_to_the_gateway_that_hears_the_token_which_upstream_still_takes(
    parts: AsyncExitStack, gateway_for: Embed, tmp_path: Path, streamed: bool
) -> None:
    upstream, project = await project_upstream(parts, "sk-old", "sk-new")
    shared = {"store": redis_server.url_for(tmp_path), "sealing_keys": [OLD]}
    one, other = [await gateway_for(upstream.url, **shared) for _ in range(2)]
    response_id = await begun(one, upstream, "sk-old", streamed=streamed)
    key, held = live(one, response_id).key, other.gateway.context.tracker.live
    project.keys.remove("sk-old")
    upstream.simulator.cut(response_id)
    client = other.client("sk-new")
    await eventually(lambda: client.responses.retrieve(response_id), lambda _: key in held)

    await other.gateway.stop()
    await one.gateway.stop()
    project.used.clear()
    third = await gateway_for(upstream.url, **shared)
    upstream.simulator.skip(60)
    assert (await third.facts.wait_for(Ended)).response.response_id == response_id
    assert {used for used, _ in project.used} == {"sk-new"}


@pytest.mark.parametrize("streamed", [False, True], ids=["polled", "pumped"])
@pytest.mark.parametrize("refused", ["at once", "later"])
async def test_a_token_that_another_gateway_hears_goes_to_the_one_that_holds_the_response(
    parts: AsyncExitStack, gateway_for: Embed, tmp_path: Path, refused: str, streamed: bool
) -> None:
    upstream, project = await project_upstream(parts, "sk-old", "sk-new")
    shared = {"store": redis_server.url_for(tmp_path), "sealing_keys": [OLD], "lease_s": 3.0}
    one, other = [await gateway_for(upstream.url, **shared) for _ in range(2)]
    response_id = await begun(one, upstream, "sk-old", streamed=streamed)
    await other.client("sk-new").responses.retrieve(response_id)
    if refused == "later":
        await until(lambda: uses(one, response_id) == "Bearer sk-new")
    project.keys.remove("sk-old")
    upstream.simulator.cut(response_id)
    await until(lambda: uses(one, response_id) == "Bearer sk-new")

    upstream.simulator.skip(60)
    await one.facts.wait_for(Ended)
    assert not one.facts.of(LetGo)


async def test_a_token_that_is_known_is_not_sealed_again_whoever_hears_it(
    parts: AsyncExitStack, gateway_for: Embed, tmp_path: Path
) -> None:
    upstream, _ = await project_upstream(parts, "sk-old", "sk-new")
    shared = {"store": redis_server.url_for(tmp_path), "sealing_keys": [OLD]}
    one, two, three = [await gateway_for(upstream.url, **shared) for _ in range(3)]
    response_id = await begun(one, upstream, "sk-old", streamed=False)
    await two.client("sk-new").responses.retrieve(response_id)
    await until(lambda: uses(one, response_id) == "Bearer sk-new")
    first = sealed(await record(one, response_id))
    for gateway in (two, three, one, three, two):
        for key in ("sk-old", "sk-new"):
            await gateway.client(key).responses.retrieve(response_id)
    assert sealed(await record(one, response_id)) == first


@pytest.mark.parametrize("how", ["completes", "cancelled", "deleted", "lost", "abandoned"])
async def test_after_the_end_no_credential_is_kept_in_the_record_or_in_what_is_due(
    simulate: Simulate, embed: Embed, how: str
) -> None:
    upstream = await simulate(**STILL)
    gateway = await embed(
        upstream, OLD, environ=COLLECTOR, give_up_after_s=0.2 if how == "abandoned" else 3600, lost_after_s=0.05
    )
    client = gateway.client()
    created = await client.responses.create(**ask(), background=True)
    key = live(gateway, created.id).key
    if how == "completes":
        upstream.simulator.skip(60)
    elif how == "cancelled":
        await client.responses.cancel(created.id)
    elif how == "deleted":
        await client.responses.delete(created.id)
    elif how == "lost":
        upstream.simulator.forget(created.id)
    await gateway.facts.wait_for(Ended)

    left = await gateway.gateway.store.get(key)
    assert left is None or left.seal is None
    due = await gateway.gateway.store.due(limit=10)
    assert [(one.response.key, one.response.seal) for one in due] == [(key, None)]


async def test_what_lives_in_its_connection_is_not_sealed(simulate: Simulate, embed: Embed) -> None:
    upstream = await simulate(**STILL)
    gateway = await embed(upstream, OLD)
    stream = await gateway.client().responses.create(**ask(), stream=True)
    event = await anext(aiter(stream))
    assert (await record(gateway, event.response.id)).seal is None
    await stream.close()


async def test_where_the_gateway_has_a_key_of_its_own_nothing_is_sealed(simulate: Simulate, embed: Embed) -> None:
    upstream = await simulate(**STILL)
    gateway = await embed(upstream, OLD, upstream_api_key="sk-gateway")
    created = await gateway.client().responses.create(**ask(), background=True)
    assert (await record(gateway, created.id)).seal is None


async def test_nobody_reads_a_credential_in_the_store(simulate: Simulate, run: Serve, tmp_path: Path) -> None:
    upstream = await simulate(**STILL)
    process = await run(upstream, OLD)
    secret = "sk-only-for-its-owner-and-upstream"
    created = await process.client(secret).responses.create(**ask(), background=True)
    stream = await process.client(secret).responses.create(**job())
    upstream.simulator.skip(1)
    await some(stream, 3)
    pages = ("responses", f"responses/{created.id}", "statusz", "metrics")
    shown = {page: (await fetch(f"{process.ops_url}/{page}")).body for page in pages}
    assert OLD.encode() not in b"".join(shown.values())
    await process.kill()

    records, places = at_rest(tmp_path)
    places |= shown
    assert [one["seal"]["text"][:6] for one in records] == ["gAAAAA", "gAAAAA"]
    for spelt in (secret.encode(), b64encode(secret.encode())[:-4], secret.encode().hex().encode()):
        assert not [place for place, content in places.items() if spelt in content]
    # What it is sealed in is shown to nobody either.
    assert not [page for page, content in shown.items() if b'"seal"' in content or b"gAAAAA" in content]


async def test_nobody_reads_a_credential_in_redis(
    parts: AsyncExitStack, simulate: Simulate, run: Serve, tmp_path: Path
) -> None:
    upstream = await simulate(**STILL)
    server = redis_server.RedisServer(tmp_path / "redis").start()
    parts.callback(server.kill)
    process = await run(upstream, OLD, store=server.url)
    secret = "sk-only-for-its-owner-and-upstream"
    created = await process.client(secret).responses.create(**ask(), background=True)
    during = all_files(server.folder)
    await process.client(secret).responses.cancel(created.id)
    await process.kill()
    server.kill()
    # Everything that Redis was ever told stands in its log.
    for spelt in (secret.encode(), b64encode(secret.encode())[:-4], secret.encode().hex().encode()):
        assert spelt not in all_files(server.folder)
    assert during.count(b"gAAAAA") >= 1
    assert created.id.encode() in during


async def test_a_seal_is_good_for_its_own_response_only(simulate: Simulate, embed: Embed) -> None:
    upstream = await simulate(**STILL)
    first = await embed(upstream, OLD)
    mine = await first.client("sk-mine").responses.create(**ask(), background=True)
    other = await first.client("sk-other").responses.create(**ask(), background=True)
    target, source = live(first, other.id), live(first, mine.id)
    moved = Change({"seal": Seal(sealed(source.response), time.time())})
    assert await first.gateway.store.change(target.key, moved, epoch=target.epoch)
    await first.gateway.stop()

    second = await embed(upstream, OLD)
    assert not live(second, mine.id).waits_for_owner
    assert live(second, other.id).waits_for_owner


async def test_a_seal_is_good_for_its_own_upstream_only(simulate: Simulate, embed: Embed) -> None:
    upstream, another = await simulate(**STILL), await simulate(**STILL)
    first = await embed(upstream, OLD)
    created = await first.client().responses.create(**ask(), background=True)
    await first.gateway.stop()

    second = await embed(another, OLD)
    assert live(second, created.id).waits_for_owner
    assert not another.simulator.requests
