"""A simulated Responses API: to try, demonstrate and test the gateway without a key.

`Simulator(seed=..., speed=...).app()` is an aiohttp application; nothing in it is global, and the gateway knows nothing
of it. A response is a pure function of time: no task runs behind it.

    scenarios.py   the table of what a response can do, chosen by metadata or model name
    plan.py        a response as a value: all that its life follows from
    content.py     words, JSON for a schema, file bytes
    items.py       output items and the events by which they arrive
    script.py      the events in time, and the Response object at any time
    seen.py        the log of what the simulator was asked
    world.py       the state: clock, responses, outage, refusals counted
    answers.py     answers and errors in OpenAI's shape, their headers
    streaming.py   writes a script to a connection, and cuts it
    responses.py   the handlers of /responses
    websocket.py   the same over a WebSocket
    elsewhere.py   the handlers of the rest: chat completions, models, files
    control.py     /_simulator: what was asked, forget, outage, skip, cut
    api.py         Simulator: the routes and the order in which a request is judged
"""

from gateway.simulator.api import Simulator
from gateway.simulator.scenarios import SCENARIOS, Scenario
from gateway.simulator.seen import Seen

__all__ = ["SCENARIOS", "Scenario", "Seen", "Simulator"]
