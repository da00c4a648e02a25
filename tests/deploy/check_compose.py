"""compose.yaml as Docker Compose itself reads it, which takes no engine. `make deploy-check` fetches it for this."""

import json
import os
import shutil
import subprocess
from pathlib import PurePosixPath

import pytest
from stack import ROOT, SERVICES, TOKEN, environment, mounts

BINARY = shutil.which("docker-compose")
USER = {"GATEWAY_OPS_TOKEN": TOKEN}
CHOSEN = {**USER, "GATEWAY_UPSTREAM": "https://api.openai.com/v1", "OTELCOL_EXPORTERS": "[otlp_http/backend, debug]"}

pytestmark = pytest.mark.skipif(BINARY is None, reason="needs the Compose that tests/deploy/programs.sh fetches")


def config(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [str(BINARY), "--env-file", "/dev/null", "config", "--format", "json"]
    kept = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(command, cwd=ROOT, env={**kept, **environ}, capture_output=True, text=True)


@pytest.mark.parametrize("environ", [USER, CHOSEN], ids=["as it stands", "with what can be chosen"])
def test_it_is_valid_and_means_what_the_tests_take_it_for(environ: dict[str, str]) -> None:
    done = config(environ)
    assert (done.returncode, done.stderr) == (0, "")
    services = json.loads(done.stdout)["services"]
    assert services.keys() == SERVICES.keys()
    for name, service in services.items():
        assert service.get("environment", {}) == environment(name, environ)
        bound = {v["target"]: v["source"] for v in service.get("volumes", []) if v["type"] == "bind"}
        assert {PurePosixPath(inside): ROOT / outside for inside, outside in bound.items()} == mounts(name)
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", []))


def test_without_a_token_it_says_what_to_do() -> None:
    done = config({})
    assert done.returncode != 0
    assert "put GATEWAY_OPS_TOKEN=... into .env" in done.stderr
