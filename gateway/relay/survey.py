"""What this process holds, counted: one `Surveyed` from one walk over all live responses.

A response that has a completion window ages from the end of that: before it, it is new.

Rule: no clock, no I/O; a response is counted in a few steps, as there may be thousands. Called by the clockwork.
"""

from collections import Counter
from dataclasses import dataclass, field

from gateway.domain.facts import Surveyed
from gateway.domain.mode import Mode
from gateway.domain.response import Response, Status, Stuck


@dataclass(slots=True)
class Survey:
    """The count of a walk under way."""

    live: Counter[tuple[Status | None, Mode]] = field(default_factory=Counter)
    stuck: Counter[tuple[Stuck, str | None]] = field(default_factory=Counter)
    oldest_created: dict[Status | None, float] = field(default_factory=dict)
    oldest_progress: dict[Status | None, float] = field(default_factory=dict)
    outstanding: int = 0
    expires_at: float | None = None

    def add(self, response: Response, expires_at: float | None) -> None:
        """Count a response that has not ended. `expires_at`: when upstream forgets it; None: it does not."""
        status = response.status
        self.live[status, response.mode] += 1
        if response.stuck is not None:
            self.stuck[response.stuck, response.model] += 1
        expected_at = response.expected_at
        if expected_at < self.oldest_created.get(status, expected_at + 1):
            self.oldest_created[status] = expected_at
        moved_at = max(response.moved_at, expected_at)
        if moved_at < self.oldest_progress.get(status, moved_at + 1):
            self.oldest_progress[status] = moved_at
        self.outstanding += response.token_open
        if expires_at is not None:
            self.expires_at = min(self.expires_at or expires_at, expires_at)

    def done(self, at: float, *, followers: int) -> Surveyed:
        """The walk is over."""
        return Surveyed(
            at,
            live=self.live,
            oldest_created={status: min(at, since) for status, since in self.oldest_created.items()},
            oldest_progress={status: min(at, since) for status, since in self.oldest_progress.items()},
            stuck=self.stuck,
            outstanding=self.outstanding,
            followers=followers,
            expires_at=self.expires_at,
        )
