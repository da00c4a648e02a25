"""A response that this process holds: its newest value, and who waits for it to change."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.domain.attempt import Attempt
from gateway.domain.headers import Headers
from gateway.domain.response import Body, Change, Ending, Response, Status
from gateway.domain.sealed import Seal
from gateway.domain.stuck import Contact
from gateway.relay.credentials import Credentials

# A reader is woken while the next batch is being logged already.
_BATCHES = 4
_ENDS = 10_000


class Ends:
    """How the newest responses that are not in hand any more have ended, by this process's account."""

    def __init__(self) -> None:
        self._ends: OrderedDict[str, tuple[Ending | None, Status | None]] = OrderedDict()

    def note(self, response: Response) -> None:
        """It has ended so."""
        self._ends[response.key] = response.ending, response.status
        if len(self._ends) > _ENDS:
            self._ends.popitem(last=False)

    def known(self, response: Response) -> bool:
        """Whether this end was noted before: then the store has forgotten it."""
        return self._ends.get(response.key) == (response.ending, response.status)


@dataclass(slots=True, eq=False)
class Live:
    """One response in hand. Only the relay changes it; `ledger` writes it down.

    `response` is the newest value, `saved` the one that the store has; `unsaved` are counts not yet added there.
    `unsure` are changes that may have been made, each after the value that it leads to.
    `reached`: the highest position that its log has had; the tail may be below, where a failover forgot events.
    `epoch` is the one at which it is written; None: another process holds it, or none, as it has ended.
    `credential` are the newest owner's headers; None: the response waits for its owner. `spare` are those before: an
    owner may come back with an old credential that upstream does not take any more. They are in memory, and in the
    record only as `credentials` seals them: there every process that hears from an owner puts what is new.
    `created`: upstream has answered the create. `logged_bytes`: what this process has logged of it.
    `arrived_at`: when upstream's last bytes came; `batches`: the last ones that went to the log, each its last position
    and when its bytes came; `written_at`: when its changes were last written down by the clock (all loop time).
    `shown`: the status that a client's poll saw last.
    `connected`: a pump reads upstream for it just now. `heard_at`: when upstream last answered for it (unix seconds);
    `reachable`: it did at the last try; `misses`: 404s in a row, since `missed_since` (loop time). `failures`: how
    many polls in a row have failed.
    `readers`: clients that wait for its answer or follow its log; `alone_since`: when the last one left (loop time);
    `asking`: how many of them made the create. `linger_s`: how long its client wants it to go on then; None: as the
    setting says. `holds`: clients that wait with `Prefer: wait`.
    `attempt`: the newest try of its create; None: there is nothing that another could join.
    """

    response: Response
    epoch: int | None = None
    credential: Headers | None = None
    spare: Headers | None = None
    credentials: Credentials | None = None
    body: Body | None = None
    saved: Response = field(init=False)
    reached: int = field(init=False)
    unsaved: dict[str, int] = field(default_factory=dict)
    unsure: list[tuple[Response, Change]] = field(default_factory=list)
    connected: bool = False
    reachable: bool = True
    heard_at: float = field(init=False)
    readers: set[asyncio.Task[Any]] = field(default_factory=set)
    alone_since: float | None = None
    linger_s: float | None = None
    asking: int = 0
    holds: int = 0
    attempt: Attempt | None = None
    task: asyncio.Task[None] | None = None
    polling: asyncio.Task[Any] | None = None
    failures: int = 0
    due: float = 0.0
    missed_since: float | None = None
    misses: int = 0
    created: bool = False
    logged_bytes: int = 0
    arrived_at: float = 0.0
    batches: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_BATCHES))
    written_at: float = 0.0
    shown: Status | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.saved = self.response
        self.reached = self.response.tail
        self.heard_at = max(self.response.moved_at, self.body.at if self.body is not None else 0.0)

    @property
    def key(self) -> str:
        """The gateway's own name for the response."""
        return self.response.key

    @property
    def in_hand(self) -> bool:
        """This process holds it and it has not ended."""
        return self.epoch is not None and not self.response.ended

    @property
    def waits_for_owner(self) -> bool:
        """Nothing can be asked of upstream until an owner makes a request."""
        return self.credential is None and not self.response.ended

    def alone_for(self, now: float) -> float:
        """For how many seconds nobody has read it, at `now` (loop time); below 0 while somebody does."""
        return -1.0 if self.alone_since is None else now - self.alone_since

    def contact(self, now: float) -> Contact:
        """What there is of upstream at this moment. A stream that is open is heard, also in its silence."""
        heard_at = now if self.connected else self.heard_at
        return Contact(heard_at, self.reachable, self.credential is not None, self.misses)

    def unseal(self) -> None:
        """It is taken up: with the route's credential, or those in its record, which the first key seals anew."""
        self._open()
        if self.credential is not None and self.in_hand:
            self._seal()

    def heard(self, credential: Headers, at: float) -> None:
        """An owner made a request with this credential, at this time (unix seconds)."""
        if not self.in_hand and credential not in (self.credential, self.spare):
            self._open()  # it is news to this process, but perhaps to no other
        if credential != self.credential:
            known = credential == self.spare
            self.credential, self.spare = credential, self.credential
            if not known:
                self._seal(at)
        self.wait()

    def learn(self, seal: Seal | None) -> None:
        """Another process has sealed what an owner came with."""
        known = self.response.seal
        if seal is not None and (known is None or known.at < seal.at):
            self.response, self.saved = self.response.but(seal=seal), self.saved.but(seal=seal)
            self._open()
            self.wait()

    def refused(self, credential: Headers | None) -> None:
        """Upstream refused this credential: the other one is used, without one the response waits for its owner."""
        if credential == self.spare:
            self.spare = None
        if credential == self.credential:
            self.credential, self.spare = self.spare, None
        if self.in_hand:
            self._seal()
        self.wait()

    def _open(self) -> None:
        newest, spare = self.credentials.at_hand(self.response) if self.credentials is not None else (None, None)
        if newest is not None:
            self.credential, self.spare = newest, spare

    def _seal(self, at: float | None = None) -> None:
        if self.credentials is not None and not self.response.ended:
            self.response = self.credentials.seal(self.response, self.credential, self.spare, at=at)

    def wait(self) -> None:
        """Say in the record whether it waits for its owner."""
        if self.response.waiting != self.waits_for_owner:
            self.response = self.response.but(waiting=self.waits_for_owner)

    def count(self, **increments: int) -> None:
        """Count something that happened; written down with the next change."""
        self.response = self.response.but(counts=self.response.counts.plus(increments))
        self.uncounted(increments)

    def take_counts(self) -> dict[str, int]:
        """The counts that are not added in the store yet, for whoever now writes them there."""
        counts, self.unsaved = self.unsaved, {}
        return counts

    def uncounted(self, counts: Mapping[str, int]) -> None:
        """They were not written after all."""
        for name, by in counts.items():
            self.unsaved[name] = self.unsaved.get(name, 0) + by

    def arrived(self, number: int) -> float | None:
        """When the bytes came of the batch that ends with this number (loop time), if it is among the newest."""
        return next((at for last, at in self.batches if last == number), None)

    def open_token(self) -> None:
        """A continuation token was shown to a client."""
        if not self.response.token_open:
            self.response = self.response.but(token_open=True)

    def close_token(self) -> bool:
        """It came back; False: none was open."""
        was_open = self.response.token_open
        if was_open:
            self.response = self.response.but(token_open=False)
        return was_open

    def changed(self) -> None:
        """Wake everybody who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self) -> None:
        """Wait for the next change of status, or of the credential."""
        await self._changed.wait()
