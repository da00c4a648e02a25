"""What makes two creates one: the words, whose they are, and a mark of the client's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.attempt import Attempt, Fate, attempt_of, sent_again

T = 1_790_000_000.0
POST = ("POST", "/v1/responses", "")


def made(owner: str = "alice", request: tuple[str, str, str] = POST, body: bytes = b"{}", **headers: str) -> Attempt:
    """The attempt of a request with these headers (written with underscores)."""
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return attempt_of(b"secret", owner, request, pairs, body, T)


@pytest.mark.parametrize(
    "other",
    [
        made("bob"),
        made(request=("PUT", "/v1/responses", "")),
        made(request=("POST", "/openai/responses", "")),
        made(request=("POST", "/v1/responses", "beta=true")),
        made(body=b"{} "),
        attempt_of(b"another secret", "alice", POST, [], b"{}", T),
    ],
    ids=["owner", "method", "path", "query", "one byte of the body", "store"],
)
def test_any_difference_makes_another_attempt(other: Attempt) -> None:
    assert other.name != made().name
    assert other.fingerprint != made().fingerprint


def test_how_often_it_was_sent_and_by_what_makes_none() -> None:
    again = made(X_Stainless_Retry_Count="1", User_Agent="another", x_stainless_read_timeout="5")
    assert (again.name, again.fingerprint) == (made().name, made().fingerprint)


@pytest.mark.parametrize(
    ("written", "retry"),
    [("0", 0), ("1", 1), ("12", 12), ("", 0), ("-1", 0), ("1.5", 0), ("one", 0), ("\u0661", 0), ("9" * 5000, 0)],
    ids=["0", "1", "12", "empty", "negative", "fraction", "word", "another script", "endless"],
)
def test_the_retry_count_is_read_as_sdks_write_it_and_nothing_else(written: str, retry: int) -> None:
    attempt = made(x_stainless_retry_count=written)
    assert (attempt.retry, attempt.repeats) == (retry, retry > 0)


def test_a_key_names_an_attempt_whatever_its_words_and_its_owners_alone() -> None:
    first = made(Idempotency_Key="k", body=b"1")
    assert (first.keyed, first.repeats, first.by) == (True, True, "idempotency_key")
    assert made(idempotency_key="k", body=b"2").name == first.name
    assert made(idempotency_key="k", body=b"2").fingerprint != first.fingerprint
    assert made("bob", idempotency_key="k", body=b"1").name != first.name
    assert made(idempotency_key="l", body=b"1").name != first.name
    assert made(body=b"1").name != first.name
    assert not made(idempotency_key="").keyed


def test_what_an_attempt_is_called_tells_nothing_of_it() -> None:
    attempt = made(body=b"my secret", idempotency_key="my key")
    assert "my" not in f"{attempt.name}{attempt.fingerprint}"
    assert len(attempt.name) == len(attempt.fingerprint) == 40


@given(st.lists(st.binary(max_size=3), min_size=4, max_size=4), st.lists(st.binary(max_size=3), min_size=4, max_size=4))
def test_no_part_can_pass_for_another(these: list[bytes], those: list[bytes]) -> None:
    first, second = (
        attempt_of(b"", "o", tuple(part.decode("latin-1") for part in parts[:3]), [], parts[3], T)  # type: ignore[arg-type]
        for parts in (these, those)
    )
    assert (first == second) == (these == those)


def test_a_fate_has_its_time_and_a_key_that_of_its_create() -> None:
    assert made().now(Fate.LEFT, T + 5).at == T + 5
    assert made(idempotency_key="k").now(Fate.LEFT, T + 5).at == T
    assert not made().now(Fate.ANSWERED, T).open
    assert made(idempotency_key="k").now(Fate.ANSWERED, T).open


@pytest.mark.parametrize(
    ("status", "said", "again"),
    [
        *[(status, None, True) for status in (408, 409, 429, 500, 501, 502, 503, 504, 529)],
        *[(status, None, False) for status in (200, 202, 400, 401, 404, 422)],
        (500, "false", False),
        (404, "true", True),
        (404, "perhaps", False),
    ],
)
def test_what_sdks_send_again_is_what_they_say(status: int, said: str | None, again: bool) -> None:
    assert sent_again(status, [("X-Should-Retry", said)] if said else []) is again
