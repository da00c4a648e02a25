"""`check`: can a gateway serve with these settings, on this machine, now? One line for each thing that it needs."""

import argparse
import asyncio
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yarl import URL

from gateway import config
from gateway.commands import operator
from gateway.commands.terminal import Failed, say, size
from gateway.commands.workers import settings_of
from gateway.config import Address, Settings, SettingsError
from gateway.domain.errors import StoreUnavailable, UpstreamError
from gateway.domain.headers import Headers
from gateway.relay.routing import Route, url
from gateway.relay.upstream import Call, Timeouts, Upstream
from gateway.store.open import open_store
from gateway.store.port import Unusable

EXAMPLES = """\
examples:
  responses-gateway check
  responses-gateway check --config gateway.toml && responses-gateway serve --config gateway.toml

It changes nothing. Next to a running gateway it says what that one uses. Exit status 1 if anything fails.
"""
_UPSTREAM_S = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `warns`: it will do, but somebody should know."""

    what: str
    ok: bool
    text: str
    warns: bool = False

    def __str__(self) -> str:
        verdict = "FAIL" if not self.ok else "warn" if self.warns else "ok"
        return f"{verdict:<4}  {self.what:<8}  {self.text}"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Where a gateway may run, and one flag per setting."""
    operator.add_ops_url(parser)
    config.add_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Look at everything, and say so line by line."""
    try:
        settings = config.load(config.flags_of(arguments), config_file=arguments.config)
        gateway = operator.of(settings, arguments.ops_url)
    except SettingsError as error:
        say(str(Finding("settings", False, str(error))))
        return 1
    given = f"file {arguments.config}" if arguments.config else "flags, variables and defaults"
    ops, running = _ops(settings, gateway)
    findings = [Finding("settings", True, f"valid ({given})"), *_store(settings, running)]
    say("\n".join(map(str, findings)))
    others = [asyncio.run(_upstream(settings)), ops, _listen(settings, running)]
    say("\n".join(map(str, others)))
    findings += others
    return 0 if all(finding.ok for finding in findings) else 1


def _ops(settings: Settings, gateway: operator.Operator) -> tuple[Finding, dict[str, Any] | None]:
    """Whether a gateway answers on the ops address, else whether that is free; and what it says of itself."""
    try:
        running = gateway.get("/statusz")
        held = running["live"]["responses"]
        about = f"a gateway runs at {gateway.url} (version {running['version']}, {running['status']}, {held} live)"
        return Finding("ops", True, about), running
    except operator.NoGateway:
        own = [settings_of(number, settings).ops_listen for number in range(1, settings.workers + 1)]
        free = [_free("ops", address, "no gateway runs") for address in own]
        return next((one for one in free if not one.ok), free[0]), None
    except (Failed, LookupError) as error:
        return Finding("ops", False, f"{gateway.url}: {error}"), None


def _store(settings: Settings, running: dict[str, Any] | None) -> list[Finding]:
    path, shown = settings.store.path, settings.store.shown
    if running is not None and running["store"]["url"] == shown and settings.store.kind != "redis":
        store = running["store"]
        if store["problem"]:
            return [Finding("store", False, f"{shown}: {store['problem']}")]
        return [Finding("store", True, f"{shown} is held by the running gateway ({size(store['bytes'])})")]
    if settings.store.kind == "memory":
        return [Finding("store", True, "memory://: nothing outlives the process")]
    if path is not None and not path.exists():
        return [_new_file(settings, path)]
    try:
        used, warnings = asyncio.run(_opened(settings))
    except (Unusable, StoreUnavailable) as error:
        return [Finding("store", False, str(error))]
    opened = Finding("store", True, f"{shown} can be opened ({size(used)})")
    return [opened, *[Finding("store", True, warning, warns=True) for warning in warnings]]


def _new_file(settings: Settings, path: Path) -> Finding:
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return Finding("store", False, f"{settings.store}: no file can be made in {path.parent}; check its rights")
    return Finding("store", True, f"{settings.store} will be made at the first start")


async def _opened(settings: Settings) -> tuple[int, Sequence[str]]:
    """Bytes that the store takes, and what is wrong with it."""
    store = open_store(settings, time.time)
    await store.open()
    try:
        return (await store.space()).bytes, store.warnings
    finally:
        await store.close()


async def _upstream(settings: Settings) -> Finding:
    """Any HTTP answer will do: what upstream makes of a request is between it and the client."""
    key = settings.upstream_api_key
    headers: Headers = [("Authorization", f"Bearer {key.get_secret_value()}")] if key else []
    base = URL(settings.upstream, encoded=True)
    asked = url(Route("default", base), f"{base.raw_path.rstrip('/')}/models", base.raw_query_string)
    upstream = Upstream(Timeouts(settings.upstream_connect_s, _UPSTREAM_S, _UPSTREAM_S), header_limit=2**16)
    await upstream.open()
    try:
        answer = await upstream.send(Call("GET", asked, [("Accept", "application/json"), *headers]))
        answer.close()
    except UpstreamError as error:
        return Finding("upstream", False, f"{settings.upstream}: {error.message}")
    finally:
        await upstream.close()
    refused = answer.status in (401, 403)
    if refused and key:
        return Finding("upstream", False, f"{settings.upstream} refuses upstream_api_key ({answer.status})")
    meaning = ": it wants a credential, which clients bring" if refused else ""
    return Finding("upstream", True, f"{settings.upstream} answers ({answer.status}{meaning})")


def _listen(settings: Settings, running: dict[str, Any] | None) -> Finding:
    if running is not None and running["settings"]["listen"] == str(settings.listen):
        return Finding("listen", True, f"the running gateway serves clients on {settings.listen}")
    return _free("listen", settings.listen)


def _free(what: str, address: Address, before: str = "") -> Finding:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        socket.create_server((address.host, address.port), family=family).close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return Finding(what, False, f"{address} cannot be listened on: {reason}")
    return Finding(what, True, f"{before}{', ' if before else ''}{address} is free")
