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
    settings = config.load(config.flags_of(arguments), config_file=arguments.config)
    logs = configure(settings.log_level, settings.log_format)
    sys.unraisablehook = threading.excepthook = _uncaught
    try:
        uvloop.run(_serve(settings, logs))
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


async def _serve(settings: Settings, logs: Logs) -> None:
    told: list[signal.Signals] = []
    stop = asyncio.Event()
    main, loop = asyncio.current_task(), asyncio.get_running_loop()

    def on_signal(which: signal.Signals) -> None:
        told.append(which)
        stop.set()
        if len(told) > 1 and main is not None:
            main.cancel()

    for which in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(which, on_signal, which)
    if (limit := raise_open_files(settings.open_files)) < settings.open_files:
        logs.write("warning", "few_open_files", limit=limit, wanted=settings.open_files)
    gateway = Gateway(settings, environ=config.environment(), logs=logs)
    try:
        await gateway.start()
        settle_memory()
        for warning in gateway.store.warnings:
            logs.write("warning", "store_at_risk", message=warning)
        if not (settings.all_sealing_keys or settings.upstream_api_key or gateway.store.durability == "memory"):
            logs.write("warning", "credentials_not_sealed", meaning=_UNSEALED)
        logs.write("info", "listening", **_where(gateway))
        await stop.wait()
        # Whoever types Ctrl-C is no load balancer that has to notice first.
        delayed = told[0] is signal.SIGTERM
        at_most_s = settings.drain_s + (settings.drain_delay_s if delayed else 0)
        logs.write("info", "draining", signal=told[0].name, at_most_s=at_most_s)
        await gateway.stop(delayed=delayed)
    except asyncio.CancelledError:
        logs.write("warning", "stopped_at_once", signal=told[-1].name if told else None)
    else:
        logs.write("info", "stopped")


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
