"""The Dockerfile, as far as it can be looked at without Docker; `check_image.py` takes its steps."""

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable

from image import in_context, said, stages, variables
from processes import serve
from running import Upstream
from stack import ROOT, SERVICES, environment

from gateway.config import load

BUILD, IMAGE = stages()
HEALTH = json.loads(said(IMAGE, "HEALTHCHECK")[0].partition(" CMD ")[2])


def test_both_stages_stand_on_the_same_slim_python_of_a_version() -> None:
    bases = {said(stage, "FROM")[0].partition(" ")[0] for stage in (BUILD, IMAGE)}
    (base,) = bases
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)


def test_what_is_copied_is_in_the_build_context_and_nothing_else_is() -> None:
    copied = {source for copy in said(BUILD, "COPY") for source in copy.split()[:-1]}
    assert copied == in_context()
    assert all((ROOT / source).exists() for source in copied)


def test_the_package_is_python_alone_so_that_a_wheel_holds_all_of_it() -> None:
    paths = [path for path in (ROOT / "gateway").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.suffix for path in paths} == {".py"}
    assert all((path.parent / "__init__.py").exists() for path in paths)


def test_it_runs_as_a_user_that_has_no_rights_and_owns_the_volume_alone() -> None:
    (user,) = said(IMAGE, "USER")
    uid, gid = user.split(":")
    assert int(uid) > 999
    assert said(IMAGE, "VOLUME") == ["/data"]
    assert f"install -d -m 700 -o {uid} -g {gid} /data" in said(IMAGE, "RUN")
    assert IMAGE.index(("USER", user)) > max(n for n, (name, _) in enumerate(IMAGE) if name in ("RUN", "COPY"))


def test_its_variables_are_settings_and_the_store_is_on_the_volume() -> None:
    settings = load({}, environ=variables())
    assert str(settings.store.path) == "/data/responses.db"
    assert not settings.listen.is_loopback
    assert settings.ops_listen.is_loopback, "beyond it a token is needed, which an image cannot have"
    composed = load({}, environ={**variables(), **environment("gateway", {"GATEWAY_OPS_TOKEN": "x"})})
    exposed = {int(port) for port in said(IMAGE, "EXPOSE")[0].split()}
    assert exposed == {settings.listen.port, settings.ops_listen.port, composed.ops_listen.port}


def test_the_gateway_is_the_first_process_so_that_the_signal_reaches_it() -> None:
    assert json.loads(said(IMAGE, "ENTRYPOINT")[0]) == ["responses-gateway"]
    assert json.loads(said(IMAGE, "CMD")[0]) == ["serve"]
    assert said(IMAGE, "STOPSIGNAL") == ["SIGTERM"]


async def status_of(check: list[str], written: int, port: int) -> int:
    """How a health check exits, with another port than the one that is written in it."""
    program, *arguments = check
    assert program == "python"
    command = [sys.executable, *(text.replace(str(written), str(port)) for text in arguments)]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    return await process.wait()


async def test_the_health_check_passes_while_the_gateway_lives_and_fails_when_it_is_gone(
    simulate: Callable[..., Awaitable[Upstream]],
) -> None:
    gateway = await serve((await simulate()).url, "memory://", ops_token="x")
    ops_port = int(gateway.ops_url.rpartition(":")[2])
    try:
        assert await status_of(HEALTH, 9464, ops_port) == 0
        assert await status_of(HEALTH, 9464, gateway.port) == 1, "that is not it: upstream knows no such path"
        await gateway.kill()
        assert await status_of(HEALTH, 9464, ops_port) == 1
    finally:
        await gateway.close()


async def test_the_simulators_health_check_passes_while_it_lives_and_fails_when_it_is_gone(
    simulate: Callable[..., Awaitable[Upstream]],
) -> None:
    upstream = await simulate()
    _, *health = SERVICES["simulator"]["healthcheck"]["test"]
    port = upstream.server.port
    assert port is not None
    assert await status_of(health, 8081, port) == 0
    await upstream.server.close()
    assert await status_of(health, 8081, port) == 1
