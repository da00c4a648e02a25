"""Real Redis servers for tests: a server and a cluster for each test process, and whatever a test starts.

REDIS_SERVER in the environment names another program than `redis-server`, a Valkey, say, by its path.
"""

import atexit
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pytest

from gateway.store.redis_inspection import OLDEST, OLDEST_CLUSTER

PROGRAM = os.environ.get("REDIS_SERVER", "redis-server")
PATIENCE_S = 30.0
_SLOTS = 16384
# With `everysec` a Redis that is killed while its disk is busy loses up to two seconds of what it has acknowledged.
_SYNCED = ("--appendonly", "yes", "--appendfsync", "always")
_QUICK = ("--appendfsync", "everysec")


class RedisServer:
    """A server that keeps what it is told in `folder`, and can be stopped and started again on its port."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        need()
        self.folder = folder
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        place = ("--dir", str(folder), "--bind", "127.0.0.1", "--port", str(self.port))
        self.command = (PROGRAM, *place, "--save", "", *_SYNCED, "--daemonize", "no", *options)
        self.process: subprocess.Popen[bytes]

    def start(self) -> "RedisServer":
        """Start it, and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        self.until(lambda: self.ask("PING") == "+PONG")
        return self

    def kill(self) -> None:
        """As kill -9 does."""
        self.process.kill()
        self.process.wait()

    def ask(self, *command: str) -> str:
        """What it answers, as it does on the wire; the first 64 KiB of that."""
        words = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in command)
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as line:
                line.sendall(f"*{len(command)}\r\n{words}".encode())
                return line.recv(65536).decode().strip()
        except ConnectionError:
            return ""

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so."""
        until = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < until, (self.folder / "log").read_text()
            time.sleep(0.02)


def free_port() -> int:
    """A port that is free, and so is the one that a node of a cluster takes beside it."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as one:
            port: int = one.getsockname()[1]
        try:
            with socket.create_server(("127.0.0.1", port + 10000)):
                return port
        except (OSError, OverflowError):
            continue


def need(oldest: tuple[int, ...] = OLDEST) -> None:
    """Skip what takes a program of this version at least, where there is none."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"there is no {PROGRAM}: apt-get install redis-server")
    if _version() < oldest:
        pytest.skip(f"{PROGRAM} is older than {'.'.join(map(str, oldest))}")


@cache
def _version() -> tuple[int, ...]:
    said = subprocess.run((PROGRAM, "--version"), capture_output=True, text=True, check=True).stdout
    return tuple(map(int, re.findall(r"v=(\d+)\.(\d+)", said)[0]))


def cluster(folder: Path, *options: str) -> list[RedisServer]:
    """Three servers that are one cluster."""
    need(OLDEST_CLUSTER)
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", *options)
    nodes = [RedisServer(folder / str(number), *options).start() for number in range(3)]
    bounds = [_SLOTS * number // 3 for number in range(4)]
    for epoch, (node, first, after) in enumerate(zip(nodes, bounds, bounds[1:], strict=False), start=1):
        assert node.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(after - 1)) == "+OK"
        # Servers with one epoch settle whose is the newer at any later time, and take a moved slot back by it.
        assert node.ask("CLUSTER", "SET-CONFIG-EPOCH", str(epoch)) == "+OK"
    for node in nodes[1:]:
        assert nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", str(node.port)) == "+OK"
    for node in nodes:
        node.until(lambda node=node: _whole(node))  # type: ignore[misc]
    return nodes


def move_slot(slot: int, source: RedisServer, target: RedisServer, nodes: Iterable[RedisServer]) -> None:
    """Move a slot of a cluster of these nodes with all its keys, as `redis-cli --cluster reshard` does."""
    names = {node: node.ask("CLUSTER", "MYID").splitlines()[1] for node in (source, target)}
    assert target.ask("CLUSTER", "SETSLOT", str(slot), "IMPORTING", names[source]) == "+OK"
    assert source.ask("CLUSTER", "SETSLOT", str(slot), "MIGRATING", names[target]) == "+OK"
    while len(found := source.ask("CLUSTER", "GETKEYSINSLOT", str(slot), "1").splitlines()) > 1:
        migrated = source.ask("MIGRATE", "127.0.0.1", str(target.port), found[2], "0", "5000")
        assert migrated in ("+OK", "+NOKEY"), migrated
    for node in (target, source):
        assert node.ask("CLUSTER", "SETSLOT", str(slot), "NODE", names[target]) == "+OK"
    # Where the next owner has not heard of this move's epoch, its claim is the older one.
    for node in nodes:
        node.until(lambda node=node: _epoch(node) == _epoch(target))  # type: ignore[misc]


def _epoch(node: RedisServer) -> str:
    return node.ask("CLUSTER", "INFO").partition("cluster_current_epoch:")[2].split()[0]


def _whole(node: RedisServer) -> bool:
    info = node.ask("CLUSTER", "INFO")
    return "cluster_state:ok" in info and "cluster_known_nodes:3" in info


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def shared() -> RedisServer:
    """The server of this test process."""
    server = RedisServer(_folder(), *_QUICK).start()
    atexit.register(server.kill)
    return server


@cache
def shared_cluster() -> list[RedisServer]:
    """The cluster of this test process."""
    nodes = cluster(_folder(), *_QUICK)
    for node in nodes:
        atexit.register(node.kill)
    return nodes


def url_for(folder: Path) -> str:
    """A place of its own on the shared server, for the one test that has the folder."""
    return f"{shared().url}?prefix={folder}"


def cluster_url_for(folder: Path) -> str:
    """The same on the shared cluster."""
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in shared_cluster())
    return f"redis+cluster://{hosts}?prefix={folder}"
