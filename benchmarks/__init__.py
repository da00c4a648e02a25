"""How fast the gateway is, told as ratios to a bare aiohttp pass-through proxy measured in the same minute.

`python -m benchmarks` (`make bench`) starts a scratch upstream, the bare proxy and the gateway, each in a process of
its own on free ports of the loopback interface; this process is the load generator. Nothing leaves the machine, the
store is an SQLite file in a temporary directory.

    __main__.py        the run: which rows, how long, the table
    json_rows.py       requests per second: pass-through, create, poll
    stream_rows.py     events per second, and the time that is added to each
    replay_rows.py     a long response read again, warm and after a restart
    telemetry_rows.py  a gateway that exports traces beside one that does not
    store_rows.py      the stores by themselves, a file beside a Redis
    replica_rows.py    several gateways on one Redis, and one of them killed
    capacity.py        2,000 live responses and 1,000 followers at once: memory, poll schedule, event-loop lag
    stage.py           who takes part, how much is measured, and in turns
    table.py           rows, and when a row is void
    wire.py            an HTTP client that costs next to nothing
    upstream.py        the scratch upstream: canned JSON, canned events at a set pace
    bare.py            the bare proxy
    sink.py            a collector that counts
    gateway_process.py the gateway as it is measured
    redis_process.py   a Redis
    processes.py       starting and asking them, and what /proc says of them

Two ratios are shown. That of rates depends on what else the machine does. That of processor time per request or event
does not, much: it is the one to believe on a machine that is shared.
"""

import sys
from pathlib import Path

# What kills gateways under their clients is there, and counts besides what was lost.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
