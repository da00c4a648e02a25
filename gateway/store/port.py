"""The store: an append-only log of events per response, its record, and its newest body. The port and its promises.

Theory of operation. A response has one *record* (`Response`), one *log* (events by ascending position) and at most one
*body* (the response object as upstream last gave it). Writers name what they continue; the store compares and appends.
So a repeated write is harmless, a gap is found out, and who writes needs no lock.

What every store promises (one suite of tests holds them all):

* Of attempts that are one, one is recorded: `create` gives the others its record, however many come at once.
* A log grows only at its tail. `append` names the tail that its batch continues: events at or below the tail are
  skipped by number, a batch that begins beyond it raises `Gap`. Positions ascend; a hole that upstream left is legal.
* A batch is atomic. What `append` returned for is readable by everybody, and survives what `durability` says:
  `memory` (nothing), `process` (kill -9 of this process), `fsync` (loss of power).
* Nothing is readable before its acknowledgement.
* `read` returns at once what is there; it comes back empty only when `wait` is over. No wake-up is lost.
* `finish` is the only end: last events, end mark, record and body in one write. Only its True is an ending, whoever
  races. After it every append raises `Closed`. A record that ended without a terminal status (lost, abandoned) takes
  one terminal `finish` more, which leaves its log as it is.
* An end that is due (`Outcome.due`) is kept as it was at that end until it is settled, whatever becomes of the record;
  no longer than records are.
* Who holds a response writes at its epoch. One that is older raises `Fenced`, and nothing of its writes becomes
  visible. A lease ends with the heartbeat of the process that holds it (`renew`), and is then taken by one (`claim`).
* A store that cannot do it now raises `StoreUnavailable` and has changed nothing.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from msgspec import Struct

from gateway.domain.attempt import Attempt
from gateway.domain.events import Event
from gateway.domain.lifecycle import Outcome
from gateway.domain.response import Body, Change, Response

Durability = Literal["memory", "process", "fsync"]
ATTEMPT_S = 3600.0
"""Attempts are forgotten after this, long after nobody can join them any more."""
PAGE_BYTES = 64 * 1024
"""A page holds at most this, or one event: what a reader is given at a time."""


class Refused(Exception):
    """The store refuses a write; the writer has to think again."""


class Gap(Refused):
    """The batch does not continue the log. `tail` is the log's last position."""

    def __init__(self, tail: int) -> None:
        super().__init__(f"the log ends at {tail}")
        self.tail = tail


class Fenced(Refused):
    """Another holder has taken this response: the writer's epoch is old."""


class Closed(Refused):
    """The log has ended, or the response is not in the store any more."""


class Forgotten(Closed):
    """There is nothing of it, and nothing says that it was deleted: who holds it, if anybody does, writes it anew."""


class Unusable(Exception):
    """The store cannot be opened; the message is one line that says what to do."""


class Lease(Struct, frozen=True):
    """The right to write a response's log, until another process takes it. A new holder gets a new epoch."""

    key: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a process learns with its heartbeat: how many live, itself included, and what others did meanwhile.

    `news` are the keys of responses that this process held and another has ended or taken, or sealed credentials of.
    `unsure`: the way to the store was cut meanwhile; it may have forgotten what it had acknowledged.
    """

    processes: int = 1
    news: Sequence[str] = ()
    unsure: bool = False


class End(Struct, frozen=True):
    """The end of a log. With a `code`, the last event does not end the stream: readers get the nested error."""

    code: str | None = None
    message: str | None = None


class Page(Struct, frozen=True):
    """A piece of a log: the frames after a position, in order, each with its number.

    `end` is set where the last of `frames` (or the position asked from) is the end of an ended log.
    """

    frames: tuple[tuple[int, bytes], ...] = ()
    end: End | None = None

    @property
    def joined(self) -> bytes:
        """All frames as one piece of bytes."""
        if len(self.frames) == 1:
            return self.frames[0][1]
        return b"".join(frame for _, frame in self.frames)


class Due(Struct, frozen=True):
    """An end that telemetry has still to tell: the response as it was then, without its content.

    `number` orders such ends. `late`: the terminal status that came after its tracking had been given up.
    """

    number: int
    response: Response
    late: bool


@dataclass(frozen=True, slots=True)
class Space:
    """Room in bytes: what the store takes, what its disk has left, and has in all. None: it is not on a disk."""

    bytes: int
    free_bytes: int | None = None
    capacity_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """Which records to list: newest first, from `before` (a key; exclusive) on, `limit` at the most."""

    live: bool | None = None
    status: str | None = None
    stuck: bool | None = None
    before: str | None = None
    limit: int = 50

    def matches(self, response: Response) -> bool:
        """Whether it is one of those, wherever in the list."""
        return (
            self.live in (None, not response.ended)
            and self.status in (None, response.status)
            and self.stuck in (None, response.stuck is not None)
        )


class Store(Protocol):
    """One port, several stores: each object is one process's hand on what is kept. `shared`: others may have theirs.

    Every method but `open` may raise `StoreUnavailable`.
    """

    shared: bool
    durability: Durability
    owner_key: bytes
    """The secret under which owners are hashed; it lives as long as the store's content."""

    @property
    def warnings(self) -> Sequence[str]:
        """What is set so that it may cost responses, a line each; known once it is open."""

    async def open(self) -> None:
        """Make it ready. Raises `Unusable`."""

    async def close(self) -> None:
        """Write what is queued, release what is held."""

    async def create(self, response: Response, attempt: Attempt | None = None, *, join: bool = False) -> Response:
        """Record an attempt, before upstream is called. This process holds it, at epoch 1.

        Or what it held before, at its epoch, where the store has forgotten that. Raises `Closed` where it was deleted.

        Its key is drawn for it and no other's. However many record it at once, one does: a record that is live under
        this key comes back as it is. So does, with `join`, that of an attempt which this one repeats, under a key of
        its own: of one whose client has gone before any other. One retry joins it, until that has gone too; an
        `Idempotency-Key` always does. Raises `IdempotencyKeyReused`.
        """

    async def mark(self, key: str, attempt: Attempt) -> None:
        """What has become of an attempt. Nothing changes where a later try has joined it."""

    async def change(self, key: str, change: Change, *, epoch: int | None, body: Body | None = None) -> bool:
        """Apply a change, with a newer body if there is one. False: nothing was changed. Raises `Fenced`.

        Without an epoch, which is whoever does not hold it, fields stay as they are, for the holder to tell; but
        `token_open` and `seal` are everybody's. Whoever writes it, an older seal never takes the place of a newer one.

        A change that is made `once` is not made where its count is above 0 already: of all who try, one gets True.
        One with a `name` that was tried, and may have been made though the store said that it could not, is made once.
        Of a response that has ended only counts and co-owners change: what a slower writer still thinks is not taken.
        The response id, once set, is found by `find` for the record's owner and every co-owner.
        """

    async def append(self, key: str, events: Sequence[Event], *, tail: int, epoch: int) -> int:
        """Append a batch that continues `tail`; how many of it were new. Raises `Gap`, `Fenced`, `Closed`."""

    async def finish(
        self,
        key: str,
        outcome: Outcome,
        events: Sequence[Event] = (),
        *,
        tail: int,
        epoch: int | None,
        body: Body | None = None,
    ) -> bool:
        """End it: events, end mark, record, body and what is due in one write. True for the one write that did.

        Without an epoch by whoever does not hold it: what ends a response is the end, whoever saw it.

        Counts in `outcome.response` are not taken over: the store has them, and adds `outcome.counts`. Raises `Fenced`,
        and `Gap`: also where the event that closes the log is one that the log would skip.
        """

    async def get(self, key: str) -> Response | None:
        """The record by its key."""

    async def find(self, response_id: str, *, route: str, owner: str | None) -> Response | None:
        """The record by upstream's id, for an owner. With None: the one record of this id, if it is only one."""

    async def buried(self, response_id: str, *, route: str) -> bool:
        """Whether a record of this id was here once: its tombstone outlives it."""

    async def body(self, key: str) -> Body | None:
        """The response object as upstream last gave it."""

    async def read(self, key: str, *, after: int, wait: float = 0, limit: int = PAGE_BYTES) -> Page:
        """The next page after a position. Raises `Closed` where there is no such log (any more), or `Forgotten`."""

    async def renew(self, ttl_s: float) -> Pulse:
        """This process lives: nobody takes what it holds for `ttl_s` seconds from now. 0: it holds nothing any more."""

    async def claim(self, key: str) -> Lease | None:
        """Hold a response that nobody holds, or again what this process does. None: another living process does.

        One that is `waiting` for its owner goes to whoever has heard from the owner, whoever holds it.
        """

    async def release(self, key: str, *, epoch: int) -> None:
        """Nobody holds it from now on. Nothing changes where another does by now."""

    def orphans(self, in_hand: Collection[str] | None = None) -> AsyncIterator[Response]:
        """Every record that has not ended and that no living process holds.

        With `in_hand` also those that this process holds by the store's account, and that are not among these. These
        will be found here by the others, should this process die.
        """

    async def turn(self, key: str, every_s: float) -> bool:
        """Whether it is this process's turn to ask upstream about a response: of all processes, one's in `every_s`."""

    def live(self) -> AsyncIterator[Response]:
        """Every record that has not ended."""

    async def list(self, query: Query) -> Sequence[Response]:
        """Records for the operator."""

    async def due(self, *, after: int = -1, limit: int) -> Sequence[Due]:
        """The first ends that are due, by ascending number, beyond `after`; not what another living process tells."""

    async def amend(self, due: Due) -> None:
        """What is due under this number is told so from now on."""

    async def settle(self, numbers: Sequence[int]) -> None:
        """These ends have been told."""

    async def owed(self) -> int:
        """How many ends are due."""

    async def delete(self, key: str) -> None:
        """Remove record, log and body; a tombstone stays."""

    async def purge(self, now: float, *, retention_s: float, resume_window_s: float, tombstone_s: float) -> int:
        """Delete what is past its time; how many records it touched.

        Log, body and content of a response with `stored=False` go `resume_window_s` after its end; every record, with
        whatever it still has, `retention_s` after it, and so does what is still due; tombstones after `tombstone_s`;
        attempts `ATTEMPT_S` after they moved last. One call does a bounded part: one that touched none has nothing left
        to do.
        """

    async def space(self) -> Space:
        """What it takes and what there is left."""

    async def probe(self) -> None:
        """Raises `StoreUnavailable` where nothing can be written just now."""
