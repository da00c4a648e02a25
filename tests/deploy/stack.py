"""The files of the deployment as values: what compose.yaml says, and what the collector's file is without contrib."""

import re
import socket
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
COLLECTOR_FILE = ROOT / "otel-collector.yaml"

CONTRIB = frozenset({"health_check", "file_storage"})
"""What the collector's file takes from the contrib distribution: what a Collector of the core cannot check."""
TOKEN = "an-ops-token"
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<how>[-?])(?P<rest>[^}]*))?\}")


def environment(service: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of a service, for a user with these. Raises KeyError for one that is asked for and not there."""

    def value(found: re.Match[str]) -> str:
        default = found["rest"] if found["how"] == "-" else None
        return environ.get(found["name"]) or (environ[found["name"]] if default is None else default)

    written = SERVICES[service].get("environment", {})
    return {name: _VARIABLE.sub(value, str(text)) for name, text in written.items()}


def mounts(service: str) -> dict[PurePosixPath, Path]:
    """The files and folders of the repository that a service sees, by where it sees them."""
    pairs = (volume.split(":") for volume in SERVICES[service].get("volumes", []))
    return {PurePosixPath(inside): ROOT / outside for outside, inside, *_ in pairs if outside.startswith(".")}


def loaded(service: str, inside: str) -> Any:
    """A YAML file as a service sees it."""
    return yaml.safe_load(mounts(service)[PurePosixPath(inside)].read_text())


def core_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """A collector's configuration without what the core does not have: extensions, and the queue's place on disk."""

    def without(part: Any) -> Any:
        if isinstance(part, list):
            return [without(one) for one in part if not named(one)]
        if isinstance(part, dict):
            return {name: without(value) for name, value in part.items() if not (named(name) or named(value))}
        return part

    def named(part: Any) -> bool:
        return isinstance(part, str) and part in CONTRIB

    core: dict[str, Any] = without(dict(config))
    return core


def free_port() -> int:
    """A port that nobody listens on, for programs that cannot say which one they took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
