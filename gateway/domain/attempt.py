"""An attempt: a create as its client sends it, so that one that is sent again is known to be the same.

OpenAI's SDKs send a create again when its answer was lost, and count in `x-stainless-retry-count` how often they have;
any client may name its create by an `Idempotency-Key`. Nothing else tells a retry from a second create in the same
words: two equal creates without such a mark are two. Called by the edge, kept by the store.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Literal

from msgspec import Struct

from gateway.domain.digest import digest
from gateway.domain.headers import first

JOIN_S = 600.0
"""How long an attempt can be joined: from when its client left, from its create with an `Idempotency-Key`."""
GIVEN_S = 2.0
"""An answer whose connection breaks so soon after it was written may not have reached its client."""
JoinedBy = Literal["retry", "idempotency_key"]

_RETRY_COUNT = "x-stainless-retry-count"
_IDEMPOTENCY_KEY = "idempotency-key"
_MOST_RETRIES = 999
# What OpenAI's SDKs send a request again for, unless `x-should-retry` says otherwise.
_SENT_AGAIN = frozenset({408, 409, 429, *range(500, 600)})


class Fate(StrEnum):
    """What has become of an attempt's client."""

    WAITING = "waiting"
    """It waits, as far as is known."""
    LEFT = "left"
    """It has gone without its whole answer."""
    ANSWERED = "answered"
    """All of its answer is written: it has it, unless the connection, or this process, is gone within `GIVEN_S`."""


class Attempt(Struct, frozen=True):
    """One try of a create, and in the store the last of a chain of tries that ended up in one response.

    `name` is what it is found by: of an owner's create in the same words, or of an owner's `Idempotency-Key` (`keyed`);
    `fingerprint` stands for the words: method, path, query and body. `retry`: how often it was sent before. `at`: since
    when its `fate` is that (unix seconds).
    """

    name: str
    fingerprint: str
    at: float
    keyed: bool = False
    retry: int = 0
    fate: Fate = Fate.WAITING

    @property
    def repeats(self) -> bool:
        """It may be one that was there before: it joins that, if it is there."""
        return self.keyed or self.retry > 0

    @property
    def by(self) -> JoinedBy:
        """What tells that it is one."""
        return "idempotency_key" if self.keyed else "retry"

    @property
    def open(self) -> bool:
        """One that repeats it may join it."""
        return self.keyed or self.fate is not Fate.ANSWERED

    def now(self, fate: Fate, at: float) -> "Attempt":
        """What has become of it."""
        at = self.at if self.keyed else at
        return Attempt(self.name, self.fingerprint, at, self.keyed, self.retry, fate)


def attempt_of(
    secret: bytes,
    owner: str,
    request: tuple[str, str, str],
    headers: Iterable[tuple[str, str]],
    body: bytes,
    at: float,
) -> Attempt:
    """The attempt that a request is: `request` is its method, path and query. `secret` is the store's."""
    pairs = list(headers)
    words = [part.encode("utf-8", "surrogateescape") for part in (owner, *request)]
    fingerprint = digest(secret, b"words", *words, body)
    retry = _count(first(pairs, _RETRY_COUNT) or "")
    key = first(pairs, _IDEMPOTENCY_KEY)
    if not key:
        return Attempt(fingerprint, fingerprint, at, retry=retry)
    name = digest(secret, b"key", words[0], key.encode("utf-8", "surrogateescape"))
    return Attempt(name, fingerprint, at, keyed=True, retry=retry)


def sent_again(status: int, headers: Iterable[tuple[str, str]]) -> bool:
    """Whether an SDK sends a create again that was answered so. Source: openai-python, `_should_retry`."""
    said = first(headers, "x-should-retry")
    return said == "true" if said in ("true", "false") else status in _SENT_AGAIN


def _count(text: str) -> int:
    return min(int(text), _MOST_RETRIES) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
