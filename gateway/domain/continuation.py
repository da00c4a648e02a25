"""Where a reader goes on: continuation tokens and cursors.

A token is `resp_…~N`: an id and a position, readable, without authority. A cursor is never guessed from what was
written to a socket: bytes flushed are not bytes read.
"""

import re
from enum import StrEnum

from msgspec import Struct

from gateway.domain.errors import InvalidCursor

_TOKEN = re.compile(r"(?P<id>.+)~(?P<after>[0-9]{1,18})")
_NUMBER = re.compile(r"[0-9]{1,18}")
EVENT_SOURCE = "text/event-stream"


class Token(Struct, frozen=True):
    """`after` is None for a bare id."""

    response_id: str
    after: int | None


def parse_token(text: str) -> Token:
    """Read `resp_…~N`; any other text is a bare id."""
    if found := _TOKEN.fullmatch(text):
        return Token(found["id"], int(found["after"]))
    return Token(text, None)


def format_token(response_id: str, after: int | None) -> str:
    """Write a token; the bare id where there is no position."""
    return response_id if after is None else f"{response_id}~{after}"


class CursorForm(StrEnum):
    """How a reader named its position; also a metric label."""

    NONE = "none"
    STARTING_AFTER = "starting_after"
    LAST_EVENT_ID = "last_event_id"
    SUFFIX = "suffix"


class Cursor(Struct, frozen=True):
    """The position of a reader: it gets what comes after `after` (-1: everything).

    `preamble`: structural events up to `after` come first, so that an accumulating client stays whole.
    `event_source`: the reader is a browser's EventSource and wants `id:` lines.
    """

    after: int
    form: CursorForm
    preamble: bool
    event_source: bool


def read_cursor(*, starting_after: str | None, last_event_id: str | None, suffix: int | None, accept: str) -> Cursor:
    """Choose the cursor of a stream request.

    Precedence: an EventSource (Accept is exactly `text/event-stream`) goes by `Last-Event-ID`; else `starting_after`,
    then `Last-Event-ID`, then the suffix `~N` of the id. 0 is a cursor, absent is not.
    Raises `InvalidCursor` where the chosen one is not a whole number of at least 0.
    """
    event_source = accept.strip() == EVENT_SOURCE
    candidates = [
        (CursorForm.STARTING_AFTER, starting_after, False),
        (CursorForm.LAST_EVENT_ID, last_event_id or None, not event_source),
        (CursorForm.SUFFIX, None if suffix is None else str(suffix), True),
    ]
    if event_source:
        candidates[0], candidates[1] = candidates[1], candidates[0]
    for form, text, preamble in candidates:
        if text is None:
            continue
        if not _NUMBER.fullmatch(text):
            raise InvalidCursor(
                f"{form.value} must be the sequence_number of the last event that you have, "
                f"a whole number of at least 0; leave it out to read from the start.",
                param=form.value,
            )
        return Cursor(int(text), form, preamble, event_source)
    return Cursor(-1, CursorForm.NONE, False, event_source)
