"""How far a client's word about tracing is trusted: its `traceparent`, and the sampled flag within.

Source: W3C Trace Context. Used by `tracing.py` and the edge.
"""

from collections.abc import Callable
from typing import Literal

from opentelemetry.context import Context
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.domain.response import Caller

Trust = Literal["parent", "link", "ignore"]
"""What a client's `traceparent` becomes: the parent of our spans, a link from them, nothing."""


def read_caller(traceparent: str | None, tracestate: str | None) -> Caller | None:
    """The client's span by its headers; what cannot be read counts as absent."""
    if not traceparent:
        return None
    headers = {"traceparent": traceparent} | ({"tracestate": tracestate} if tracestate else {})
    found = get_current_span(TraceContextTextMapPropagator().extract(headers, Context())).get_span_context()
    if not found.is_valid:
        return None
    return Caller(found.trace_id, found.span_id, int(found.trace_flags), found.trace_state.to_header())


class Budget:
    """A token bucket: `per_s` a second on average, a second's worth at once. `clock` gives seconds, of any origin."""

    def __init__(self, per_s: float, clock: Callable[[], float]) -> None:
        self._per_s, self._clock = per_s, clock
        self._left = self._most = max(per_s, 1.0)
        self._at = clock()

    def take(self) -> bool:
        """Whether there was one left."""
        now = self._clock()
        self._left = min(self._left + max(now - self._at, 0.0) * self._per_s, self._most)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
