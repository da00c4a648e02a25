"""A real Redis for tests: one server for each test process, on a socket in a directory of its own."""

import atexit
import shutil
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

import pytest

PROGRAM = "redis-server"
_PATIENCE_S = 30.0


class RedisServer:
    """A server that keeps what it is told in `folder`, and can be stopped and started again."""

    def __init__(self, folder: Path, *options: str) -> None:
        if shutil.which(PROGRAM) is None:
            pytest.skip("there is no redis-server: apt-get install redis-server")
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._options = options
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self.socket.unlink(missing_ok=True)
        place = ("--dir", str(self.folder), "--unixsocket", str(self.socket), "--port", "0")
        options = ("--save", "", "--appendonly", "yes", "--daemonize", "no", *self._options)
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen([PROGRAM, *place, *options], stdout=log, stderr=log)
        log.close()
        until = time.monotonic() + _PATIENCE_S
        while not self.socket.exists():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < until, "redis-server did not start"
            time.sleep(0.01)

    def kill(self) -> None:
        """As kill -9 does."""
        self.process.kill()
        self.process.wait()


@cache
def shared() -> RedisServer:
    """The one of this test process."""
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    server = RedisServer(folder)
    server.start()

    def stop() -> None:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    return server


def url_for(folder: Path) -> str:
    """A place of its own on that server, for the one test that has the folder."""
    return f"{shared().url}?prefix={folder}"
