"""`python -m benchmarks [--quick]`: everything, and the tables. Five minutes; with --quick one."""

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from benchmarks import capacity, json_rows, replay_rows, replica_rows, store_rows, stream_rows, telemetry_rows
from benchmarks.processes import Machine
from benchmarks.stage import FULL, QUICK, Stage
from benchmarks.table import PROXIES, Row, Sides, machine, show
from gateway.app import raise_open_files

_Part = Callable[[Stage], Awaitable[list[Row]]]
_PARTS: dict[str, tuple[Sides, _Part]] = {
    "json": (PROXIES, json_rows.rows),
    "streams": (PROXIES, stream_rows.rows),
    "replay": (PROXIES, replay_rows.rows),
    "capacity": (PROXIES, capacity.rows),
    "telemetry": (telemetry_rows.SIDES, telemetry_rows.rows),
    "store": (store_rows.SIDES, store_rows.rows),
    "replicas": (replica_rows.SIDES, replica_rows.rows),
}
_OPEN_FILES = 16384


async def _run(parts: list[str], *, quick: bool) -> str:
    tables: dict[Sides, list[Row]] = {}
    began = time.monotonic()
    processors = Machine()
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        stage = await Stage.set_up(QUICK if quick else FULL, Path(folder))
        try:
            for name in parts:
                print(f"{time.monotonic() - began:5.1f} s  {name} ...", file=sys.stderr, flush=True)
                sides, part = _PARTS[name]
                tables.setdefault(sides, []).extend(await part(stage))
        finally:
            await stage.close()
    return show(tables, f"{machine()}; {time.monotonic() - began:.0f} s, {processors.told()}")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short look: one round, smaller numbers")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"only these of: {', '.join(_PARTS)}")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - _PARTS.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    raise_open_files(_OPEN_FILES)
    gc.freeze()
    print(uvloop.run(_run(arguments.parts or list(_PARTS), quick=arguments.quick)))


if __name__ == "__main__":
    main()
