"""A simulated response as a value: all that its life follows from. Pure."""

from dataclasses import dataclass
from typing import Any

from gateway.simulator.scenarios import Scenario


@dataclass(frozen=True, slots=True)
class Plan:
    """What was fixed when a response was created. Everything it ever says is a function of this and of its age.

    Its age is in simulated seconds since `created` (unix time, real seconds); `speed` is how many pass in a real one.
    `seed` alone decides its text.
    """

    id: str
    created: float
    scenario: Scenario
    request: dict[str, Any]
    seed: str
    speed: float = 1.0

    @property
    def background(self) -> bool:
        """Created with `background: true`."""
        return self.request.get("background") is True

    @property
    def streamed(self) -> bool:
        """Created with `stream: true`."""
        return self.request.get("stream") is True

    @property
    def stored(self) -> bool:
        """Created without `store: false`."""
        return self.request.get("store") is not False

    @property
    def multi_agent(self) -> bool:
        """Created with `multi_agent`, in the beta of that: events and items name their agent."""
        return self.request.get("multi_agent") is not None

    @property
    def end_s(self) -> float:
        """The age at which it ends; infinite for one that never does."""
        return self.scenario.queue_s + self.scenario.duration_s + self.scenario.silence_s

    def status_at(self, age_s: float, cancelled_s: float | None = None) -> str:
        """Its status at an age, if it was cancelled at the age `cancelled_s`."""
        ended = age_s >= self.end_s
        if cancelled_s is not None and (self.scenario.cancel_sticks or not ended):
            return "cancelled"
        if ended:
            return self.scenario.status
        return "queued" if self.background and age_s < self.scenario.queue_s else "in_progress"
