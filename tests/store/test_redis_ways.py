"""The ways to a Redis that the setting `store` can name: TLS with certificates, a user, a socket, a database."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from given import Clock, ended, numbered, there
from redis_server import RedisServer

from gateway.store.port import End, Unusable
from gateway.store.redis import RedisStore


async def works(url: str, clock: Clock) -> None:
    """What one process writes there, another reads."""
    one, two = RedisStore(url, clock=clock), RedisStore(url, clock=clock)
    await one.open()
    await two.open()
    try:
        await ended(one, last=2)
        assert await there(two) == (numbered(0, 2), End())
    finally:
        await one.close()
        await two.close()


async def refused(url: str, clock: Clock) -> str:
    """Why it cannot be opened."""
    with pytest.raises(Unusable) as error:
        await RedisStore(url, clock=clock, timeout_s=2).open()
    return str(error.value)


@pytest.fixture
async def certificates(tmp_path: Path) -> Path:
    """A folder with an authority's certificate (`ca.pem`) and one for 127.0.0.1 by it (`one.pem`, `one.key`)."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl: apt-get install openssl")
    (tmp_path / "names").write_text("subjectAltName=IP:127.0.0.1")
    usage = ("-addext", "keyUsage=critical,keyCertSign")
    authority = ("-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority", "-days", "2", *usage)
    sign = ("-req", "-in", "one.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
    for command in (
        ("req", "-newkey", "rsa:2048", "-nodes", *authority),
        ("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "one.key", "-out", "one.csr", "-subj", "/CN=one"),
        ("x509", *sign, "-out", "one.pem", "-days", "2"),
    ):
        made = await asyncio.create_subprocess_exec(
            "openssl", *command, cwd=tmp_path, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        _, said = await made.communicate()
        assert made.returncode == 0, said.decode()
    return tmp_path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server with a socket beside its port."""
    one = RedisServer(tmp_path / "redis", "--unixsocket", str(tmp_path / "redis.sock")).start()
    yield one
    one.kill()


async def test_a_socket(server: RedisServer, clock: Clock, tmp_path: Path) -> None:
    await works(f"unix://{tmp_path}/redis.sock?db=3", clock)
    assert server.ask("INFO", "keyspace").splitlines()[2].startswith("db3:keys=")


async def test_a_database_and_a_prefix(server: RedisServer, clock: Clock) -> None:
    await works(f"valkey://127.0.0.1:{server.port}/5?prefix=mine", clock)
    keyspace = server.ask("INFO", "keyspace")
    assert "db5:" in keyspace
    assert "db0:" not in keyspace
    await works(f"redis://127.0.0.1:{server.port}/0?prefix=mine", clock)
    keys = server.ask("KEYS", "*").splitlines()[2::2]
    assert keys
    assert all(key.startswith("mine:") for key in keys)


async def test_a_user_with_the_rights_that_it_takes(server: RedisServer, clock: Clock) -> None:
    topics = ("resetchannels", "&responses:*")
    rights = ("on", ">p@ss/word", "~responses:*", *topics, "+@all", "-@admin", "-@dangerous", "+info")
    assert server.ask("ACL", "SETUSER", "gateway", *rights) == "+OK"
    await works(f"redis://gateway:p%40ss%2Fword@127.0.0.1:{server.port}", clock)
    assert "invalid username-password" in await refused(f"redis://gateway:other@127.0.0.1:{server.port}", clock)


async def test_tls_with_certificates_on_both_sides(certificates: Path, clock: Clock, tmp_path: Path) -> None:
    files = ("--tls-cert-file", "one.pem", "--tls-key-file", "one.key", "--tls-ca-cert-file", "ca.pem")
    given = [str(certificates / value) if "." in value else value for value in files]
    tls = RedisServer(tmp_path / "tls")
    secure = RedisServer(tmp_path / "secure", "--tls-port", str(tls.port), "--tls-auth-clients", "yes", *given).start()
    try:
        here = f"rediss://127.0.0.1:{tls.port}/0"
        known = f"ssl_ca_certs={certificates}/ca.pem"
        mine = f"ssl_certfile={certificates}/one.pem&ssl_keyfile={certificates}/one.key"
        await works(f"{here}?{known}&{mine}", clock)
        assert "certificate verify failed" in await refused(f"{here}?{mine}", clock)
        assert "Redis" in await refused(f"{here}?{known}", clock)
        assert "Redis" in await refused(here.replace("rediss", "redis"), clock)
    finally:
        secure.kill()
