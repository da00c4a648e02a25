"""The Dockerfile's steps taken in a folder, and the image's command run there: `make deploy-check`, as root.

The folder begins as the same Debian, with Debian's own Python of the same line. As in compose.yaml all of it is
read-only but the volume and /tmp. What only an engine does is not tried.
"""

import asyncio
import json
import os
import stat
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from image import build, said, stages, variables
from processes import Process, started
from running import Upstream
from stories import ask

BASE = Path(os.environ.get("PROGRAMS", "/nonexistent")) / "base"
IMAGE = stages()[-1]
USER = said(IMAGE, "USER")[0]
HEALTH = json.loads(said(IMAGE, "HEALTHCHECK")[0].partition(" CMD ")[2])
COMMAND = [*json.loads(said(IMAGE, "ENTRYPOINT")[0]), *json.loads(said(IMAGE, "CMD")[0])]
# $0 is the root, $1 user and group; what follows them is run.
CONTAINER = """
mount --bind "$0" "$0"
mount --bind "$0/data" "$0/data"
mount -t tmpfs tmpfs "$0/tmp"
mount -t proc proc "$0/proc"
mount -o remount,bind,ro "$0"
user="$1"; shift
exec chroot --userspec="$user" "$0" "$@"
"""

pytestmark = pytest.mark.skipif(not BASE.is_dir(), reason="needs what tests/deploy/programs.sh makes for root")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(BASE, tmp_path_factory.mktemp("image"))


def container(root: Path, *command: str, **environ: str) -> list[str]:
    """What runs a command as a container of the image does."""
    path = "/usr/local/bin:/usr/bin:/bin"
    given = {**variables(), "PATH": variables()["PATH"].replace("$PATH", path), **environ}
    return [
        *("unshare", "--mount", "sh", "-euc", CONTAINER, str(root), USER),
        *("env", "-i", f"--chdir={said(IMAGE, 'WORKDIR')[0]}", *(f"{name}={value}" for name, value in given.items())),
        *command,
    ]


def run(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(container(root, *command), capture_output=True, text=True, timeout=120)


@pytest.fixture
async def gateway(root: Path, simulate: Callable[..., Awaitable[Upstream]], parts: AsyncExitStack) -> Process:
    """The image's own command, in front of a simulator, on free ports."""
    settings = {
        "GATEWAY_UPSTREAM": (await simulate()).url,
        "GATEWAY_LISTEN": "127.0.0.1:0",
        "GATEWAY_OPS_LISTEN": "127.0.0.1:0",
        "GATEWAY_LOG_FORMAT": "json",
        "GATEWAY_DRAIN_DELAY_S": "0.1",
    }
    process = await started(*container(root, *COMMAND, **settings))
    parts.push_async_callback(process.close)
    return process


async def test_it_serves_as_its_user_and_keeps_what_it_holds_on_the_volume(root: Path, gateway: Process) -> None:
    client = gateway.client()
    created = await client.responses.create(**ask(), background=True)
    async with asyncio.timeout(60):
        while (await client.responses.retrieve(created.id)).status != "completed":  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    file = (root / "data" / "responses.db").stat()
    assert (f"{file.st_uid}:{file.st_gid}", stat.S_IMODE(file.st_mode)) == (USER, 0o600)


async def test_the_signal_that_stops_a_container_drains_it(gateway: Process) -> None:
    assert said(IMAGE, "STOPSIGNAL") == ["SIGTERM"]
    gateway.tell_to_stop()
    assert await gateway.stopped() == 0


async def test_the_health_check_runs_in_the_image(root: Path, gateway: Process) -> None:
    command = [text.replace("9464", gateway.ops_url.rpartition(":")[2]) for text in HEALTH]
    alive = await asyncio.to_thread(run, root, *command)
    assert (alive.returncode, alive.stderr) == (0, "")
    await gateway.kill()
    assert (await asyncio.to_thread(run, root, *command)).returncode == 1


def test_the_user_can_write_nowhere_else(root: Path) -> None:
    found = run(root, "find", "/", "-xdev", "-writable", "-not", "-type", "l", "-not", "-path", "/dev/*")
    assert {Path(path).parts[1] for path in found.stdout.splitlines()} == {"data", "tmp"}


def test_it_holds_all_that_the_demo_needs(root: Path) -> None:
    shown = run(root, "responses-gateway", "demo")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    where = run(root, "python", "-c", "import gateway; print(gateway.__file__)")
    assert where.stdout.startswith("/opt/gateway/")
