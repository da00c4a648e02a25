"""The port of the telemetry: `emit(facts)`. Telemetry cannot hurt traffic.

Observers are plain callables. One that raises is removed and counted; no call blocks. Called by whoever's write was
new.
"""

from collections.abc import Callable, Iterable

from gateway.domain.facts import Fact

Observer = Callable[[Fact], None]


class Telemetry:
    """Gives every fact to every observer, in the order of registration.

    `on_removed` is told of an observer that raised and was removed.
    """

    def __init__(
        self, observers: Iterable[Observer] = (), on_removed: Callable[[Observer, Exception], None] | None = None
    ) -> None:
        self._observers = list(observers)
        self._on_removed = on_removed

    def emit(self, facts: Iterable[Fact]) -> None:
        """Tell what happened. Never raises."""
        for fact in facts:
            for observer in tuple(self._observers):
                try:
                    observer(fact)
                except Exception as error:  # an observer is never worth a request
                    self._observers.remove(observer)
                    if self._on_removed is not None:
                        self._on_removed(observer, error)
