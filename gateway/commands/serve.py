"""`serve`: the gateway as a process: started, told to stop by a signal, drained."""

import argparse
import asyncio
import os
import signal

import uvloop

from gateway import config
from gateway.app import Gateway, raise_open_files
from gateway.commands.terminal import complain
from gateway.config import Settings
from gateway.store.port import Unusable
from gateway.telemetry.logs import Logs, configure

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


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag per setting."""
    config.add_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal; 0 when that was all. Raises SettingsError."""
    settings = config.load(config.flags_of(arguments), config_file=arguments.config)
    logs = configure(settings.log_level, settings.log_format)
    try:
        uvloop.run(_serve(settings, logs))
    except Unusable as error:
        complain(f"the store cannot be used: {error}")
        return 1
    except OSError as error:
        complain(_not_listening(settings, error))
        return 1
    finally:
        logs.close()
    return 0


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
        logs.write("info", "listening", **_where(gateway))
        await stop.wait()
        logs.write("info", "draining", signal=told[0].name, at_most_s=settings.drain_delay_s + settings.drain_s)
        # Whoever types Ctrl-C is no load balancer that has to notice first.
        await gateway.stop(delayed=told[0] is signal.SIGTERM)
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
        "store": settings.store,
    }


def _not_listening(settings: Settings, error: OSError) -> str:
    """Which of the two addresses it was is in the error's text only."""
    is_ops = str(settings.ops_listen.port) in str(error)
    address, flag = (settings.ops_listen, "--ops-listen") if is_ops else (settings.listen, "--listen")
    reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
    return f"cannot listen on {address}: {reason}; choose another address with {flag}"
