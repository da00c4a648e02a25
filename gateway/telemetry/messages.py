"""What the gateway and its exporter's process say to each other, as JSON: first `Options`, then these.

Used by `exporter_process` and `exporter`.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from gateway.telemetry.export import Options
from gateway.telemetry.generation import End
from gateway.telemetry.span import Finished


class Put(Struct, tag=True):
    """Spans to be queued."""

    finished: Sequence[Finished]


class Send(Struct, tag=True):
    """Ends to be sent, and answered for."""

    number: int
    ends: Sequence[End]
    again: bool


class Flush(Struct, tag=True):
    """What is queued goes out, and is answered for."""

    timeout_s: float


class Exported(Struct, tag=True):
    """Of what was put, so many spans were taken."""

    spans: int


class Dropped(Struct, tag=True):
    """Of what was put, so many spans were dropped."""

    reason: str
    spans: int


class Sent(Struct, tag=True):
    """Of what was to be sent, so many spans were taken."""

    spans: int


class Answered(Struct, tag=True):
    """Whether the ends of this number were taken."""

    number: int
    taken: bool


class Flushed(Struct, tag=True):
    """Nothing is queued any more."""


class Logged(Struct, tag=True):
    """Something was logged, at one of the levels of `logging`."""

    logger: str
    level: int
    message: str


What = Exported | Dropped | Sent | Answered | Flushed | Logged


class Said(Struct):
    """All that the exporter says. `failing`: the collector did not take the last batch."""

    failing: bool
    what: What


OPTIONS = msgspec.json.Decoder(Options)
TOLD = msgspec.json.Decoder(Put | Send | Flush)
SAID = msgspec.json.Decoder(Said)
