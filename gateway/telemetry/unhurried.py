"""Work in a thread beside the event loop, which has time: in pieces, with pauses in between.

Rule: for threads that nobody waits for. Used by `tracing` and `otlp`.
"""

from collections.abc import Iterable, Iterator
from time import sleep, thread_time
from typing import Final, TypeVar

T = TypeVar("T")
_AT_ONCE_S: Final = 0.0001
_PAUSES: Final = 4.0


def unhurried(items: Iterable[T]) -> Iterator[T]:
    """The items, so that whoever works on them leaves four fifths of the time to others.

    Without pauses requests would wait for the interpreter's lock again and again for as long as a whole batch takes.
    """
    began = thread_time()
    for item in items:
        yield item
        if (spent_s := thread_time() - began) > _AT_ONCE_S:
            sleep(spent_s * _PAUSES)
            began = thread_time()
