"""The commands as a person types them: processes of their own, what they print, and how they end."""

import asyncio
import json
import os
import resource
import signal
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from running import PATIENCE_S, Running, Upstream
from stories import STILL, all_of, ask, fetch, job, live, some, until

from gateway.cli import COMMANDS
from gateway.commands.terminal import duration, say, size, table
from gateway.domain.facts import Ended

GatewayFor = Callable[..., Awaitable[Running]]
Simulate = Callable[..., Awaitable[Upstream]]

NOWHERE = "http://127.0.0.1:9/v1"
ANY_PORT = ("--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0")


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str


class Command:
    """A command that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> str:
        """The next line on stdout."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            return (await self._process.stdout.readline()).decode()

    async def said(self, event: str) -> dict[str, Any]:
        """The next log line of an event."""
        while line := await self.line():
            said: dict[str, Any] = json.loads(line)
            if said["event"] == event:
                return said
        raise AssertionError(f"it ended without {event}: {await self.done()}")

    def send(self, which: signal.Signals) -> None:
        self._process.send_signal(which)

    async def done(self) -> Done:
        async with asyncio.timeout(PATIENCE_S):
            out, err = await self._process.communicate()
        assert self._process.returncode is not None
        return Done(self._process.returncode, out.decode(), err.decode())

    async def close(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.communicate()


Start = Callable[..., Awaitable[Command]]
Run = Callable[..., Awaitable[Done]]


@pytest.fixture
def start(parts: AsyncExitStack, tmp_path: Path) -> Start:
    """Start a command in a directory of its own, with no setting from outside."""

    async def start(*arguments: str, environ: dict[str, str] | None = None, **how: Any) -> Command:
        outer = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "OTEL_"))}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway",
            *arguments,
            cwd=tmp_path,
            env={**outer, "COLUMNS": "120", **(environ or {})},
            stdout=how.pop("stdout", asyncio.subprocess.PIPE),
            stderr=asyncio.subprocess.PIPE,
            **how,
        )
        command = Command(process)
        parts.push_async_callback(command.close)
        return command

    return start


@pytest.fixture
def run(start: Start) -> Run:
    """Run a command to its end."""

    async def run(*arguments: str, **how: Any) -> Done:
        return await (await start(*arguments, **how)).done()

    return run


def one_line(text: str) -> str:
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    return text.rstrip("\n")


async def background(gateway: Running, scenario: str = "normal") -> str:
    """The id of a background response that is not streamed."""
    client = gateway.client()
    made = await client.responses.create(**ask(scenario), background=True)
    await client.close()
    return str(made.id)


async def streamed(gateway: Running) -> str:
    """The id of a background stream that has been read to its end."""
    client = gateway.client()
    events = await all_of(await client.responses.create(**job()))
    await client.close()
    return str(events[0]["response"]["id"])


# Help


async def test_without_a_command_it_says_what_there_is(run: Run) -> None:
    shown = await run()
    assert shown.status == 2
    assert all(f"  {name} " in shown.out for name in COMMANDS)
    assert (await run("--version")).out == "responses-gateway 0.1.0\n"


@pytest.mark.parametrize("command", [[name] for name in COMMANDS] + [["responses", "list"], ["responses", "tail"]])
async def test_each_command_explains_itself(run: Run, command: list[str]) -> None:
    shown = await run(*command, "--help")
    assert (shown.status, shown.err) == (0, "")
    assert shown.out.startswith(f"usage: responses-gateway {' '.join(command)} ")


# serve, simulate


async def test_a_simulator_and_a_gateway_in_front_of_it_are_two_commands(start: Start) -> None:
    simulator = await start("simulate", "--listen", "127.0.0.1:0", "--speed", "50")
    base_url = (await simulator.line()).split()[-1]
    hint = (await simulator.line()).split()
    assert hint[-3:] == ["serve", "--upstream", base_url]
    gateway = await start(*hint[-3:], *ANY_PORT, "--drain-delay-s", "0")
    where = await gateway.said("listening")
    assert where["base_url"] == f"{where['url']}/v1"
    assert (where["upstream"], where["store"]) == (base_url, "sqlite:///responses.db")

    async with AsyncOpenAI(api_key="any", base_url=where["base_url"], max_retries=0) as client:
        events = await all_of(await client.responses.create(**job()))
    assert events[-1]["type"] == "response.completed"
    assert (await fetch(f"{where['ops_url']}/readyz")).status == 200

    gateway.send(signal.SIGTERM)
    await gateway.said("draining")
    await gateway.said("stopped")
    assert (await gateway.done()).status == 0
    simulator.send(signal.SIGTERM)
    assert await simulator.done() == Done(0, "", "")


async def test_the_simulators_flags_reach_it(start: Start) -> None:
    simulator = await start("simulate", "--listen", "127.0.0.1:0", "--api-key", "a", "--api-key", "b", "--gzip")
    url = (await simulator.line()).split()[-1]
    statuses = [(await fetch(f"{url}/models", key=key)).status for key in ("a", "b", "c")]
    assert statuses == [200, 200, 401]
    zipped = await fetch(f"{url}/models", key="a", headers={"Accept-Encoding": "gzip"})
    assert zipped.headers["Content-Encoding"] == "gzip"


async def test_ctrl_c_does_not_wait_for_load_balancers(start: Start) -> None:
    gateway = await start("serve", *ANY_PORT, "--store", "memory://", "--drain-delay-s", "1h")
    await gateway.said("listening")
    gateway.send(signal.SIGINT)
    await gateway.said("stopped")
    assert (await gateway.done()).status == 0


async def test_after_sigterm_it_serves_on_and_a_second_signal_stops_it_at_once(start: Start) -> None:
    gateway = await start("serve", *ANY_PORT, "--store", "memory://", "--drain-delay-s", "1h")
    where = await gateway.said("listening")
    gateway.send(signal.SIGTERM)
    assert (await gateway.said("draining"))["at_most_s"] == 3620
    assert (await fetch(f"{where['ops_url']}/readyz")).json == {"status": "draining"}
    gateway.send(signal.SIGINT)
    await gateway.said("stopped_at_once")
    done = await gateway.done()
    assert (done.status, done.err) == (0, "")


@pytest.mark.parametrize(
    ("variables", "flags", "warned"),
    [
        ({}, (), ["credentials_not_sealed"]),
        ({}, ("--store", "memory://"), []),
        ({"GATEWAY_SEALING_KEYS": f"{'k' * 43}="}, (), []),
        ({"GATEWAY_UPSTREAM_API_KEY": "sk-1"}, (), []),
    ],
    ids=["none", "nothing is kept", "sealed", "the gateway's own"],
)
async def test_where_no_credential_outlives_the_process_its_start_warns_of_what_that_means(
    start: Start, variables: dict[str, str], flags: tuple[str, ...], warned: list[str]
) -> None:
    gateway = await start("serve", *ANY_PORT, *flags, "--open-files", "64", environ=variables)
    said = []
    while (line := json.loads(await gateway.line()))["event"] != "listening":
        said.append(line)
    assert [line["event"] for line in said] == warned
    assert all("wait until their owner makes a request" in line["meaning"] for line in said)


async def test_few_open_files_are_worth_a_warning(start: Start) -> None:
    gateway = await start(
        "serve",
        *ANY_PORT,
        "--store",
        "memory://",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 512)),
    )
    warned = await gateway.said("few_open_files")
    assert (warned["level"], warned["limit"], warned["wanted"]) == ("warning", 512, 65536)
    await gateway.said("listening")


@pytest.mark.parametrize(
    ("arguments", "environ", "named"),
    [
        (["--upstream", "api.openai.com"], {}, "--upstream"),
        (["--listen", ":8080", "--upstream-api-key", "sk-x"], {}, "--listen"),
        (["--ops-listen", ":9464"], {}, "--ops-listen"),
        (["--config", "missing.toml"], {}, "--config missing.toml"),
        ([], {"GATEWAY_HEARTBEAT_S": "soon"}, "GATEWAY_HEARTBEAT_S"),
        ([], {"GATEWAY_HARTBEAT_S": "15"}, "did you mean GATEWAY_HEARTBEAT_S"),
    ],
)
async def test_a_setting_that_cannot_be_is_one_clear_line(
    run: Run, arguments: list[str], environ: dict[str, str], named: str
) -> None:
    refused = await run("serve", *ANY_PORT, *arguments, environ=environ)
    assert (refused.status, refused.out) == (2, "")
    assert named in one_line(refused.err)


@pytest.mark.parametrize("flag", ["--listen", "--ops-listen"])
async def test_a_port_in_use_is_one_clear_line_that_names_the_flag(
    run: Run, gateway_for: GatewayFor, flag: str
) -> None:
    taken = (await gateway_for(NOWHERE)).url.removeprefix("http://")
    refused = await run("serve", *ANY_PORT, flag, taken, "--store", "memory://", "--log-level", "error")
    assert (refused.status, refused.out) == (1, "")
    said = one_line(refused.err)
    assert f"cannot listen on {taken}: address already in use" in said
    assert said.endswith(f" {flag}")


async def test_the_simulator_says_too_that_a_port_is_in_use(run: Run, gateway_for: GatewayFor) -> None:
    taken = (await gateway_for(NOWHERE)).url.removeprefix("http://")
    refused = await run("simulate", "--listen", taken)
    assert (refused.status, refused.out) == (1, "")
    assert f"cannot listen on {taken}: address already in use" in one_line(refused.err)


async def test_a_file_that_is_no_store_is_one_clear_line_and_stays_as_it_is(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    file.write_bytes(b"not a database, " * 100)
    refused = await run("serve", *ANY_PORT, "--store", f"sqlite:///{file}", "--log-level", "error")
    assert (refused.status, refused.out) == (1, "")
    assert f"{file} is not an SQLite database" in one_line(refused.err)
    assert file.read_bytes() == b"not a database, " * 100


async def test_a_file_of_a_newer_gateway_is_one_clear_line_and_stays_as_it_is(
    run: Run, gateway_for: GatewayFor, tmp_path: Path
) -> None:
    file = tmp_path / "responses.db"
    gateway = await gateway_for(NOWHERE, store=f"sqlite:///{file}")
    await gateway.gateway.stop()
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version=999")
    connection.close()
    before = file.read_bytes()
    refused = await run("serve", *ANY_PORT, "--store", f"sqlite:///{file}", "--log-level", "error")
    assert (refused.status, refused.out) == (1, "")
    assert "newer version (999" in one_line(refused.err)
    assert file.read_bytes() == before


# responses


async def test_the_list_is_a_table_of_what_runs_and_what_was(
    run: Run, simulate: Simulate, gateway_for: GatewayFor
) -> None:
    gateway = await gateway_for((await simulate()).url, patience_polled_s=0.2)
    done = await streamed(gateway)
    told = (await gateway.facts.wait_for(Ended)).response
    running = await background(gateway, "stuck")
    await until(lambda: live(gateway, running).response.stuck)

    shown = await run("responses", "list", "--ops-url", gateway.ops_url)

    assert (shown.status, shown.err) == (0, "")
    head, first, second = shown.out.splitlines()
    assert head.split() == ["ID", "STATUS", "MODE", "MODEL", "AGE", "TAIL", "POLLS", "STUCK", "TRACE"]
    assert (first.split()[0], second.split()[0]) == (running, done)
    for column, value in [("STATUS", "queued"), ("MODE", "background"), ("TAIL", "-"), ("STUCK", "queued")]:
        assert first[head.index(column) :].split()[0] == value
    for column, value in [("STATUS", "completed"), ("MODE", "background_stream"), ("TAIL", f"{told.tail}")]:
        assert second[head.index(column) :].split()[0] == value
    assert second.endswith(f"  {told.trace.trace_id:032x}")

    only_live = await run("responses", "list", "--live", environ={"GATEWAY_OPS_URL": gateway.ops_url})
    assert [line.split()[0] for line in only_live.out.splitlines()] == ["ID", running]
    as_json = await run("responses", "list", "--status", "completed", "--json", "--ops-url", gateway.ops_url)
    assert [one["response_id"] for one in json.loads(as_json.out)["data"]] == [done]
    nothing = await run("responses", "list", "--status", "failed", "--ops-url", gateway.ops_url)
    assert nothing.out == "No such responses.\n"


async def test_a_long_list_says_how_to_go_on(run: Run, simulate: Simulate, gateway_for: GatewayFor) -> None:
    gateway = await gateway_for((await simulate(**STILL)).url)
    made = [await background(gateway) for _ in range(3)]
    first = await run("responses", "list", "--limit", "2", "--ops-url", gateway.ops_url)
    *rows, _, hint = first.out.splitlines()
    rest = await run("responses", "list", *hint.split()[-2:], "--ops-url", gateway.ops_url)
    assert [row.split()[0] for row in rows[1:] + rest.out.splitlines()[1:]] == made[::-1]


async def test_show_tells_a_response_as_a_story(run: Run, simulate: Simulate, gateway_for: GatewayFor) -> None:
    gateway = await gateway_for((await simulate()).url)
    response_id = await streamed(gateway)
    told = (await gateway.facts.wait_for(Ended)).response
    shown = await run("responses", "show", response_id, "--ops-url", gateway.ops_url)
    title, *lines = shown.out.splitlines()
    facts = dict(line.strip().split(maxsplit=1) for line in lines)
    assert title == response_id
    assert facts["status"] == "completed"
    assert [part.split()[0] for part in facts["statuses"].split(" -> ")] == ["queued", "in_progress", "completed"]
    assert facts["mode"] == "background_stream, pumped"
    assert f"{told.trace.trace_id:032x}" in facts["trace"]
    assert told.usage is not None
    assert f"{told.usage.output} out" in facts["tokens"]
    assert told.owner not in shown.out
    as_json = await run("responses", "show", told.key, "--json", "--ops-url", gateway.ops_url)
    assert json.loads(as_json.out)["response_id"] == response_id


@pytest.mark.parametrize("content", [False, True])
async def test_tail_follows_a_stream_to_its_end(
    start: Start, simulate: Simulate, gateway_for: GatewayFor, content: bool
) -> None:
    upstream = await simulate(**STILL)
    gateway = await gateway_for(upstream.url, ops_content=content)
    client = gateway.client()
    response_id = (await some(await client.responses.create(**job()), 1))[0]["response"]["id"]
    tail = await start("responses", "tail", response_id, "--ops-url", gateway.ops_url)
    assert (await tail.line()).split()[:2] == ["0", "response.created"]
    upstream.simulator.skip(60)
    *events, last = (await tail.done()).out.splitlines()
    told = (await gateway.facts.wait_for(Ended)).response
    assert [int(line.split()[0]) for line in events] == list(range(1, told.tail + 1))
    assert last.startswith(f"{response_id}: completed after ")
    deltas = [line for line in events if "output_text.delta" in line]
    assert deltas
    assert all(line.endswith('"') is content for line in deltas)
    await client.close()


async def test_tail_begins_where_it_is_told_to(run: Run, simulate: Simulate, gateway_for: GatewayFor) -> None:
    gateway = await gateway_for((await simulate()).url)
    response_id = await streamed(gateway)
    shown = await run("responses", "tail", response_id, "--after", "5", "--ops-url", gateway.ops_url)
    assert shown.out.split()[0] == "6"


async def test_tail_of_a_polled_response_waits_for_its_end(
    start: Start, simulate: Simulate, gateway_for: GatewayFor
) -> None:
    gateway = await gateway_for((await simulate(**STILL)).url)
    response_id = await background(gateway)
    tail = await start("responses", "tail", response_id, "--ops-url", gateway.ops_url)
    assert "no events" in await tail.line()
    await fetch(f"{gateway.url}/v1/responses/{response_id}/cancel", "POST")
    done = await tail.done()
    assert done.status == 0
    assert done.out.splitlines()[-1].startswith(f"{response_id}: cancelled after ")


async def test_tail_says_that_it_was_cut_off(start: Start, simulate: Simulate, gateway_for: GatewayFor) -> None:
    gateway = await gateway_for((await simulate(**STILL)).url)
    client = gateway.client()
    response_id = (await some(await client.responses.create(**job()), 1))[0]["response"]["id"]
    tail = await start("responses", "tail", response_id, "--ops-url", gateway.ops_url)
    await tail.line()
    await gateway.gateway.stop()
    done = await tail.done()
    assert done.status == 1
    assert "broke off" in one_line(done.err)
    await client.close()


async def test_ctrl_c_ends_a_tail_without_a_word(start: Start, simulate: Simulate, gateway_for: GatewayFor) -> None:
    gateway = await gateway_for((await simulate(**STILL)).url)
    tail = await start("responses", "tail", await background(gateway), "--ops-url", gateway.ops_url)
    await tail.line()
    tail.send(signal.SIGINT)
    assert await tail.done() == Done(130, "", "")


async def test_cancel_shows_the_new_status_and_what_cannot_be_cancelled(
    run: Run, simulate: Simulate, gateway_for: GatewayFor
) -> None:
    upstream = await simulate(**STILL)
    gateway = await gateway_for(upstream.url)
    response_id = await background(gateway)
    cancelled = await run("responses", "cancel", response_id, "--ops-url", gateway.ops_url)
    assert (cancelled.status, cancelled.err) == (0, "")
    assert one_line(cancelled.out).startswith(f"{response_id}: cancelled after ")
    assert upstream.simulator.status(response_id) == "cancelled"
    again = await run("responses", "cancel", response_id, "--ops-url", gateway.ops_url)
    assert (again.status, again.out) == (1, "")
    assert "has ended already: cancelled" in one_line(again.err)


@pytest.mark.parametrize("command", [["list"], ["show", "resp_1"], ["tail", "resp_1"], ["cancel", "resp_1"]])
async def test_without_a_gateway_one_line_says_so(run: Run, command: list[str]) -> None:
    refused = await run("responses", *command, "--ops-url", "http://127.0.0.1:9")
    assert (refused.status, refused.out) == (1, "")
    assert "no gateway answers at http://127.0.0.1:9 (connection refused)" in one_line(refused.err)


async def test_the_ops_address_is_found_where_the_gateways_own_settings_say(
    run: Run, gateway_for: GatewayFor, tmp_path: Path
) -> None:
    gateway = await gateway_for(NOWHERE)
    address = gateway.ops_url.removeprefix("http://")
    (tmp_path / "gateway.toml").write_text(f'ops_listen = "{address}"')
    for how, environ in (
        (["--config", "gateway.toml"], {}),
        ([], {"GATEWAY_OPS_LISTEN": address}),
        ([], {"GATEWAY_OPS_URL": gateway.ops_url, "GATEWAY_OPS_LISTEN": "127.0.0.1:9"}),
        (["--ops-url", gateway.ops_url], {"GATEWAY_OPS_URL": "http://127.0.0.1:9"}),
    ):
        assert (await run("responses", "list", *how, environ=environ)).out == "No such responses.\n"
    refused = await run("responses", "list", environ={"GATEWAY_OPS_URL": "localhost"})
    assert refused.status == 2
    assert "GATEWAY_OPS_URL" in one_line(refused.err)


async def test_what_answers_and_is_no_gateway_is_told_apart(run: Run, simulate: Simulate) -> None:
    upstream = await simulate()
    for url in (upstream.url, upstream.url.replace("/v1", "/_simulator")):
        refused = await run("responses", "list", "--ops-url", url)
        assert refused.status == 1
        assert f"what answers at {url} is no gateway's ops address" in one_line(refused.err)


async def test_the_operators_token_is_a_variable_or_a_flag(run: Run, gateway_for: GatewayFor) -> None:
    gateway = await gateway_for(NOWHERE, ops_token="let-me-in")
    where = ("responses", "list", "--ops-url", gateway.ops_url)
    assert (await run(*where, environ={"GATEWAY_OPS_TOKEN": "let-me-in"})).status == 0
    assert (await run(*where, "--ops-token", "let-me-in")).status == 0
    refused = await run(*where, "--ops-token", "guess")
    assert refused.status == 1
    assert "ops_token" in one_line(refused.err)


async def test_whoever_reads_the_output_may_stop_reading(start: Start, gateway_for: GatewayFor) -> None:
    gateway = await gateway_for(NOWHERE)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = await start("responses", "list", "--ops-url", gateway.ops_url, stdout=writing)
    finally:
        os.close(writing)
    async with asyncio.timeout(PATIENCE_S):
        _, err = await command._process.communicate()
    assert err == b""


# check


async def test_check_finds_all_well_before_the_first_start_and_changes_nothing(
    run: Run, simulate: Simulate, tmp_path: Path
) -> None:
    upstream = await simulate()
    checked = await run("check", *ANY_PORT, "--upstream", upstream.url)
    assert (checked.status, checked.err) == (0, "")
    assert [line.split()[:2] for line in checked.out.splitlines()] == [
        ["ok", what] for what in ("settings", "store", "upstream", "ops", "listen")
    ]
    assert not os.listdir(tmp_path)


async def test_check_next_to_a_running_gateway_says_what_that_one_uses(
    run: Run, simulate: Simulate, gateway_for: GatewayFor, tmp_path: Path
) -> None:
    upstream = await simulate()
    store = f"sqlite:///{tmp_path}/responses.db"
    gateway = await gateway_for(upstream.url, store=store)
    settings = ("--upstream", upstream.url, "--store", store, "--listen", "127.0.0.1:0")
    checked = await run("check", *settings, "--ops-url", gateway.ops_url)
    assert checked.status == 0
    assert "is held by the running gateway" in checked.out
    assert f"a gateway runs at {gateway.ops_url} (version 0.1.0, ready, 0 live)" in checked.out

    # Another gateway is to use the same file: that would not start.
    other = await run("check", *settings, "--ops-listen", "127.0.0.1:0")
    assert other.status == 1
    assert "in use by another gateway" in other.out


async def test_check_opens_a_store_that_is_there(run: Run, gateway_for: GatewayFor, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/responses.db"
    gateway = await gateway_for(NOWHERE, store=store)
    await gateway.gateway.stop()
    checked = await run("check", *ANY_PORT, "--upstream", NOWHERE, "--store", store)
    assert f"ok    store     {store} can be opened" in checked.out


@pytest.mark.parametrize(
    ("arguments", "failing"),
    [
        (["--upstream", NOWHERE], "upstream"),
        (["--store", "sqlite:////nowhere/responses.db"], "store"),
        (["--listen", "{taken}"], "listen"),
        (["--ops-listen", "{taken}", "--ops-url", "http://127.0.0.1:9"], "ops"),
        (["--ops-url", "http://{taken}"], "ops"),
    ],
)
async def test_check_names_what_fails_and_only_that(
    run: Run, simulate: Simulate, gateway_for: GatewayFor, arguments: list[str], failing: str
) -> None:
    upstream = await simulate()
    taken = (await gateway_for(NOWHERE)).url.removeprefix("http://")
    given = [argument.format(taken=taken) for argument in arguments]
    checked = await run("check", "--upstream", upstream.url, *ANY_PORT, *given)
    assert (checked.status, checked.err) == (1, "")
    assert [line.split()[1] for line in checked.out.splitlines() if line.startswith("FAIL")] == [failing]


async def test_check_of_settings_that_cannot_be_is_one_failure(run: Run) -> None:
    checked = await run("check", "--heartbeat-s", "soon")
    assert (checked.status, checked.err) == (1, "")
    assert one_line(checked.out).startswith("FAIL  settings  --heartbeat-s")


async def test_check_knows_a_key_that_upstream_refuses(run: Run, simulate: Simulate) -> None:
    upstream = await simulate(api_key="sk-right")
    settings = ("check", *ANY_PORT, "--upstream", upstream.url)
    for key, status in (("sk-right", 0), ("sk-wrong", 1)):
        checked = await run(*settings, environ={"GATEWAY_UPSTREAM_API_KEY": key})
        assert checked.status == status
        assert key not in checked.out
    assert "refuses upstream_api_key (401)" in checked.out
    without = await run(*settings)
    assert (without.status, "answers (401: it wants a credential" in without.out) == (0, True)


# purge


async def test_purge_asks_the_running_gateway(run: Run, simulate: Simulate, gateway_for: GatewayFor) -> None:
    gateway = await gateway_for((await simulate()).url, retention_s=0.001)
    await streamed(gateway)
    await gateway.facts.wait_for(Ended)
    purged = await run("purge", "--ops-url", gateway.ops_url)
    assert purged == Done(0, "Purged 1 record.\n", "")
    assert (await run("purge", "--ops-url", gateway.ops_url)).out == "Nothing is past its retention.\n"


async def test_purge_opens_the_store_itself_where_no_gateway_runs(
    run: Run, simulate: Simulate, gateway_for: GatewayFor, tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path}/responses.db"
    gateway = await gateway_for((await simulate()).url, store=store)
    await streamed(gateway)
    await streamed(gateway)
    purge = ("purge", "--ops-listen", "127.0.0.1:9", "--store", store, "--retention-s", "1ms")
    held = await run(*purge)
    assert held.status == 1
    assert "in use by another gateway" in one_line(held.err)
    await gateway.gateway.stop()
    assert await run(*purge) == Done(0, "Purged 2 records.\n", "")


@pytest.mark.parametrize("store", ["memory://", "sqlite:///missing.db"])
async def test_purge_of_what_is_not_there_says_so(run: Run, tmp_path: Path, store: str) -> None:
    refused = await run("purge", "--ops-listen", "127.0.0.1:9", "--store", store)
    assert (refused.status, refused.out) == (1, "")
    assert "no gateway runs" in one_line(refused.err)
    assert not os.listdir(tmp_path)


# What a person reads


def test_durations_and_sizes_are_for_people() -> None:
    seconds = (0, 0.44, 9.94, 12.3, 75, 3600, 7384, 90000, 360000)
    assert [duration(one) for one in seconds] == [
        *("0.0 s", "0.4 s", "9.9 s", "12 s", "1m 15s", "1h 0m", "2h 3m", "1d 1h", "4d 4h"),
    ]
    assert [size(one) for one in (0, 1023, 1536, 20 * 2**20, 3 * 2**30)] == [
        *("0 B", "1023 B", "1.5 KiB", "20.0 MiB", "3.0 GiB"),
    ]


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    assert table(("A", "LONG"), [("wide", "x"), ("y", "")]) == "A     LONG\nwide  x\ny"


def test_nothing_from_outside_acts_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("model \x1b[31mred\x07\x9b\rover")
    assert capsys.readouterr().out == "model \\x1b[31mred\\x07\\x9b\\x0dover\n"
