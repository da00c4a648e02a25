"""README is true: its examples run as they stand and print what it shows, its tables are the code's."""

import asyncio
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from lives import a_life, one_of_each
from msgspec import structs
from readme import BETWEEN_BLOCKS, EXAMPLES, MARK, README
from running import PATIENCE_S, Running, Upstream

from dashboards.__main__ import with_tables
from gateway.domain.facts import Ended
from gateway.telemetry.logs import configure

needs_a_shell = pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "curl", "jq"))), reason="needs bash, curl and jq: apt install bash curl jq"
)


def test_every_marked_example_is_found() -> None:
    assert len(EXAMPLES) == README.count(MARK) > 10


def test_no_example_that_asks_the_gateway_is_left_untried() -> None:
    blocks = re.findall(r"(.*)\n```sh\n(.*?)^```", README, re.S | re.M)
    untried = [code for before, code in blocks if "curl" in code and not before.endswith(MARK)]
    assert not untried


@needs_a_shell
async def test_the_examples_run_as_they_stand_and_print_what_readme_shows(
    simulate: Callable[..., Awaitable[Upstream]],
    gateway_for: Callable[..., Awaitable[Running]],
    tmp_path: Path,
) -> None:
    upstream = await simulate()
    gateway = await gateway_for(upstream.url)
    places = {
        "http://127.0.0.1:8080": gateway.url,
        "http://127.0.0.1:8081": upstream.url.removesuffix("/v1"),
        "http://127.0.0.1:9464": gateway.ops_url,
    }
    examples = [example for example in EXAMPLES if example.language != "js"]
    script = "".join(example.script for example in examples)
    for written, here in places.items():
        script = script.replace(written, here)
    kept = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    environ = {
        **kept,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)]),
        "OPENAI_API_KEY": "sk-readme",
        "GATEWAY_OPS_URL": gateway.ops_url,
    }
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-euc", script),
        cwd=tmp_path,
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        out, complaints = await shell.communicate()
    said = out.decode().replace("\r", "")
    for written, here in places.items():
        said = said.replace(here, written)
    printed = said.split(BETWEEN_BLOCKS)
    assert shell.returncode == 0, f"{said}\n{complaints.decode()}"
    wrong = [
        f"{example.code}\nREADME shows:\n{example.output}\nit prints:\n{text}"
        for example, text in zip(examples, printed, strict=False)
        if not example.prints(text)
    ]
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("name", ["metrics", "levels", "alerts"])
def test_the_tables_of_metrics_service_levels_and_alerts_are_the_codes(name: str) -> None:
    marks = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    assert [README.count(mark) for mark in marks] == [1, 1]
    shown, told = (text.partition(marks[0])[2].partition(marks[1])[0] for text in (README, with_tables(README)))
    assert shown == told, "run: python -m dashboards"


def test_the_log_line_that_readme_shows_has_the_fields_of_those_that_are_written() -> None:
    shown = README.partition("### Logs")[2].partition("```json\n")[2].partition("```")[0]
    stream = io.StringIO()
    logs = configure("info", "json", stream)
    (ended,) = (fact for fact in a_life() if isinstance(fact, Ended))
    logs.observe(structs.replace(ended, response=ended.response.but(upstream_request_id="req_1")))
    logs.close()
    assert list(json.loads(shown)) == list(json.loads(stream.getvalue()))


def test_every_event_that_readme_tells_of_is_written_by_some_fact() -> None:
    table = README.partition("### Logs")[2].partition("### Security")[0]
    named = {name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall(r"`(\w+)`", row)}
    stream = io.StringIO()
    logs = configure("debug", "json", stream)
    for fact in [*a_life(), *one_of_each()]:
        logs.observe(fact)
    logs.close()
    written = {json.loads(line)["event"] for line in stream.getvalue().splitlines()}
    assert named - written == {"log_lines_lost"}
    assert len(named) > 10
