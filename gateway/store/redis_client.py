"""From a URL to a client of redis-py. Only the modules of `redis` call this."""

from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError

from gateway.config_store import RedisUrl

_AGAIN = 3
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_password")


def client_of(url: RedisUrl, *, timeout_s: float) -> Any:
    """A client that has not connected yet."""
    common: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        # Soon, and not for long, as somebody waits.
        "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), _AGAIN),
        **_tls(url),
    }
    user: dict[str, Any] = {"username": url.username, "password": url.password}
    if url.path is not None:
        return Redis(unix_socket_path=url.path, db=url.database, **user, **common)
    if url.kind == "cluster":
        return RedisCluster(startup_nodes=[ClusterNode(host, port) for host, port in url.hosts], **user, **common)
    if url.kind == "sentinel":
        asking = {name: url.option(f"sentinel_{name}") for name in user}
        ask: Any = Sentinel  # without types
        sentinels = ask(
            url.hosts,
            sentinel_kwargs={**common, **asking},
            db=url.database,
            **user,
            **common,
            redis_connect_func=_to_primary,
        )
        return sentinels.master_for(url.service)
    ((host, port),) = url.hosts
    return Redis(host=host, port=port, db=url.database, **user, **common)


async def _to_primary(connection: Any) -> None:
    """Right after a failover a Sentinel may still name what is a replica now, and replicas answer, with what was."""
    await connection.on_connect()
    await connection.send_command("HELLO", 2, check_health=False)
    said = await connection.read_response()
    if dict(zip(said[::2], said[1::2], strict=True)).get(b"role") != b"master":
        raise ConnectionError("what Sentinels name is a replica")


async def hang_up(client: Any) -> None:
    """Close all its connections, those to Sentinels too."""
    manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    await client.aclose()
    for sentinel in manager.sentinels if manager is not None else ():
        await sentinel.aclose()


def _tls(url: RedisUrl) -> dict[str, Any]:
    if not url.tls:
        return {}
    files = {name: file for name in _FILES if (file := url.option(name)) is not None}
    return {"ssl": True, "ssl_check_hostname": url.checks_hostname, **files}
