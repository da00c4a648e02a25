"""A response that this process holds: its newest value, and who waits for it to change."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.domain.headers import Headers
from gateway.domain.response import Body, Response, Status


@dataclass(slots=True, eq=False)
class Live:
    """One response in hand. Only the relay changes it; `ledger` writes it down.

    `response` is the newest value, `saved` the one that the store has; `unsaved` are counts not yet added there.
    `credential` are the newest owner's headers, in memory only; None: the response waits for its owner. `spare` are
    those before: an owner may come back with an old credential that upstream does not take any more.
    `created`: upstream has answered the create. `logged_bytes`: what this process has logged of it. `written_at`: when
    its changes were last written down by the clock (loop time).
    `shown`: the status that a client's poll saw last; `token_open`: a continuation token waits to be redeemed.
    `connected`: a pump reads upstream for it just now. `readers`: clients that wait for its answer or follow its log;
    `alone_since`: when the last one left (loop time). `linger_s`: how long its client wants it to go on then; None: as
    the setting says. `holds`: clients that wait with `Prefer: wait`.
    """

    response: Response
    epoch: int
    credential: Headers | None = None
    spare: Headers | None = None
    body: Body | None = None
    saved: Response = field(init=False)
    unsaved: dict[str, int] = field(default_factory=dict)
    connected: bool = False
    reachable: bool = True
    readers: set[asyncio.Task[Any]] = field(default_factory=set)
    alone_since: float | None = None
    linger_s: float | None = None
    holds: int = 0
    task: asyncio.Task[None] | None = None
    polling: asyncio.Task[Any] | None = None
    polls: int = 0
    due: float = 0.0
    missed_since: float | None = None
    misses: int = 0
    created: bool = False
    logged_bytes: int = 0
    written_at: float = 0.0
    token_open: bool = False
    shown: Status | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.saved = self.response

    @property
    def key(self) -> str:
        """The gateway's own name for the response."""
        return self.response.key

    @property
    def waits_for_owner(self) -> bool:
        """Nothing can be asked of upstream until an owner makes a request."""
        return self.credential is None and not self.response.ended

    def heard(self, credential: Headers) -> None:
        """An owner made a request with this credential."""
        if credential != self.credential:
            self.credential, self.spare = credential, self.credential

    def refused(self, credential: Headers | None) -> None:
        """Upstream refused this credential: the other one is used, without one the response waits for its owner."""
        if credential == self.spare:
            self.spare = None
        if credential == self.credential:
            self.credential, self.spare = self.spare, None

    def count(self, **increments: int) -> None:
        """Count something that happened; written down with the next change."""
        self.response = replace(self.response, counts=self.response.counts.plus(increments))
        for name, by in increments.items():
            self.unsaved[name] = self.unsaved.get(name, 0) + by

    def changed(self) -> None:
        """Wake everybody who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self) -> None:
        """Wait for the next change of status, or of the credential."""
        await self._changed.wait()
