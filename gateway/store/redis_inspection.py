"""Whether a Redis will do, and what its settings cost. Only `redis` calls this, when it is opened.

What is kept through what is said by the server itself. A managed one may not say: then nothing is known against it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.domain.errors import StoreUnavailable
from gateway.store.port import Durability, Unusable
from gateway.store.redis_link import Link

OLDEST = (6, 2)
"""The first version that has all commands that are used."""
_ASKED = ("maxmemory", "maxmemory-policy", "appendonly", "appendfsync", "save")


async def inspect(link: Link) -> tuple[Durability, tuple[str, ...]]:
    """What an acknowledgement means there, and warnings. Raises Unusable, StoreUnavailable."""
    (server,) = await link.read(("INFO", "server"))
    version = str(server.get("valkey_version") or server.get("redis_version", ""))
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST:
        raise Unusable(f"Redis {version} is too old: {'.'.join(map(str, OLDEST))} is needed")
    try:
        said = _settings(*await link.read(*[("CONFIG GET", name) for name in _ASKED]))
    except StoreUnavailable as error:
        if "refused" not in error.message:
            raise
        return "process", ()
    durability: Durability = "fsync" if _synced(said) else "process"
    return durability, tuple(_warnings(said))


def _settings(*answers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for answer in answers for name, value in answer.items()}


def _synced(said: Mapping[str, Any]) -> bool:
    return said.get("appendonly") == "yes" and said.get("appendfsync") == "always"


def _warnings(said: Mapping[str, Any]) -> Iterator[str]:
    policy = said.get("maxmemory-policy", "noeviction")
    if policy.startswith("allkeys"):
        yield f"maxmemory-policy {policy} deletes responses that run when memory is full: set noeviction"
    elif policy != "noeviction":
        yield f"maxmemory-policy {policy} deletes responses before their retention is over: set noeviction"
    if said.get("maxmemory") == "0":
        yield "maxmemory is not set, so a full server is killed: set it below the machine's memory"
    if said.get("appendonly") == "no":
        lost = "all responses" if not said.get("save") else "minutes of responses"
        yield f"appendonly is off, so a restart of Redis loses {lost}: set appendonly yes"
