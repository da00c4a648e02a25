"""The gateway as it is measured: as `serve` runs it, with files for its store and its log, and a probe of its loop.

Traces go where the OTEL_* variables say; without any, nowhere.
"""

import asyncio
import sys
from pathlib import Path
from typing import TextIO

import uvloop

from benchmarks.processes import LoopProbe, serve_until_told
from benchmarks.wire import HOST
from gateway.app import Gateway, raise_open_files, settle_memory
from gateway.config import Address, Settings, environment
from gateway.telemetry import names
from gateway.telemetry.logs import configure


async def _main(upstream: str, store: str, poll_every_s: float, poll_budget_per_s: float, log: TextIO) -> None:
    anywhere = Address(HOST, 0)
    settings = Settings(
        upstream=f"{upstream}/v1",
        listen=anywhere,
        ops_listen=anywhere,
        store=store,
        durability="process",
        poll_schedule_s=(poll_every_s,),
        poll_budget_per_s=poll_budget_per_s,
        drain_delay_s=0,
        drain_s=1,
    )
    raise_open_files(settings.open_files)
    logs = configure("info", "json", log)
    gateway = Gateway(settings, environ=environment(), logs=logs)
    await gateway.start()
    settle_memory()
    probe = LoopProbe(asyncio.get_running_loop())

    def report() -> dict[str, float]:
        return {**probe.take(), "spans_dropped": _sum(gateway, names.SPANS_DROPPED)}

    await serve_until_told(int(gateway.url.rpartition(":")[2]), report)
    await gateway.stop()
    logs.close()


def _sum(gateway: Gateway, name: str) -> float:
    families = gateway.metrics.registry.vendors.collect()
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


if __name__ == "__main__":
    with Path(sys.argv[3]).open("a", encoding="utf-8") as log:
        uvloop.run(_main(sys.argv[1], sys.argv[2], float(sys.argv[4]), float(sys.argv[5]), log))
