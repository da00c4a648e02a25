"""What a client asks of the gateway by the header `Prefer` (RFC 7240): what changes an answer, and is off unless asked.

A setting can ask for it on behalf of all who say nothing; whoever says something is heard.

    wait=N      seconds that an answer may be held: a poll until the status changes, a create in the background that is
                not streamed until the response is terminal
    linger=N    seconds that a foreground response goes on upstream after its last client left
    done        a stream ends with `data: [DONE]`; `done=no`: it does not

Rule: each is bounded by a setting where it costs something, and what is granted is said in `Preference-Applied`.
Upstream does not see the header.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

APPLIED = "Preference-Applied"
DONE = "done"
_SECONDS = ("wait", "linger")
_DONE: dict[str | None, bool] = {"": True, "no": False}
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Preferences:
    """What was asked for; None is "nothing said"."""

    wait_s: float | None = None
    linger_s: float | None = None
    done: bool | None = None


_NOTHING = Preferences()


def read(request: web.Request) -> Preferences:
    """The preferences of a request."""
    values = request.headers.getall("Prefer", ())
    return parse(values) if values else _NOTHING


def parse(values: Sequence[str]) -> Preferences:
    """Read the header's values. Of what is named twice the first counts, what cannot be read is not there."""
    said: dict[str, str] = {}
    for part in ",".join(values).replace(";", ",").split(","):
        name, _, value = part.partition("=")
        said.setdefault(name.strip().lower(), value.strip().strip('"'))
    seconds = {name: float(said[name]) for name in _SECONDS if _NUMBER.fullmatch(said.get(name, ""))}
    return Preferences(seconds.get("wait"), seconds.get("linger"), _DONE.get(said.get(DONE)))


def granted(name: str, seconds: float) -> tuple[str, str]:
    """The header that tells how much of a preference is granted."""
    return APPLIED, f"{name}={seconds:g}"
