"""`simulate`: a simulated Responses API as a process."""

import argparse
import asyncio
import os
import signal

import uvloop
from aiohttp import web

from gateway.commands.terminal import Failed, say
from gateway.config import Address
from gateway.simulator import SCENARIOS, Simulator

EXAMPLES = f"""\
examples:
  responses-gateway simulate
  responses-gateway serve --upstream http://127.0.0.1:8081/v1 --store memory://
      in a second terminal: a gateway in front of it; any API key will do
  responses-gateway simulate --speed 20 --scenario drops
      twenty times as fast, and every stream breaks off

A request chooses what happens to it with metadata {{"scenario": "NAME"}} or by a model name. Scenarios:
  {", ".join(SCENARIOS)}
What each does: GET /_simulator/scenarios. What it was asked: GET /_simulator/requests.
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The simulator's own flags."""
    parser.add_argument(
        "--listen",
        type=_address,
        default=Address("127.0.0.1", 8081),
        metavar="HOST:PORT",
        help="address to listen on; port 0 is any free one (default: %(default)s)",
    )
    parser.add_argument(
        "--speed", type=_speed, default=1.0, metavar="N", help="simulated seconds per second (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="decides all text and ids (default: 0)")
    parser.add_argument(
        "--api-key", action="append", metavar="KEY", help="accept only this key; may be repeated (default: any)"
    )
    parser.add_argument(
        "--scenario",
        choices=sorted(SCENARIOS),
        default="normal",
        metavar="NAME",
        help="what happens to a request that names no scenario (default: normal)",
    )
    parser.add_argument("--gzip", action="store_true", help="compress JSON answers for clients that accept it")


def run(arguments: argparse.Namespace) -> int:
    """Simulate until a signal."""
    try:
        uvloop.run(_simulate(arguments))
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
        where = arguments.listen
        raise Failed(f"cannot listen on {where}: {reason}; choose another address with --listen") from None
    return 0


async def _simulate(arguments: argparse.Namespace) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for which in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(which, stop.set)
    simulator = Simulator(
        seed=arguments.seed,
        speed=arguments.speed,
        api_key=arguments.api_key,
        gzip=arguments.gzip,
        scenario=arguments.scenario,
    )
    runner = web.AppRunner(simulator.app(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, arguments.listen.host or None, arguments.listen.port)
        await site.start()
        port = runner.addresses[0][1]
        url = f"http://{Address(arguments.listen.host or '127.0.0.1', port)}/v1"
        say(f"Simulated Responses API at {url}")
        say(f"In front of it:  responses-gateway serve --upstream {url}")
        await stop.wait()
    finally:
        await runner.cleanup()


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _speed(text: str) -> float:
    speed = float(text)
    if not 0 < speed < 1e6:
        raise argparse.ArgumentTypeError("expected a number above 0")
    return speed
