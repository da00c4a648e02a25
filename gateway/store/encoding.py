"""How a record becomes bytes in a store, and what is said of bytes that are damaged.

Everything that the SQLite file keeps as a blob has a CRC-32 beside it, for SQLite finds no flipped bit: wrong bytes are
never given out, the response whose they are is named instead. Called by the stores.
"""

from itertools import chain

import msgspec

from gateway.domain.encoding import encode
from gateway.domain.errors import StoreUnavailable
from gateway.store.rules import Entry, aliases


def encode_entry(entry: Entry) -> bytes:
    """As JSON, which an operator can read. Raises UnicodeEncodeError if a name that is searched for is no UTF-8."""
    try:
        return msgspec.json.encode(entry)
    except UnicodeEncodeError:
        for name in chain((entry.response.key,), *aliases(entry)):
            name.encode()
        return encode(entry)


def damaged(what: str, whose: str) -> StoreUnavailable:
    """The error for a blob whose checksum does not match."""
    return StoreUnavailable(f"The stored {what} of {whose} is damaged: its checksum does not match.")
