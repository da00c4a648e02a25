"""The demo as a stranger runs it: everything it says is so, or it says plainly what is not; nothing stays behind."""

import asyncio
import io
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway import demo
from gateway.demo import stage as stages
from gateway.demo.chapters import difference
from gateway.demo.stage import Broken, Stage
from gateway.demo.telling import NotSo, Teller

# What a person may have set for something else.
FOREIGN = {
    "GATEWAY_UPSTREAM": "http://203.0.113.1/v1",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://203.0.113.1:4318",
    "OPENAI_BASE_URL": "http://203.0.113.1/v1",
    "HTTP_PROXY": "http://203.0.113.1:3128",
    "ALL_PROXY": "http://203.0.113.1:3128",
}


async def start(directory: Path) -> asyncio.subprocess.Process:
    environ = {**os.environ, **FOREIGN, "TMPDIR": str(directory)}
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "demo", stdout=pipe, stderr=asyncio.subprocess.STDOUT, env=environ
    )


async def test_the_demo_walks_through_the_main_job_and_all_it_claims_is_so(tmp_path: Path) -> None:
    process = await start(tmp_path)
    out, _ = await process.communicate()
    said = out.decode()
    assert process.returncode == 0, said
    for sentence in (
        "ok 20 more polls of the finished response cost upstream none",
        "ok exactly upstream's 83 events: none twice, none missing, none changed",
        "ok it waits for its owner, whose key is nowhere on disk",
        "ok exactly upstream's 423 events: none twice, none missing, none changed",
        "ok the end was made from the polled object",
        "ok its reader is told, not left waiting",
        "ok each end is counted once",
        "ok one tree: the create, sent before the kill, is its root",
        "ok it finishes what it has to and exits with status 0",
    ):
        assert sentence in said
    assert f"All {said.count('   ok ')} claims held" in said
    assert "\x1b" not in said
    assert all(len(line) <= 100 for line in said.splitlines())
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM], ids=["ctrl_c", "sigterm"])
async def test_a_demo_that_is_stopped_leaves_no_process_and_no_file(which: signal.Signals, tmp_path: Path) -> None:
    process = await start(tmp_path)
    assert process.stdout is not None
    said = ""
    while "1. " not in said:
        said += (await process.stdout.readline()).decode()
    process.send_signal(which)
    rest, _ = await process.communicate()
    assert process.returncode not in (0, None)
    assert b"Traceback" not in rest
    assert not os.listdir(tmp_path)
    for port in re.findall(r"http://127\.0\.0\.1:(\d+)/v1", said):
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", int(port))


async def polled_42_times(stage: Stage, tell: Teller) -> None:
    polls = await stage.asked("GET", "/v1/responses")
    tell.claim("upstream was polled 42 times", polls == 42, f"{polls} times")


async def never_reached(stage: Stage, tell: Teller) -> None:
    tell.claim("this is said", True)


def test_a_claim_that_is_not_so_ends_the_demo_with_one_plain_line() -> None:
    out = io.StringIO()
    assert demo.run([polled_42_times, never_reached], out=out) == 1
    assert out.getvalue().splitlines()[-1] == "   FAILED upstream was polled 42 times: not so (0 times)"


def test_a_part_that_does_not_start_ends_the_demo_with_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "COMMAND", (sys.executable, "-c", "print('the disk is full')"))
    out = io.StringIO()
    assert demo.run(out=out) == 1
    assert out.getvalue().splitlines()[-1] == "   FAILED `simulate` did not start; it said: the disk is full"


def event(number: int, **fields: Any) -> dict[str, Any]:
    return {"sequence_number": number, "type": "response.output_text.delta", **fields}


UNCUT = [event(number, delta=f"word {number}") for number in range(4)]


@pytest.mark.parametrize(
    ("got", "found"),
    [
        (UNCUT, ""),
        ([*UNCUT[:2], *UNCUT[1:]], "twice: [1], missing: none"),
        ([*UNCUT[:2], *UNCUT[3:]], "twice: none, missing: [2]"),
        (UNCUT[:3], "twice: none, missing: [3]"),
        ([*UNCUT[:3], event(3, delta="another word")], "different: [3]"),
        ([UNCUT[1], UNCUT[0], *UNCUT[2:]], "different: [1, 0]"),
        ([*UNCUT, event(4, delta="too much")], "5 events, expected 4"),
    ],
    ids=["the_same", "twice", "missing", "short", "changed", "out_of_order", "long"],
)
def test_two_runs_of_events_are_the_same_only_if_no_event_is_twice_missing_or_changed(
    got: list[dict[str, Any]], found: str
) -> None:
    assert difference(got, UNCUT) == found


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("out", "environ", "coloured"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
    ids=["terminal", "no_color", "dumb", "pipe"],
)
def test_colour_is_for_terminals_and_for_those_who_want_it(
    out: io.StringIO, environ: dict[str, str], coloured: bool
) -> None:
    tell = Teller(out, environ)
    tell.claim("it holds", True)
    with pytest.raises(NotSo, match=r"^it holds: not so \(it broke\)$"):
        tell.claim("it holds", False, "it broke")
    assert ("\x1b" in out.getvalue()) is coloured
    assert tell.claims == 1


async def test_spans_that_never_come_are_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_EXPORT_S", 0.0)
    async with stages.set_up(os.environ) as stage:
        with pytest.raises(Broken, match="of chat only nothing was exported"):
            await stage.trace("0" * 32, ["chat"])
