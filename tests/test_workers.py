"""`serve --workers N`: several processes on one port, and one that keeps them going."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path
from typing import Any

import openai
import pytest
import redis_server
from openai import AsyncOpenAI
from processes import eventually
from running import Upstream
from stories import STILL, all_of, ask, fetch, job, numbers, types

from gateway.commands.workers import pause_before_replacing, settings_of
from gateway.config import Settings

START_S = 120.0
IMPATIENT = """
from gateway import cli
from gateway.commands import workers
workers._PAUSES_S = (0.01,)
raise SystemExit(cli.main())
"""
"""A gateway that replaces a worker once."""
Simulate = Callable[..., Awaitable[Upstream]]


class Several:
    """A supervisor and its workers, each by what it said when it began to listen."""

    def __init__(self, process: asyncio.subprocess.Process, output: Path) -> None:
        self.process = process
        self._output = output

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What was said so far about an event."""
        said = [json.loads(line) for line in self._output.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in said if line["event"] == event]

    async def said(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """The lines about an event, once there are so many."""
        async with asyncio.timeout(START_S):
            while len(found := self.lines(event)) < count:
                assert self.process.returncode is None, self._output.read_text()
                await asyncio.sleep(0.05)
        return found

    @property
    def base_url(self) -> str:
        return str(self.lines("listening")[0]["base_url"])

    @property
    def ops_urls(self) -> list[str]:
        """The newest one of each worker."""
        return list({line["worker"]: line["ops_url"] for line in self.lines("listening")}.values())

    async def status(self, ops_url: str) -> dict[str, Any]:
        status: dict[str, Any] = (await fetch(f"{ops_url}/statusz")).json
        return status

    async def holder(self) -> dict[str, Any]:
        """The worker that holds a response."""

        async def look() -> list[dict[str, Any]]:
            found = [await self.status(url) for url in self.ops_urls]
            return [status for status in found if status["live"]["responses"]]

        return (await eventually(look, bool))[0]

    async def stopped(self) -> int:
        async with asyncio.timeout(START_S):
            return await self.process.wait()

    async def close(self) -> None:
        """End it, and every worker."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()


Serve = Callable[..., Awaitable[Several]]


@pytest.fixture
def serve(parts: AsyncExitStack, tmp_path: Path) -> Serve:
    """Start two workers on a real Redis; with `wait=False` they may not have begun yet."""

    async def start(
        upstream: str, *, wait: bool = True, program: tuple[str, ...] = ("-m", "gateway"), **settings: Any
    ) -> Several:
        flags = {
            **{"upstream": upstream, "store": redis_server.url_for(tmp_path), "workers": 2, "log_format": "json"},
            **{"listen": "127.0.0.1:0", "ops_listen": "127.0.0.1:0", "drain_delay_s": 0, "lease_s": 1},
            **{"poll_schedule_s": "0.1", "upstream_retry_max_s": 0.2, **settings},
        }
        arguments = [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        output = tmp_path / "output"
        with output.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, *program, "serve", *arguments),
                stdout=file,
                stderr=file if wait else asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        several = Several(process, output)
        parts.push_async_callback(several.close)
        if wait:
            await several.said("workers_listening")
        return several

    return start


async def served(ops_url: str) -> bool:
    """Whether a worker has served clients."""
    metrics = (await fetch(f"{ops_url}/metrics")).body.decode()
    return any(line.startswith("responses_gateway_http_requests_total{") for line in metrics.splitlines())


async def gone(url: str) -> bool:
    try:
        await fetch(f"{url}/healthz")
    except OSError:
        return True
    return False


async def test_clients_of_one_port_are_served_by_every_worker_and_each_answers_for_all(
    simulate: Simulate, serve: Serve
) -> None:
    upstream = await simulate()
    several = await serve(upstream.url)
    client = AsyncOpenAI(api_key="sk-test", base_url=several.base_url, max_retries=0)
    created = await client.responses.create(**ask(), background=True)
    await client.close()

    async def ask_once_more() -> list[bool]:
        """By a connection of its own."""
        assert (await fetch(f"{several.base_url}/responses/{created.id}")).status == 200
        return [await served(url) for url in several.ops_urls]

    await eventually(ask_once_more, all)
    statuses = [await several.status(url) for url in several.ops_urls]
    assert [(one["worker"], one["settings"]["workers"]) for one in statuses] == [(1, 2), (2, 2)]
    assert len({one["pid"] for one in statuses} - {several.process.pid}) == 2
    assert {line["url"] for line in several.lines("listening")} == {several.base_url.removesuffix("/v1")}


async def until_its_worker_is_killed(several: Several, stream: Any, *, after: int) -> list[dict[str, Any]]:
    """What a client reads until its line breaks: whoever holds the response is killed after some events."""
    events: list[dict[str, Any]] = []
    try:
        async for event in stream:
            events.append(event.to_dict())
            if len(events) == after:
                os.kill((await several.holder())["pid"], signal.SIGKILL)
    except openai.APIConnectionError:
        return events
    raise AssertionError("the stream ended cleanly")


async def test_a_worker_that_is_killed_is_replaced_and_what_it_held_goes_on(simulate: Simulate, serve: Serve) -> None:
    upstream = await simulate(**STILL)
    several = await serve(upstream.url, upstream_api_key="sk-test")
    client = AsyncOpenAI(api_key="sk-test", base_url=several.base_url, max_retries=0)
    stream = await client.responses.create(**job(delta_count=50))
    upstream.simulator.skip(1)
    events = await until_its_worker_is_killed(several, stream, after=3)
    await client.close()
    died, again = (await several.said("worker_ended"))[0], (await several.said("listening", 3))[-1]
    assert (died["level"], died["how"], died["worker"]) == ("error", "SIGKILL", again["worker"])
    assert died["replaced_in_s"] > 0

    upstream.simulator.skip(60)
    client = AsyncOpenAI(api_key="sk-test", base_url=several.base_url, max_retries=0)
    response_id, last = events[0]["response"]["id"], events[-1]["sequence_number"]
    rest = await all_of(await client.responses.retrieve(response_id, stream=True, starting_after=last))
    await client.close()
    assert numbers(events + rest) == await upstream.numbers_of(response_id)


async def test_a_worker_that_is_told_to_stop_by_itself_drains_and_is_replaced(simulate: Simulate, serve: Serve) -> None:
    upstream = await simulate(**STILL)
    several = await serve(upstream.url)
    first = await several.status(several.ops_urls[0])
    os.kill(first["pid"], signal.SIGTERM)
    again = (await several.said("listening", 3))[-1]
    assert again["worker"] == first["worker"]
    assert [line["worker"] for line in several.lines("draining")] == [first["worker"]]
    assert [(line["level"], line["how"]) for line in several.lines("worker_ended")] == [("info", "exit status 0")]
    several.process.send_signal(signal.SIGTERM)
    assert await several.stopped() == 0


async def a_stream_that_lasts(several: Several) -> tuple[AsyncOpenAI, Any]:
    client = AsyncOpenAI(api_key="sk-test", base_url=several.base_url, max_retries=0)
    stream = await client.responses.create(**ask(), stream=True)
    await anext(aiter(stream))
    return client, stream


async def test_a_signal_to_all_of_them_at_once_is_one_and_drains(simulate: Simulate, serve: Serve) -> None:
    upstream = await simulate(**STILL)
    several = await serve(upstream.url, drain_s=60)
    client, stream = await a_stream_that_lasts(several)
    os.killpg(several.process.pid, signal.SIGTERM)
    await several.said("draining", 2)
    upstream.simulator.skip(60)
    assert types(await all_of(stream))[-1] == "response.completed"
    await client.close()
    assert await several.stopped() == 0
    assert len(several.lines("stopped")) == 2
    assert not several.lines("stopped_at_once") + several.lines("worker_ended")


async def test_a_second_signal_stops_every_worker_at_once(simulate: Simulate, serve: Serve) -> None:
    upstream = await simulate(**STILL)
    several = await serve(upstream.url, drain_s=3600)
    client, stream = await a_stream_that_lasts(several)
    several.process.send_signal(signal.SIGTERM)
    await several.said("draining", 2)
    several.process.send_signal(signal.SIGTERM)
    assert await several.stopped() == 0
    assert several.lines("stopped_at_once")
    await stream.close()
    await client.close()


async def test_workers_do_not_outlive_their_supervisor(simulate: Simulate, serve: Serve) -> None:
    upstream = await simulate(**STILL)
    several = await serve(upstream.url)
    several.process.kill()
    await several.process.wait()

    async def stopped() -> list[dict[str, Any]]:
        return several.lines("stopped")

    await eventually(stopped, lambda lines: len(lines) == 2)
    for url in several.ops_urls:
        await eventually(lambda url=url: gone(url), bool)  # type: ignore[misc]


async def test_a_worker_that_cannot_begin_ends_the_start_with_one_line(serve: Serve) -> None:
    several = await serve("http://127.0.0.1:9/v1", wait=False, store="redis://127.0.0.1:9/0", store_timeout_s=1)
    async with asyncio.timeout(START_S):
        _, said = await several.process.communicate()
    assert several.process.returncode == 1
    assert said.decode().splitlines()[0].startswith("responses-gateway: worker 1: the store cannot be used: ")
    assert len(said.decode().splitlines()) == 1
    assert not several.lines("worker_ended")


async def test_an_address_in_use_ends_the_start_with_one_line(serve: Serve) -> None:
    with closing(socket.socket()) as taken:
        # As another gateway with workers would have it.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        several = await serve("http://127.0.0.1:9/v1", wait=False, listen=place)
        async with asyncio.timeout(START_S):
            _, said = await several.process.communicate()
    in_use = f"responses-gateway: cannot listen on {place}: address already in use; choose another with --listen\n"
    assert (several.process.returncode, said.decode()) == (1, in_use)


async def test_workers_that_end_again_and_again_are_given_up_and_without_any_left_so_does_the_supervisor(
    simulate: Simulate, serve: Serve
) -> None:
    upstream = await simulate(**STILL)
    several = await serve(upstream.url, program=("-c", IMPATIENT))
    for begun in (2, 4):
        await several.said("listening", begun)
        for url in several.ops_urls:
            os.kill((await several.status(url))["pid"], signal.SIGKILL)
    assert await several.stopped() == 1
    assert (len(several.lines("worker_ended")), len(several.lines("worker_given_up"))) == (2, 2)


def second_port_taken(parts: AsyncExitStack) -> int:
    """A port that is free, with one behind it that is not."""
    while True:
        taken = socket.create_server(("127.0.0.1", 0))
        before: int = taken.getsockname()[1] - 1
        parts.callback(taken.close)
        with suppress(OSError), socket.create_server(("127.0.0.1", before)):
            return before


async def test_the_check_looks_at_the_ops_port_of_every_worker(
    parts: AsyncExitStack, simulate: Simulate, tmp_path: Path
) -> None:
    upstream, port = await simulate(), second_port_taken(parts)
    flags = {
        **{"upstream": upstream.url, "store": redis_server.url_for(tmp_path), "workers": "2"},
        **{"listen": "127.0.0.1:0", "ops-listen": f"127.0.0.1:{port}"},
    }
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "gateway",
            "check",
            *(part for name, one in flags.items() for part in (f"--{name}", one)),
        ),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(START_S):
        said, _ = await process.communicate()
    assert f"FAIL  ops       127.0.0.1:{port + 1} cannot be listened on" in said.decode()
    assert process.returncode == 1


def test_pauses_before_a_worker_is_replaced_grow_and_end() -> None:
    pauses = [pause_before_replacing(ends) for ends in range(1, 12)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30, None]


def test_each_worker_has_an_ops_port_of_its_own() -> None:
    settings = Settings(store="redis://localhost", workers=3)
    assert [settings_of(number, settings).ops_listen.port for number in (1, 2, 3)] == [9464, 9465, 9466]
    anywhere = Settings(store="redis://localhost", workers=3, ops_listen="127.0.0.1:0")
    assert settings_of(3, anywhere).ops_listen.port == 0
