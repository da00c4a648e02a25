"""`serve`: the gateway as a process: started, told to stop by a signal, drained."""

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
from typing import Any

import uvloop

from gateway import config
from gateway.app import Gateway, raise_open_files, settle_memory
from gateway.commands.terminal import Failed
from gateway.commands.told import Line, Told
from gateway.commands.workers import Supervisor
from gateway.config import Settings
from gateway.store.port import Unusable
from gateway.telemetry.logs import Logs, configure

log = logging.getLogger("gateway")

EXAMPLES = """\
examples:
  responses-gateway serve
      in front of https://api.openai.com/v1; point base_url at http://127.0.0.1:8080/v1
  responses-gateway serve --upstream http://127.0.0.1:8081/v1 --store memory://
      in front of `responses-gateway simulate`, with nothing kept
  GATEWAY_OPS_TOKEN=... responses-gateway serve --listen :8080 --ops-listen :9464
      reachable from other machines
  responses-gateway serve --store redis://127.0.0.1:6379/0 --workers 4
      four processes on one port; their ops addresses are :9464 to :9467

A running gateway answers on its ops address: /healthz, /readyz, /statusz, /metrics, /responses.
SIGTERM drains and stops it, a second signal stops it at once. Traces go where OTEL_EXPORTER_OTLP_ENDPOINT says.
"""

_UNSEALED = (
    "background responses that are live when this process ends, or dies, wait until their owner makes a request; "
    "with sealing_keys they go on at once"
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag per setting."""
    config.add_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal; 0 when that was all. Raises SettingsError."""
    return serve(config.load(config.flags_of(arguments), config_file=arguments.config))


def serve(settings: Settings, line: Line | None = None) -> int:
    """Serve until told to stop, in this process or in several; `line`: as one of those. The exit status."""
    logs = configure(settings.log_level, settings.log_format, worker=line.worker if line is not None else None)
    sys.unraisablehook = threading.excepthook = _uncaught
    try:
        if settings.workers > 1 and line is None:
            return asyncio.run(Supervisor(settings, logs).run())
        uvloop.run(_serve(settings, logs, line))
    except Unusable as error:
        raise Failed(f"the store cannot be used: {error}") from None
    except OSError as error:
        raise Failed(_not_listening(settings, error)) from None
    finally:
        logs.close()
    return 0


def _uncaught(hook: Any) -> None:
    """In a thread, or where nobody is left to raise to. Python's own way of telling quotes what the error met."""
    log.error("an error where nobody could catch it", exc_info=hook.exc_value)


async def _serve(settings: Settings, logs: Logs, line: Line | None) -> None:
    told = Told(line)
    open_files = raise_open_files(settings.open_files)
    worker = line.worker if line is not None else None
    gateway = Gateway(settings, environ=config.environment(), logs=logs, worker=worker)
    try:
        await gateway.start()
        settle_memory()
        if worker in (None, 1):  # what holds for all is said once
            _warn(gateway, logs, open_files)
        logs.write("info", "listening", **_where(gateway))
        if line is not None:
            line.say_listening()
        first = await told.to_stop()
        # Whoever types Ctrl-C is no load balancer that has to notice first.
        delayed = first is signal.SIGTERM
        at_most_s = settings.drain_s + (settings.drain_delay_s if delayed else 0)
        logs.write("info", "draining", signal=first.name, at_most_s=at_most_s)
        await gateway.stop(delayed=delayed)
    except asyncio.CancelledError:
        logs.write("warning", "stopped_at_once", signal=told.signals[-1].name if told.signals else None)
    else:
        logs.write("info", "stopped")


def _warn(gateway: Gateway, logs: Logs, open_files: int) -> None:
    settings = gateway.settings
    if open_files < settings.open_files:
        logs.write("warning", "few_open_files", limit=open_files, wanted=settings.open_files)
    for warning in gateway.store.warnings:
        logs.write("warning", "store_at_risk", message=warning)
    if not (settings.all_sealing_keys or settings.upstream_api_key or gateway.store.durability == "memory"):
        logs.write("warning", "credentials_not_sealed", meaning=_UNSEALED)


def _where(gateway: Gateway) -> dict[str, str]:
    settings = gateway.settings
    return {
        "url": gateway.url,
        "base_url": f"{gateway.url}/v1",
        "ops_url": gateway.ops_url,
        "upstream": settings.upstream,
        "store": settings.store.shown,
    }


def _not_listening(settings: Settings, error: OSError) -> str:
    """Which of the two addresses it was is in the error's text only, and not in that of a name without an address."""
    for address, flag in ((settings.ops_listen, "--ops-listen"), (settings.listen, "--listen")):
        if f", {address.port})" in str(error) and error.errno is not None:
            return f"cannot listen on {address}: {os.strerror(error.errno).lower()}; choose another with {flag}"
    return f"cannot listen: {error.strerror or error} (--listen {settings.listen}, --ops-listen {settings.ops_listen})"
