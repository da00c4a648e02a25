"""The port of the telemetry: `emit(facts)`, and `due(response)`. Telemetry cannot hurt traffic.

Observers are plain callables. One that raises is removed and counted; no call blocks. Called by whoever's write was
new.
"""

from collections.abc import Callable, Iterable

from gateway.domain.facts import Fact
from gateway.domain.response import Response

Observer = Callable[[Fact], None]
Owing = Callable[[Response, bool], bool]
"""`due(response, late)`: whether its end is to be kept until it is told; late: after the end of the tracking."""


class Telemetry:
    """Gives every fact to every observer, in the order of registration.

    `on_removed` is told of an observer that raised and was removed. `due` says which ends are to be kept.
    """

    def __init__(
        self,
        observers: Iterable[Observer] = (),
        on_removed: Callable[[Observer | Owing, Exception], None] | None = None,
        *,
        due: Owing = lambda response, late: False,
    ) -> None:
        self._observers = list(observers)
        self._on_removed = on_removed
        self._due: Owing | None = due

    def emit(self, facts: Iterable[Fact]) -> None:
        """Tell what happened. Never raises."""
        for fact in facts:
            for observer in tuple(self._observers):
                try:
                    observer(fact)
                except Exception as error:  # an observer is never worth a request
                    self._observers.remove(observer)
                    self._removed(observer, error)

    def due(self, response: Response, *, late: bool) -> bool:
        """Whether the end of this response has to be kept until it is told. Never raises."""
        due = self._due
        try:
            return due is not None and due(response, late)
        except Exception as error:  # nor is a span worth an end
            self._due = None
            if due is not None:
                self._removed(due, error)
            return False

    def _removed(self, observer: Observer | Owing, error: Exception) -> None:
        if self._on_removed is not None:
            self._on_removed(observer, error)
