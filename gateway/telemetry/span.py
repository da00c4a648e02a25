"""A finished span as a plain value: what the projections of facts and records give, and what is built and sent."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from msgspec import Struct, field

from gateway.domain.response import Caller, Trace

Place = Literal["create", "generation", "child", "caller"]
"""The create's server span and the generation have ids of their own in the record; a child hangs under the latter, and
what a client's own span asked for stands in the client's trace."""
Kind = Literal["server", "client", "internal"]
Value = str | bool | int | float | tuple[str, ...] | None


class Span(Struct, frozen=True):
    """A finished span: `start` and `end` in unix seconds, `error` its `error.type`. None: no such attribute.

    Attributes stand in the order of what may go last: a limit takes them from the end. `url.full` begins with the path,
    upstream's origin is put before it. `links` are spans elsewhere, `caller` is the client's of a span placed there.
    `once`: a response has one child of this name, which gets the same id whoever sends it.
    """

    name: str
    place: Place
    kind: Kind
    start: float
    end: float
    attributes: Mapping[str, Value] = field(default_factory=dict)
    error: str | None = None
    links: tuple[Caller, ...] = ()
    caller: Caller | None = None
    once: bool = False


class Finished(NamedTuple):
    """A finished span of a response. `promoted`: why it is exported though the response is not sampled."""

    trace: Trace
    span: Span
    promoted: str | None = None
