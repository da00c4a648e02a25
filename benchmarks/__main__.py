"""`python -m benchmarks [--quick]`: everything, and the table. Two to four minutes; with --quick half a minute."""

import argparse
import gc
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from benchmarks import capacity, json_rows, replay_rows, stream_rows
from benchmarks.processes import Machine
from benchmarks.stage import FULL, QUICK, Stage
from benchmarks.table import Row, machine, show
from gateway.app import raise_open_files

_PARTS = {"json": json_rows.rows, "streams": stream_rows.rows, "replay": replay_rows.rows, "capacity": capacity.rows}
_OPEN_FILES = 16384


async def _run(parts: list[str], *, quick: bool) -> str:
    rows: list[Row] = []
    began = time.monotonic()
    processors = Machine()
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        stage = await Stage.set_up(QUICK if quick else FULL, Path(folder))
        try:
            for name in parts:
                print(f"{time.monotonic() - began:5.1f} s  {name} ...", file=sys.stderr, flush=True)
                rows += await _PARTS[name](stage)
        finally:
            await stage.close()
    return show(rows, f"{machine()}; {time.monotonic() - began:.0f} s, {processors.told()}")


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
