"""When a response is stuck, and why: a pure judgement by the clock, and the facts of its turns.

Theory of operation. Two things are told apart. *Still*: upstream was heard, and what it said of the response has not
changed for longer than the patience with it. *Silent*: upstream was not heard about the response at all, and there is a
cause for that: nobody's credential, no answer, an answer that does not know it. What nobody could hear is not held
against the response, so that a gateway that was down for an hour does not find everything stuck. Nor is what was asked
for: upstream may let a response lie until its completion window is over, and patience begins then.

`turned` makes the facts of two values of a response: whatever changes one, `BecameStuck` and `Recovered` come in pairs.
Called by the ledger and by whoever walks over the live responses.
"""

import math
from dataclasses import dataclass

from gateway.domain.facts import BecameStuck, Fact, Recovered
from gateway.domain.models import ByModel
from gateway.domain.response import Response, Status, Stuck

STANDS_STILL = frozenset({Stuck.QUEUED, Stuck.NO_PROGRESS})
"""Reasons that lie in the response, which upstream can be asked about."""
_MISSES = 2


@dataclass(frozen=True, slots=True)
class Patience:
    """How long, in seconds, a response may stand still (`pumped` or `polled`) or be silent (`silent`).

    `upstream_keeps`: when upstream forgets a background response that is not stored and not asked for.
    """

    pumped: ByModel[float]
    polled: ByModel[float]
    silent: float
    upstream_keeps: float


@dataclass(frozen=True, slots=True)
class Contact:
    """What the gateway has of upstream about a response.

    `heard_at`: when upstream last answered for it or sent an event (unix seconds). `reachable`: the last request for it
    brought an answer that says something of it. `credential`: there is one to ask with. `misses`: 404s in a row.
    """

    heard_at: float
    reachable: bool = True
    credential: bool = True
    misses: int = 0

    @property
    def answered(self) -> bool:
        """Upstream answers for the response, as far as is known."""
        return self.reachable and self.credential and not self.misses


def judge(response: Response, now: float, contact: Contact, patience: Patience) -> Stuck | None:
    """Why a live response is stuck; None: it is not."""
    silent = now - contact.heard_at
    if now >= (forgotten_at(response, contact, patience) or math.inf):
        return Stuck.EXPIRED
    if silent >= patience.silent and not contact.credential:
        return Stuck.WAITS_FOR_OWNER
    if contact.misses >= _MISSES:
        return Stuck.LOST
    if silent >= patience.silent and not contact.reachable:
        return Stuck.UPSTREAM_UNREACHABLE
    if response.stuck not in (None, Stuck.WAITS_FOR_OWNER) and contact.heard_at <= (response.stuck_at or 0.0):
        return response.stuck  # a new process, or a new credential, is no answer yet
    allowed = patience.pumped if response.pumped else patience.polled
    if contact.heard_at - max(response.moved_at, response.expected_at) < allowed(response):
        return None
    return Stuck.QUEUED if response.status in (None, Status.QUEUED) else Stuck.NO_PROGRESS


def forgotten_at(response: Response, contact: Contact, patience: Patience) -> float | None:
    """When upstream forgets the response if it is not asked for (unix seconds); None: it does not."""
    if response.stored or not response.mode.background or response.response_id is None:
        return None
    return contact.heard_at + patience.upstream_keeps


def turned(before: Response, after: Response, at: float) -> tuple[Fact, ...]:
    """What a change of a response means for its being stuck."""
    if before.stuck is after.stuck:
        return ()
    facts: list[Fact] = [] if before.stuck is None else [Recovered(at, after, before.stuck)]
    if after.stuck is not None:
        facts.append(BecameStuck(at, after))
    return tuple(facts)
