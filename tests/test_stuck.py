"""When a response counts as stuck, and why; and that it becomes so and recovers strictly in turn."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import T, a_response

from gateway.domain.facts import BecameStuck, Ended, Fact, Recovered
from gateway.domain.lifecycle import give_up
from gateway.domain.mode import Mode, Parameters
from gateway.domain.models import ByModel
from gateway.domain.response import Ending, Status, Stuck
from gateway.domain.snapshot import Snapshot, read_snapshot
from gateway.domain.stuck import Contact, Patience, forgotten_at, judge, turned
from gateway.relay.ledger import Ledger
from gateway.relay.live import Live
from gateway.store.memory import MemoryStore
from gateway.telemetry.observers import Telemetry

PATIENCE = Patience(
    pumped=ByModel([("*deep-research*", 50.0)], 10.0),
    polled=ByModel([("*deep-research*", 500.0)], 100.0),
    silent=10.0,
    upstream_keeps=60.0,
)
QUEUED = a_response(status=Status.QUEUED, status_at=T, progress_at=T)


def judged(after_s: float, contact: dict[str, Any], **changes: Any) -> Stuck | None:
    now = T + after_s
    return judge(QUEUED.but(**changes), now, Contact(**{"heard_at": now, **contact}), PATIENCE)


@pytest.mark.parametrize(
    ("after_s", "changes", "reason"),
    [
        (9, {}, None),
        (10, {}, Stuck.QUEUED),
        (10, {"status": Status.IN_PROGRESS}, Stuck.NO_PROGRESS),
        (10, {"status": None, "response_id": None}, Stuck.QUEUED),
        (19, {"status": Status.IN_PROGRESS, "progress_at": T + 10}, None),
        (99, {"pumped": False}, None),
        (100, {"pumped": False}, Stuck.QUEUED),
        (100, {"pumped": False, "progress_at": T + 1}, None),
        (49, {"model": "o4-mini-deep-research-2025-06-26"}, None),
        (50, {"model": "o4-mini-deep-research-2025-06-26"}, Stuck.QUEUED),
        (499, {"pumped": False, "model": None, "model_asked": "o3-deep-research"}, None),
        (500, {"pumped": False, "model": None, "model_asked": "o3-deep-research"}, Stuck.QUEUED),
    ],
)
def test_what_upstream_was_heard_to_leave_standing_is_stuck_when_patience_is_over(
    after_s: float, changes: dict[str, Any], reason: Stuck | None
) -> None:
    assert judged(after_s, {}, **changes) is reason


@pytest.mark.parametrize(("after_s", "reason"), [(7209, None), (7210, Stuck.QUEUED)])
def test_patience_begins_when_the_completion_window_is_over(after_s: float, reason: Stuck | None) -> None:
    assert judged(after_s, {}, parameters=Parameters(completion_window_s=7200.0)) is reason


@pytest.mark.parametrize(
    ("after_s", "contact", "reason"),
    [
        (9, {"credential": False}, None),
        (10, {"credential": False}, Stuck.WAITS_FOR_OWNER),
        (10, {"credential": False, "reachable": False, "misses": 3}, Stuck.WAITS_FOR_OWNER),
        (9, {"reachable": False}, None),
        (10, {"reachable": False}, Stuck.UPSTREAM_UNREACHABLE),
        (500, {}, None),
        (1, {"misses": 1}, None),
        (1, {"misses": 2}, Stuck.LOST),
    ],
)
def test_what_upstream_is_not_heard_about_is_stuck_for_the_cause_of_that(
    after_s: float, contact: dict[str, Any], reason: Stuck | None
) -> None:
    assert judged(after_s, {"heard_at": T, **contact}) is reason


def test_what_nobody_could_hear_is_not_held_against_the_response() -> None:
    assert judged(99, {"heard_at": T + 9}) is None, "as when the gateway was down for all that time"
    assert judged(99, {"heard_at": T + 10}) is Stuck.QUEUED


@pytest.mark.parametrize("contact", [{}, {"credential": False}, {"reachable": False}, {"misses": 3}])
def test_upstream_forgets_what_is_not_stored_when_it_was_not_asked_for_too_long(contact: dict[str, Any]) -> None:
    unheard = {"heard_at": T, **contact}
    assert judged(60, unheard, stored=False) is Stuck.EXPIRED
    assert judged(59, unheard, stored=False) is not Stuck.EXPIRED
    assert judged(60, unheard, stored=True) is not Stuck.EXPIRED
    assert judged(60, unheard, stored=False, mode=Mode.STREAM) is not Stuck.EXPIRED
    unstored = QUEUED.but(stored=False)
    assert forgotten_at(unstored, Contact(T + 5), PATIENCE) == T + 65
    assert forgotten_at(QUEUED, Contact(T + 5), PATIENCE) is None


@pytest.mark.parametrize("reason", [reason for reason in Stuck if reason is not Stuck.WAITS_FOR_OWNER])
def test_what_is_stuck_for_a_reason_of_upstreams_recovers_by_an_answer_and_by_nothing_else(reason: Stuck) -> None:
    fields = {"stuck": reason, "stuck_at": T + 5}
    assert judged(6, {"heard_at": T + 1}, **fields) is reason, "also in a new process, that has not tried yet"
    assert judged(6, {"heard_at": T + 6}, **fields) is None
    assert judged(20, {"heard_at": T + 1, "credential": False}, **fields) is Stuck.WAITS_FOR_OWNER


def test_who_waited_for_its_owner_does_not_any_more_when_the_owner_is_back() -> None:
    waiting = {"stuck": Stuck.WAITS_FOR_OWNER, "stuck_at": T + 10}
    assert judged(50, {"heard_at": T, "credential": False}, **waiting) is Stuck.WAITS_FOR_OWNER
    assert judged(50, {"heard_at": T}, **waiting) is None


def test_a_changed_reason_is_a_recovery_and_then_another() -> None:
    before = QUEUED.but(stuck=Stuck.QUEUED, stuck_at=T)
    after = QUEUED.but(stuck=Stuck.LOST, stuck_at=T + 1)
    assert turned(before, after, T + 1) == (Recovered(T + 1, after, Stuck.QUEUED), BecameStuck(T + 1, after))
    assert turned(before, before.but(tail=7), T + 1) == ()


def test_patterns_are_tried_in_order_and_a_million_names_are_not_remembered() -> None:
    by_model = ByModel([("gpt-5-pro*", 1), ("gpt-5*", 2), ("*[mini]*", 3)], 4)
    found = [by_model(a_response(model=name)) for name in ("gpt-5-pro-x", "gpt-5.2", "o3-m", "zeta", "GPT-5")]
    assert found == [1, 2, 3, 4, 4]
    for number in range(1000):
        by_model(a_response(model=f"model {number}"))
    assert len(by_model._known) <= 256


# Whatever happens to a response, in whatever order, and whoever writes at the same time: pairs.


@dataclass
class World:
    """A response in the hands of a real ledger over a real store, and a clock."""

    now: float = T
    told: list[Fact] = field(default_factory=list)
    ended: bool = False

    async def begin(self) -> None:
        self.store = MemoryStore(lambda: self.now)
        await self.store.open()
        self.ledger = Ledger(
            self.store, Telemetry([self.told.append]), lambda: self.now, lambda live: None, lambda live: None
        )
        recorded = await self.store.create(QUEUED.but(pumped=False, stored=False))
        self.live = Live(recorded, recorded.epoch, credential=[("Authorization", "Bearer sk")])

    def judge(self) -> None:
        if self.live.response.ended:
            return
        reason = judge(self.live.response, self.now, self.live.contact(self.now), PATIENCE)
        if reason is not self.live.response.stuck:
            self.ledger.judge(self.live, reason, self.now)

    async def polled(self, status: str, output: int) -> None:
        await self.ledger.observe(self.live, snapshot(status, output), [], source="poll")

    async def gave_up(self, ending: Ending) -> None:
        if not self.live.response.ended:
            outcome = give_up(self.live.response, ending, self.now, code="c", message="m")
            await self.ledger.end(self.live, outcome, source="expiry")

    async def restart(self) -> None:
        """A graceful one: what is in hand is written down, and taken up as it was written."""
        await self.ledger.note(self.live)
        found = await self.store.get(self.live.key)
        assert found is not None
        self.live = Live(found, found.epoch, body=await self.store.body(found.key), created=True)


def snapshot(status: str, output: int) -> Snapshot:
    found = read_snapshot(b'{"id":"resp_1","status":"%s","output":[%d]}' % (status.encode(), output))
    assert found is not None
    return found


polls = st.tuples(
    st.just("polled"), st.sampled_from(["queued", "in_progress", "completed", "cancelled"]), st.integers(0, 2)
)
steps = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([1.0, 9.0, 10.0, 60.0, 100.0])),
    st.tuples(st.just("contact"), st.sampled_from(["reachable", "connected"]), st.booleans()),
    st.tuples(st.just("credential"), st.booleans()),
    st.tuples(st.just("misses"), st.integers(0, 3)),
    polls,
    st.tuples(st.just("both"), polls, polls),
    st.tuples(st.just("gave_up"), st.sampled_from([Ending.LOST, Ending.ABANDONED, Ending.DELETED])),
    st.tuples(st.just("restart")),
)


async def happens(world: World, step: tuple[Any, ...]) -> None:
    match step:
        case ("wait", seconds):
            world.now += seconds
        case ("contact", name, value):
            setattr(world.live, name, value)
        case ("credential", there):
            world.live.credential = [("Authorization", "Bearer sk")] if there else None
        case ("misses", misses):
            world.live.misses = misses
        case ("polled", status, output):
            await world.polled(status, output)
        case ("both", (_, *one), (_, *other)):
            await asyncio.gather(world.polled(*one), world.polled(*other))
        case ("gave_up", ending):
            await world.gave_up(ending)
        case ("restart",):
            await world.restart()
    world.judge()


@settings(deadline=None)
@given(st.lists(steps, max_size=30))
def test_becoming_stuck_and_recovering_come_strictly_in_turn_over_any_life(story: list[tuple[Any, ...]]) -> None:
    async def live_it() -> World:
        world = World()
        await world.begin()
        for step in story:
            await happens(world, step)
        await world.gave_up(Ending.ABANDONED)
        return world

    world = asyncio.run(live_it())
    open_reason: Stuck | None = None
    became = 0
    for fact in world.told:
        if isinstance(fact, BecameStuck):
            assert open_reason is None
            open_reason, became = fact.response.stuck, became + 1
        elif isinstance(fact, Recovered):
            assert fact.reason is open_reason
            open_reason = None
        elif isinstance(fact, Ended) and not fact.late:
            assert open_reason is None, "what has ended is not stuck any more"
    assert open_reason is None
    assert world.live.response.counts.stucks == became
