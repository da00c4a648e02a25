"""One of several workers, as `workers` starts it: `python -m gateway.commands.worker NUMBER`, stdin the line to there.

First its settings come over the line: what was typed or set is read once, by the supervisor, and no secret stands in a
list of processes.
"""

import pickle
import sys

from gateway import child
from gateway.commands import serve
from gateway.commands.terminal import Failed, complain
from gateway.commands.told import Line
from gateway.config import Settings


def main() -> int:
    """Serve until told to stop; the exit status."""
    line = Line(int(sys.argv[1]), child.own_end())
    settings: Settings = pickle.loads(child.heard_first(line.end))
    try:
        return serve.serve(settings, line)
    except Failed as error:
        complain(f"worker {line.worker}: {error}")
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
