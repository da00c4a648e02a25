"""The log of what the simulator was asked: requests as they came over the wire."""

import base64
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class Seen:
    """One request. `path` is the request target as sent, query included; `headers` in the order and case of the wire.

    `body` is empty for the upload of a file, which is not held in memory.
    """

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of a header, whatever its case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def json(self) -> Any:
        """The body decoded; raises msgspec.DecodeError if it is not JSON."""
        return msgspec.json.decode(self.body)

    def shown(self) -> dict[str, Any]:
        """The request as a JSON object. `body` is its text, `body_base64` its bytes."""
        return {
            "method": self.method,
            "path": self.path,
            "headers": self.headers,
            "body": self.body.decode(errors="replace"),
            "body_base64": base64.b64encode(self.body).decode(),
        }


class SeenLog:
    """The newest requests, oldest first: at most `requests` of them, their bodies together at most `body_bytes`."""

    def __init__(self, requests: int = 10_000, body_bytes: int = 64 * 1024 * 1024) -> None:
        self._seen: deque[Seen] = deque()
        self._requests = requests
        self._body_bytes = body_bytes
        self._held = 0

    def add(self, seen: Seen) -> None:
        """Take one in, letting the oldest go where a limit is passed; the newest always stays."""
        self._seen.append(seen)
        self._held += len(seen.body)
        while len(self._seen) > 1 and (len(self._seen) > self._requests or self._held > self._body_bytes):
            self._held -= len(self._seen.popleft().body)

    def __iter__(self) -> Iterator[Seen]:
        return iter(self._seen)

    def clear(self) -> None:
        """Forget them all."""
        self._seen.clear()
        self._held = 0


def with_path(seen: Iterable[Seen], part: str, method: str | None = None) -> list[Seen]:
    """Those whose path contains `part`, and whose method is `method` if one is given."""
    return [one for one in seen if part in one.path and method in (None, one.method)]
