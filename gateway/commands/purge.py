"""`purge`: what is past its retention is deleted, by the running gateway or, where none runs, straight in the store."""

import argparse
import asyncio
import time

from gateway import config
from gateway.commands import operator
from gateway.commands.terminal import Failed, say
from gateway.config import Settings
from gateway.domain.errors import StoreUnavailable
from gateway.store.open import open_store
from gateway.store.port import Unusable
from gateway.store.purge import purge

EXAMPLES = """\
examples:
  responses-gateway purge
  responses-gateway purge --store sqlite:////var/lib/gateway/responses.db --retention-s 1d

A running gateway does this by itself every --purge-interval-s, with its own retention. The command asks it to do so
now, and opens the store itself only where no gateway answers.
"""
# A large purge takes its time.
_PURGE_S = 3600.0


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Where a gateway may run, and one flag per setting."""
    operator.add_ops_url(parser)
    config.add_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Purge. Raises Failed, SettingsError."""
    flags = config.flags_of(arguments)
    settings = config.load(flags, config_file=arguments.config)
    try:
        records = _by_gateway(
            operator.of(settings, arguments.ops_url), settings.store.shown if "store" in flags else None
        )
    except operator.NoGateway:
        if arguments.ops_url is not None:
            raise
        records = None
    if records is None:
        records = _in_store(settings)
    say(f"Purged {records} record{'' if records == 1 else 's'}." if records else "Nothing is past its retention.")
    return 0


def _by_gateway(gateway: operator.Operator, store: str | None) -> int | None:
    """How many the running gateway purged; None where its store is not the one that was named."""
    if store is not None and gateway.get("/statusz")["store"]["url"] != store:
        return None
    return int(gateway.post("/purge", timeout_s=_PURGE_S)["records"])


def _in_store(settings: Settings) -> int:
    if settings.store.kind == "memory":
        raise Failed("no gateway runs, and what memory:// held went with it")
    path = settings.store.path
    if path is not None and not path.exists():
        raise Failed(f"no gateway runs, and {path} does not exist")
    try:
        return asyncio.run(_purge(settings))
    except (Unusable, StoreUnavailable) as error:
        raise Failed(f"the store cannot be purged: {error}") from None


async def _purge(settings: Settings) -> int:
    store = open_store(settings, time.time)
    await store.open()
    try:
        return await purge(store, settings, time.time())
    finally:
        await store.close()
