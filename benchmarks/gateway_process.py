"""The gateway as it is measured: as `serve` runs it, with an SQLite file, warnings logged and a probe of its loop."""

import asyncio
import gc
import sys

import uvloop

from benchmarks.processes import LoopProbe, serve_until_told
from benchmarks.wire import HOST
from gateway.app import Gateway, raise_open_files
from gateway.config import Address, Settings
from gateway.telemetry.logs import configure


async def _main(upstream: str, store: str, poll_every_s: float, poll_budget_per_s: float) -> None:
    anywhere = Address(HOST, 0)
    settings = Settings(
        upstream=f"{upstream}/v1",
        listen=anywhere,
        ops_listen=anywhere,
        store=f"sqlite:///{store}",
        durability="process",
        poll_schedule_s=(poll_every_s,),
        poll_budget_per_s=poll_budget_per_s,
        drain_delay_s=0,
        drain_s=1,
    )
    raise_open_files(settings.open_files)
    logs = configure("warning", "json", sys.stderr)
    gateway = Gateway(settings, logs=logs)
    await gateway.start()
    gc.collect()
    gc.freeze()
    probe = LoopProbe(asyncio.get_running_loop())
    await serve_until_told(int(gateway.url.rpartition(":")[2]), probe.take)
    await gateway.stop()
    logs.close()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
