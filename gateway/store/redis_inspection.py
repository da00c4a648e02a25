"""Whether a Redis will do, and what its settings cost. Only `redis` calls this, when it is opened.

What is kept through what is said by the server itself. A managed one may not say: then nothing is known against it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.domain.errors import StoreUnavailable
from gateway.store.port import Durability, Unusable
from gateway.store.redis_link import Link

OLDEST, OLDEST_CLUSTER = (6, 2), (7, 0)
"""The first versions that have all commands that are used."""
_ASKED = ("maxmemory", "maxmemory-policy", "appendonly", "appendfsync", "save")


async def inspect(link: Link) -> tuple[Durability, tuple[str, ...]]:
    """What an acknowledgement means there, and warnings. Raises Unusable, StoreUnavailable."""
    for (server,) in await link.everywhere(("INFO", "server")):
        version = str(server.get("valkey_version") or server.get("redis_version", ""))
        oldest = OLDEST_CLUSTER if link.is_cluster else OLDEST
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < oldest:
            raise Unusable(f"Redis {version} is too old: {'.'.join(map(str, oldest))} is needed")
    try:
        servers = await link.everywhere(*[("CONFIG GET", name) for name in _ASKED])
    except StoreUnavailable as error:
        if "refused" not in error.message:
            raise
        return "process", ()
    said = [{name: value for answer in answers for name, value in answer.items()} for answers in servers]
    durability: Durability = "fsync" if all(map(_synced, said)) else "process"
    return durability, tuple(dict.fromkeys(warning for one in said for warning in _warnings(one)))


def _synced(said: Mapping[str, Any]) -> bool:
    return said.get("appendonly") == "yes" and said.get("appendfsync") == "always"


def _warnings(said: Mapping[str, Any]) -> Iterator[str]:
    policy = said.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        yield f"with maxmemory-policy {policy} a full Redis deletes responses that still run; set noeviction"
    if said.get("maxmemory") == "0":
        yield "without maxmemory a Redis that fills its machine is killed; set it below the machine's memory"
    if said.get("appendonly") == "no":
        lost = "minutes of responses" if said.get("save") else "all responses"
        yield f"with appendonly no, a restart of Redis loses {lost}; set appendonly yes"
