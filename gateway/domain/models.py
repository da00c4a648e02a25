"""What is set by model: the value of the first pattern that a model's name matches."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

from gateway.domain.response import Response

V = TypeVar("V")
_REMEMBERED = 256


class ByModel(Generic[V]):
    """Values by pattern (`*` is any text, case counts), tried in order; `default` where none matches."""

    def __init__(self, pairs: Iterable[tuple[str, V]], default: V) -> None:
        self._pairs = tuple(pairs)
        self._default = default
        self._known: dict[str, V] = {}

    def __call__(self, response: Response) -> V:
        """The value for a response: by the model that upstream named, else by the one that was asked for."""
        model = response.model or response.model_asked
        if model is None or not self._pairs:
            return self._default
        if model not in self._known:
            if len(self._known) >= _REMEMBERED:  # what is asked for is anybody's text
                self._known.clear()
            self._known[model] = next((value for one, value in self._pairs if fnmatchcase(model, one)), self._default)
        return self._known[model]
