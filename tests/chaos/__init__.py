"""Chaos: gateways that share a Redis are killed, paused and cut off, while clients read; then everything is counted.

Three gateways, each a process of its own, on one real Redis, with a simulator as upstream and a collector, in this
process. Clients are OpenAI's SDK and resume at any gateway. `make chaos` runs it whole and prints the figures, with
the seed that repeats its choices; `tests/test_chaos.py` runs a little of it.

    fleet.py    the gateways: killed, paused, told to stop, started again where they were
    readers.py  the clients: background streams read to the end, wherever that goes
    scene.py    all of it together, and what was counted
    storms.py   what happens to it
    crowds.py   many responses that are polled when a gateway is killed: how often upstream is asked
    verdict.py  what has to be true in the end
"""
