"""The fold: what may follow what, and that a response ends at most once."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.events import Event
from gateway.domain.facts import Contradicted, Fact, FirstOutput, StatusChanged
from gateway.domain.lifecycle import TRANSITIONS, Move, Step, failed_by_error_event, observe, receive
from gateway.domain.mode import Mode
from gateway.domain.response import TERMINAL, Ending, Response, Status, Trace, Usage
from gateway.domain.snapshot import Snapshot, read_snapshot

T = 1_790_000_000.0
NEW = Response(
    key="k", route="default", owner="o", mode=Mode.BACKGROUND_STREAM, created_at=T, trace=Trace(1, 2, 3, 0, False)
)
QUEUED = NEW.but(status=Status.QUEUED, response_id="resp_1", status_at=T, progress_at=T)


def body(status: str | None = None, **fields: Any) -> bytes:
    return json.dumps({"id": "resp_1", **({"status": status} if status else {}), **fields}).encode()


def snapshot(status: str | None = None, **fields: Any) -> Snapshot:
    found = read_snapshot(body(status, **fields))
    assert found is not None
    return found


def event(number: int, kind: str, **fields: Any) -> Event:
    return Event(number, kind, b"", json.dumps({"type": kind, "sequence_number": number, **fields}).encode())


def life_cycle(number: int, kind: str, status: str | None = None, **fields: Any) -> Event:
    return event(number, kind, response=json.loads(body(status, **fields)))


def kinds(step: Step) -> list[type[Fact]]:
    return [type(fact) for fact in step.facts]


def test_every_pair_of_statuses_has_its_move() -> None:
    assert set(TRANSITIONS) == {(known, said) for known in (None, *Status) for said in Status}
    assert all(
        (TRANSITIONS[known, said] is Move.END) == (known not in TERMINAL)
        for known, said in TRANSITIONS
        if said in TERMINAL
    )


def test_a_stream_leads_from_queued_to_its_end() -> None:
    step = receive(
        NEW,
        [
            life_cycle(0, "response.created", "queued"),
            life_cycle(1, "response.in_progress", "in_progress"),
            event(2, "response.output_text.delta", delta="x"),
            life_cycle(3, "response.completed", "completed", usage={"input_tokens": 3, "output_tokens": 5}),
        ],
        T + 1,
    )
    assert kinds(step) == [StatusChanged, StatusChanged, FirstOutput, StatusChanged]
    assert step.outcome is not None
    assert step.outcome.closes_log
    ended = step.outcome.response
    assert (ended.status, ended.ending, ended.usage) == (Status.COMPLETED, Ending.TERMINAL, Usage(input=3, output=5))
    assert (ended.response_id, ended.started_at, ended.first_output_at, ended.ended_at) == (
        "resp_1",
        T + 1,
        T + 1,
        T + 1,
    )


def test_the_status_within_is_the_truth_and_not_the_name_of_the_event() -> None:
    step = receive(QUEUED, [life_cycle(1, "response.completed", "incomplete")], T)
    assert step.outcome is not None
    assert step.outcome.response.status is Status.INCOMPLETE


def test_where_the_object_names_no_status_the_event_does() -> None:
    assert receive(NEW, [life_cycle(0, "response.in_progress")], T).response.status is Status.IN_PROGRESS


def test_what_comes_behind_the_end_is_not_taken_and_said() -> None:
    end, more = life_cycle(1, "response.completed", "completed"), event(2, "response.output_text.delta", delta="x")
    step = receive(QUEUED, [end, more], T)
    assert step.events == 1
    assert kinds(step)[-1] is Contradicted


def test_a_status_that_moves_backwards_is_recorded_and_not_applied() -> None:
    running = QUEUED.but(status=Status.IN_PROGRESS)
    step = observe(running, snapshot("queued"), T)
    assert kinds(step) == [Contradicted]
    assert step.response.status is Status.IN_PROGRESS


def test_a_terminal_status_is_written_once() -> None:
    cancelled = QUEUED.but(status=Status.CANCELLED, ending=Ending.TERMINAL)
    step = observe(cancelled, snapshot("completed"), T)
    assert kinds(step) == [Contradicted]
    assert step.outcome is None
    assert step.response is cancelled


def test_a_terminal_that_comes_after_tracking_was_given_up_is_an_end_all_the_same() -> None:
    lost = QUEUED.but(ending=Ending.LOST)
    step = observe(lost, snapshot("completed"), T)
    assert step.outcome is not None
    assert step.outcome.response.ending is Ending.TERMINAL


def test_another_id_later_is_recorded_and_the_first_one_stays() -> None:
    step = observe(QUEUED, snapshot("in_progress", id="resp_2"), T)
    assert Contradicted in kinds(step)
    assert step.response.response_id == "resp_1"


def test_a_status_that_no_document_names_is_recorded_and_the_known_one_stays() -> None:
    step = observe(QUEUED, snapshot("thinking"), T)
    assert kinds(step) == [Contradicted]
    assert step.response.status is Status.QUEUED


@pytest.mark.parametrize("status", ["thinking", None])
def test_an_object_that_says_no_known_status_still_names_the_response(status: str | None) -> None:
    step = observe(QUEUED.but(response_id=None), snapshot(status), T)
    assert step.response.response_id == "resp_1"
    assert step.response.status is Status.QUEUED


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"code": "server_error", "message": "Oh."}},
        {"code": "server_error", "message": "Oh."},
    ],
    ids=["nested", "flat"],
)
def test_an_error_event_is_provisional_until_the_stream_ends_with_it(error: dict[str, Any]) -> None:
    step = receive(QUEUED, [event(1, "error", **error)], T)
    assert step.outcome is None
    assert (step.response.error_code, step.response.error_message) == ("server_error", "Oh.")
    outcome = failed_by_error_event(step.response, T)
    assert (outcome.response.status, outcome.closes_log) == (Status.FAILED, True)


def test_a_cancelled_response_has_no_event_so_its_readers_are_told() -> None:
    outcome = observe(QUEUED, snapshot("cancelled"), T).outcome
    assert outcome is not None
    assert (outcome.closes_log, outcome.code) == (False, "response_cancelled")


def test_progress_of_a_polled_response_is_a_changed_output_or_usage() -> None:
    seen = observe(QUEUED, snapshot("in_progress", output=[]), T + 5).response
    assert observe(seen, snapshot("in_progress", output=[]), T + 9).response.progress_at == T + 5
    assert observe(seen, snapshot("in_progress", output=[{"x": 1}]), T + 9).response.progress_at == T + 9


words = st.sampled_from(["queued", "in_progress", "completed", "failed", "incomplete", "cancelled", "thinking", None])
said = st.tuples(st.sampled_from(["stream", "poll"]), words)


@given(st.lists(said, max_size=20))
def test_whatever_upstream_says_a_response_ends_at_most_once_and_keeps_its_end(
    story: list[tuple[str, str | None]],
) -> None:
    response, ends = NEW, []
    for number, (way, status) in enumerate(story):
        if way == "stream" and not response.ended:
            step = receive(response, [life_cycle(number, "response.in_progress", status)], T + number)
        else:
            step = observe(response, snapshot(status), T + number)
        if step.outcome is not None:
            ends.append(step.outcome.response.status)
            response = step.outcome.response
        elif not response.terminal:
            response = step.response
        else:
            assert step.response.status is response.status
    terminal = [Status(status) for _, status in story if status in {*TERMINAL}]
    assert ends == terminal[:1]
