"""First answers that are kept for whoever sends a create again, and refusals that explain a retry: within limits."""

import asyncio
import gc

import pytest
from stories import NOON

import gateway.relay.answers
import gateway.relay.attempts
from gateway.domain.attempt import GIVEN_S, JOIN_S, Attempt
from gateway.domain.errors import UpstreamTimeout
from gateway.relay.answers import Answers
from gateway.relay.attempts import Refusals
from gateway.relay.creation import Head


class Time:
    """Seconds that a test moves by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def answers(time):
    return Answers(time)


def answered(answers, key, size=10):
    """An answer that has come."""
    head = Head(200, "OK", [], b"x" * size)
    answers.expect(key).set_result(head)
    return head


async def kept(answers, *keys):
    """Which of these are there."""
    await asyncio.sleep(0)  # what has come is told in the next turn of the loop
    return [key for key in keys if answers.get(key) is not None]


async def test_an_answer_is_there_from_when_it_is_awaited(answers):
    awaited = answers.expect("a")
    assert answers.get("a") is awaited
    awaited.set_result(head := Head(200, "OK", []))
    assert await kept(answers, "a") == ["a"]
    assert answers.get("a").result() is head
    assert answers.get("b") is None


async def test_an_answer_that_was_given_goes_after_two_seconds(answers, time):
    answered(answers, "a")
    answered(answers, "b")
    await asyncio.sleep(0)
    answers.given("a")
    time.now = GIVEN_S
    answers.given("b")
    assert await kept(answers, "a", "b") == ["a", "b"]
    time.now = GIVEN_S + 1
    assert await kept(answers, "a", "b") == ["b"]


async def test_an_answer_whose_connection_broke_stays(answers, time):
    answered(answers, "a")
    await asyncio.sleep(0)
    answers.given("a")
    answers.lost("a")
    time.now = JOIN_S
    assert await kept(answers, "a") == ["a"]


async def test_after_ten_minutes_nothing_is_kept_but_what_is_awaited(answers, time):
    answered(answers, "a")
    answers.expect("b")
    await asyncio.sleep(0)
    time.now = JOIN_S + 1
    assert await kept(answers, "a", "b") == ["b"]


async def test_all_answers_together_have_a_limit_and_the_oldest_go_first(answers, monkeypatch):
    monkeypatch.setattr(gateway.relay.answers, "KEPT_BYTES", 30_000)
    for key in "abc":
        answered(answers, key, 10_000)
    assert await kept(answers, *"abc") == ["b", "c"]
    answered(answers, "large", 40_000)
    assert await kept(answers, "b", "c", "large") == []
    answered(answers, "d", 10_000)
    answers.drop("d")
    answered(answers, "e", 20_000)
    assert await kept(answers, "d", "e") == ["e"]


async def test_what_the_client_was_answered_takes_the_place_of_what_upstream_answered(answers):
    answered(answers, "a")
    await asyncio.sleep(0)
    shown = Head(200, "OK", [], b"shown")
    answers.keep("a", shown)
    answers.keep("dropped", shown)
    assert answers.get("a").result() is shown
    assert answers.get("dropped") is None


async def test_an_error_that_nobody_asks_for_is_no_alarm(answers):
    alarms = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: alarms.append(context))
    answers.expect("a").set_exception(UpstreamTimeout("late"))
    answers.expect("b").set_exception(UpstreamTimeout("late"))
    answers.drop("b")
    await asyncio.sleep(0)
    answers.drop("a")
    gc.collect()
    assert alarms == []


def attempt(retry=0, name="words", **changes):
    return Attempt(name, name, NOON, retry=retry, **changes)


def test_of_what_was_refused_the_next_try_is_explained_and_no_other(time):
    refusals = Refusals(time)
    refusals.note(attempt(), 429, [])
    assert not refusals.explain(attempt(2))
    assert not refusals.explain(attempt(1, "others"))
    assert refusals.explain(attempt(1))
    assert not refusals.explain(attempt(1))


def test_each_refusal_explains_one_retry(time):
    refusals = Refusals(time)
    for _ in range(3):
        refusals.note(attempt(), 500, [])
    assert [refusals.explain(attempt(1)) for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("status", "headers", "keyed"),
    [(400, [], False), (429, [("x-should-retry", "false")], False), (429, [], True)],
    ids=["no SDK sends that again", "it was told not to", "its key tells what it is"],
)
def test_what_is_not_sent_again_explains_nothing(time, status, headers, keyed):
    refusals = Refusals(time)
    refusals.note(attempt(keyed=keyed), status, headers)
    assert not refusals.explain(attempt(1))


@pytest.mark.parametrize(("after_s", "explained"), [(15, True), (16, False)])
def test_a_refusal_explains_for_as_long_as_sdks_wait(time, after_s, explained):
    refusals = Refusals(time)
    refusals.note(attempt(), 503, [])
    refusals.note(attempt(name="told"), 503, [("Retry-After", "60")])
    time.now = after_s - 0.5
    assert refusals.explain(attempt(1)) is explained
    time.now += 60
    assert refusals.explain(attempt(1, "told")) is explained


def test_refusals_have_a_limit_and_the_oldest_go_first(time, monkeypatch):
    monkeypatch.setattr(gateway.relay.attempts, "_REFUSALS", 2)
    refusals = Refusals(time)
    for name in "abc":
        refusals.note(attempt(name=name), 429, [])
    assert [refusals.explain(attempt(1, name)) for name in "abc"] == [False, True, True]
    for name in "dd":
        refusals.note(attempt(name=name), 429, [])
    assert [refusals.explain(attempt(1, "d")) for _ in "dd"] == [True, True]
