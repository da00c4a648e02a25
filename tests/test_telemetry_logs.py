"""Facts in, log lines out: each line is one JSON object, and one tells a response's whole life."""

import errno
import io
import json
import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from threading import Event
from typing import Any

import pytest
from lives import TRACE, T, a_life, a_response, ended, one_of_each
from msgspec import structs

from gateway.domain import facts
from gateway.domain.mode import Mode
from gateway.domain.response import Ending, Status, Stuck
from gateway.telemetry.logs import Logs, configure

GRACE_S = 60.0
Lines = Callable[[], list[dict[str, Any]]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Stalled(io.StringIO):
    """A stdout that nobody reads, until somebody does."""

    def __init__(self) -> None:
        super().__init__()
        self.read = Event()
        self.told = Event()

    def write(self, text: str) -> int:
        self.read.wait(GRACE_S)
        if "log_lines_lost" in text:
            self.told.set()
        return super().write(text)


def written(told: list[facts.Fact], *, level: Any = "info", stream: io.StringIO | None = None, **options: Any) -> str:
    """What is in the stream after some facts."""
    stream = stream or io.StringIO()
    logs = configure(level, stream=stream, **options)
    for fact in told:
        logs.observe(fact)
    logs.close(GRACE_S)
    return stream.getvalue()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logs(stream: io.StringIO) -> Iterator[Logs]:
    logs = configure("debug", "json", stream, clock=lambda: T)
    yield logs
    logs.close(GRACE_S)


def test_a_life_leaves_its_milestones_and_one_line_that_tells_it_all() -> None:
    found = lines(written(a_life()))
    assert [line["event"] for line in found] == [
        "response_created",
        "first_output",
        "upstream_cut",
        "upstream_reattached",
        "response_resumed",
        "response_ended",
    ]
    assert found[-1] == {
        "timestamp": "2026-09-21T14:13:30.000Z",
        "level": "info",
        "event": "response_ended",
        "request_id": "request-1",
        "response_id": "resp_1",
        "key": "key-1",
        "mode": "background_stream",
        "route": "openai",
        "model": "gpt-5-2026-01-01",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "span_id": "00f067aa0ba902b7",
        "trace_flags": "03",
        "late": False,
        "source": "stream",
        "status": "completed",
        "ending": "terminal",
        "duration_s": 10.0,
        "until_started_s": 2.0,
        "until_first_output_s": 3.0,
        "events": 20,
        "followed": "pumped",
        "synthesised": False,
        "input_tokens": 100,
        "cached_tokens": 40,
        "output_tokens": 50,
        "reasoning_tokens": 30,
        "cache_written_tokens": 0,
        "client_polls": 2,
        "upstream_polls": 1,
        "attaches": 2,
        "resumes": 1,
        "disconnects": 1,
        "reattaches": 1,
        "continuation_tokens_issued": 0,
        "continuation_tokens_redeemed": 0,
        "contradictions": 0,
        "stucks": 0,
        "pickups": 0,
        "joined": 0,
    }


@pytest.mark.parametrize("fact", one_of_each(), ids=lambda fact: type(fact).__name__)
def test_every_line_about_a_response_carries_its_ids_at_the_top_level(fact: facts.Fact) -> None:
    for line in lines(written([fact], level="debug")):
        assert list(line)[:3] == ["timestamp", "level", "event"]
        if isinstance(fact, facts.ResponseFact):
            ids = (line["trace_id"], line["span_id"], line["trace_flags"], line["key"], line["request_id"])
            assert ids == (f"{TRACE.trace_id:032x}", f"{TRACE.span_id:016x}", "03", "key-1", "request-1")


@pytest.mark.parametrize(
    ("fact", "level"),
    [
        (ended(Status.COMPLETED), "info"),
        (ended(Status.CANCELLED), "info"),
        (ended(Status.FAILED), "warning"),
        (ended(Status.QUEUED, Ending.ABANDONED), "warning"),
        (facts.Refused(T, a_response(), 429), "info"),
        (facts.Refused(T, a_response(), 502), "warning"),
        (facts.BecameStuck(T, a_response(stuck=Stuck.QUEUED)), "warning"),
        (facts.Reattached(T, a_response(), 3, "failed", 1.0), "warning"),
        (facts.RequestServed(T, "GET", "/v1/{rest}", 200, None, 0.1, 0.1), "debug"),
        (facts.RequestServed(T, "GET", "/v1/{rest}", 404, "upstream", 0.1, 0.1), "debug"),
        (facts.RequestServed(T, "GET", "/v1/{rest}", 502, "upstream", 0.1, 0.1), "warning"),
        (facts.UpstreamPolled(T, a_response(), "unchanged", 200, 0.1), "debug"),
        (facts.UpstreamPolled(T, a_response(), "error", 401, 0.1), "warning"),
        (facts.StoreFailed(T, "append", "disk full"), "error"),
    ],
)
def test_what_needs_a_look_is_louder(fact: facts.Fact, level: str) -> None:
    (line,) = lines(written([fact], level="debug"))
    assert line["level"] == level


def test_quieter_lines_than_asked_for_are_not_written() -> None:
    assert [line["event"] for line in lines(written(a_life(), level="warning"))] == ["upstream_cut"]
    assert written(a_life(), level="error") == ""


def test_no_words_of_upstreams_and_no_owner_are_in_any_line() -> None:
    told = [structs.replace(fact, response=fact.response.but(error_message="a prompt", owner="an owner"))
            for fact in [*one_of_each(), ended(Status.FAILED)] if isinstance(fact, facts.ResponseFact)]  # fmt: skip
    text = written([*told], level="debug")
    assert len(text.splitlines()) > 10
    assert "a prompt" not in text
    assert "an owner" not in text


def test_a_store_that_fails_all_the_time_is_ten_lines_a_minute() -> None:
    failures: list[facts.Fact] = [facts.StoreFailed(T + second, "append", "disk full") for second in range(121)]
    clock_went_back = facts.StoreFailed(T - 1000, "append", "disk full")
    found = lines(written([*failures, facts.StoreFailed(T, "read", "disk full"), clock_went_back]))
    told = [(line["operation"], line.get("kept_back")) for line in found]
    of_a_minute = [("append", None)] * 9
    assert told == [
        ("append", None), *of_a_minute,
        ("append", 50), *of_a_minute,
        ("append", 50), ("read", None), ("append", None),
    ]  # fmt: skip


def test_other_libraries_write_into_the_same_stream_in_the_same_shape(logs: Logs, stream: io.StringIO) -> None:
    try:
        raise ZeroDivisionError("of theirs")
    except ZeroDivisionError:
        logging.getLogger("aiohttp.server").exception("Error handling %s\nof %s", "a secret", "a client")
    logging.getLogger("aiohttp.server").info("chatter")
    logs.close(GRACE_S)
    logging.getLogger("aiohttp.server").error("after the end")
    (line,) = lines(stream.getvalue())
    assert (line["event"], line["level"], line["logger"]) == ("Error handling %s", "error", "aiohttp.server")
    assert line["exception"].endswith("\nZeroDivisionError")
    assert "in test_other_libraries_write_into_the_same_stream" in line["exception"]


def test_warnings_of_other_libraries_are_hidden_where_only_errors_are_asked_for(stream: io.StringIO) -> None:
    logs = configure("error", "json", stream)
    logging.getLogger("aiohttp.server").warning("something")
    logs.close(GRACE_S)
    assert stream.getvalue() == ""


def test_an_error_that_nobody_foresaw_names_the_request_and_the_response_it_hit(
    logs: Logs, stream: io.StringIO
) -> None:
    logging.getLogger("gateway").error("unexpected error", extra={"request_id": "r", "response": a_response()})
    logs.close(GRACE_S)
    (line,) = lines(stream.getvalue())
    assert (line["request_id"], line["response_id"], line["trace_id"]) == ("r", "resp_1", f"{TRACE.trace_id:032x}")


def test_the_line_of_a_request_tells_what_it_was_and_about_which_response() -> None:
    served = facts.RequestServed(T, "GET", "/v1/responses/{id}", 200, None, 0.1, 2.5, True, 0, 512)
    about = structs.replace(served, request_id="request-2", response=a_response())
    passed, told = lines(written([served, about], level="debug"))
    del passed["timestamp"]
    assert passed == {
        "level": "debug",
        "event": "request",
        "method": "GET",
        "http_route": "/v1/responses/{id}",
        "http_status": 200,
        "streamed": True,
        "received_bytes": 0,
        "sent_bytes": 512,
        "seconds": 0.1,
        "lifetime_s": 2.5,
    }
    assert (told["request_id"], told["response_id"], told["span_id"]) == (
        "request-2",
        "resp_1",
        f"{TRACE.span_id:016x}",
    )


def test_a_collector_that_is_away_is_one_line_a_minute_without_a_traceback(logs: Logs, stream: io.StringIO) -> None:
    for _ in range(5):
        try:
            raise ConnectionError("refused")
        except ConnectionError:
            logging.getLogger("opentelemetry.sdk._shared_internal").exception("Exception while exporting Span.")
            logging.getLogger("urllib3.connectionpool").warning("Retrying")
    logs.close(GRACE_S)
    (line,) = lines(stream.getvalue())
    assert line["event"] == "Exception while exporting Span.: ConnectionError: refused"
    assert "exception" not in line


def test_an_error_is_told_with_its_causes_and_its_number_but_without_its_words(logs: Logs, stream: io.StringIO) -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "secret", "a secret path")
        except OSError as full:
            raise json.JSONDecodeError("secret", "a secret body", 0) from full
    except ValueError as error:
        logs.observer_removed(print, error)
    logs.close(GRACE_S)
    (line,) = lines(stream.getvalue())
    kinds = [told for told in line["exception"].splitlines() if not told.startswith("  ")]
    assert kinds == ["OSError ENOSPC", "json.decoder.JSONDecodeError"]


def test_an_error_that_repeats_itself_is_ten_lines_a_minute(logs: Logs, stream: io.StringIO) -> None:
    for at in range(25):
        logging.getLogger("aiohttp.server").error("the same %s", at)
    logging.getLogger("aiohttp.server").error("from another place")
    logs.close(GRACE_S)
    assert [line["event"] for line in lines(stream.getvalue())] == ["the same %s"] * 10 + ["from another place"]


def test_a_message_that_does_not_fit_its_arguments_is_told_without_them(
    logs: Logs, stream: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    record = logging.LogRecord("aiohttp.server", logging.ERROR, __file__, 1, "two %s %s", ("secret",), None)
    (ours,) = [one for one in logging.getLogger().handlers if type(one).__module__ == Logs.__module__]
    ours.handle(record)
    logs.close(GRACE_S)
    (line,) = lines(stream.getvalue())
    assert (line["event"], line["logger"]) == ("log_record_unwritable", "aiohttp.server")
    assert "secret" not in capfd.readouterr().err


def _storm(of: facts.Fact) -> list[facts.Fact]:
    return [structs.replace(of, at=of.at + second) for second in range(50)]


@pytest.mark.parametrize(
    "fact",
    [
        facts.Refused(T, a_response(), 429),
        facts.Refused(T, a_response(), 502),
        facts.Contradicted(T, a_response(), "backwards", "in_progress -> queued"),
        facts.UpstreamCut(T, a_response(), "eof"),
        facts.Reattached(T, a_response(), 3, "failed", 1.0),
        facts.TakenUp(T, a_response(), "polled"),
        facts.StoreFailed(T, "append", "disk full"),
        facts.Untracked(T, "store"),
        facts.UpstreamPolled(T, a_response(), "error", 401, 0.1),
        facts.RequestServed(T, "GET", "/v1/{rest}", 502, "upstream", 0.1, 0.1),
    ],
    ids=lambda fact: type(fact).__name__,
)
def test_a_storm_is_ten_lines_of_a_kind_a_minute_unless_somebody_debugs(fact: facts.Fact) -> None:
    found = lines(written([*_storm(fact), structs.replace(fact, at=T + 61)]))
    assert [line.get("kept_back") for line in found] == [None] * 10 + [40]
    assert len(lines(written(_storm(fact), level="debug"))) == 50


@pytest.mark.parametrize(
    "fact",
    [
        facts.Created(T, a_response()),
        facts.FirstOutput(T, a_response()),
        facts.BecameStuck(T, a_response(stuck=Stuck.QUEUED)),
        facts.Recovered(T, a_response(), Stuck.QUEUED),
        ended(Status.FAILED),
    ],
    ids=lambda fact: type(fact).__name__,
)
def test_of_milestones_none_is_kept_back(fact: facts.Fact) -> None:
    assert len(lines(written(_storm(fact)))) == 50


def test_lines_about_the_process_have_the_same_shape(logs: Logs, stream: io.StringIO) -> None:
    logs.write("info", "listening", address="127.0.0.1:8080", tls=None)
    logs.observer_removed(print, ValueError("bad"))
    logs.close(GRACE_S)
    first, second = lines(stream.getvalue())
    assert first == {
        "timestamp": "2026-09-21T14:13:20.000Z",
        "level": "info",
        "event": "listening",
        "address": "127.0.0.1:8080",
    }
    assert (second["observer"], second["level"]) == ("print", "error")
    assert second["exception"] == "ValueError"


def test_close_leaves_the_logging_of_the_process_as_it_was() -> None:
    before = list(logging.getLogger().handlers)
    logs = configure("info", "json", io.StringIO())
    assert logging.getLogger().handlers != before
    logs.close(GRACE_S)
    assert logging.getLogger().handlers == before


def test_a_terminal_gets_lines_for_people() -> None:
    text = written(a_life(), stream=Terminal())
    assert "response_ended" in text
    assert "\x1b[2mstatus=\x1b[0mcompleted" in text
    assert not text.startswith("{")
    assert written(a_life(), stream=Terminal(), format="json").startswith("{")


def test_a_line_for_people_tells_the_news_first_and_leaves_out_what_only_machines_look_for() -> None:
    text = written([a_life()[-2]], format="console")
    at = datetime.fromtimestamp(T + 10).strftime("%H:%M:%S")  # noqa: DTZ006  # the reader's own time
    assert text == (
        f"{at}.000 info    response_ended       status=completed ending=terminal duration_s=10 until_started_s=2 "
        "until_first_output_s=3 events=20 input_tokens=100 cached_tokens=40 output_tokens=50 reasoning_tokens=30 "
        "client_polls=2 upstream_polls=1 attaches=2 resumes=1 disconnects=1 reattaches=1 mode=background_stream "
        f"model=gpt-5-2026-01-01 response_id=resp_1 trace_id={TRACE.trace_id:032x}\n"
    )


def test_where_something_is_wrong_people_get_the_ids_to_ask_with() -> None:
    failed = ended(Status.FAILED, upstream_request_id="req_9", error_code="server_error")
    assert "response_id=resp_1 request_id=request-1 upstream_request_id=req_9" in written([failed], format="console")


@pytest.mark.parametrize(
    "name", ["gpt\x1b[2J", "gpt\x9b2J", "gpt\nfake", "gpt\udcff"], ids=["escape", "c1", "line", "surrogate"]
)
def test_control_characters_from_outside_never_reach_a_terminal(name: str) -> None:
    text = written([ended(Status.COMPLETED, model=name)], format="console")
    assert not set(text) & {"\x1b", "\x9b", "\udcff"}
    assert len(text.splitlines()) == 1


def test_nor_do_they_in_the_lines_of_other_libraries(stream: io.StringIO) -> None:
    logs = configure("info", "console", stream)
    logging.getLogger("aiohttp.server").warning("odd request %s", "\x1b[2J\nfake line")
    logs.close(GRACE_S)
    assert "\x1b" not in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 1


def test_a_create_that_is_answered_with_a_finished_response_leaves_one_line() -> None:
    end = ended(Status.COMPLETED, mode=Mode.FOREGROUND)
    told = [facts.Created(T, end.response), facts.FirstOutput(T, end.response), end]
    assert [line["event"] for line in lines(written(told))] == ["response_ended"]


@pytest.mark.parametrize("name", ["\udcff", 'quote" and \\', "line\nbreak", "ü€"])
def test_whatever_a_name_is_the_line_stays_one_json_object(name: str) -> None:
    (line,) = lines(written([ended(Status.COMPLETED, model=name, mode=Mode.STREAM)]))
    assert line["model"] == name


def test_a_stdout_that_nobody_reads_holds_nobody_up_and_tells_what_it_lost() -> None:
    stalled = Stalled()
    logs = configure("debug", "json", stalled)
    request = facts.RequestServed(T, "GET", "/v1/{rest}", 200, None, 0.1, 0.1)
    for _ in range(10_100):
        logs.observe(request)
    stalled.read.set()
    for _ in range(100_000):
        logs.observe(request)
        if stalled.told.is_set():
            break
    logs.close(GRACE_S)
    lost = [line for line in lines(stalled.getvalue()) if line["event"] == "log_lines_lost"]
    assert lost[0]["lines"] >= 98


def test_a_stream_that_was_closed_ends_no_thread() -> None:
    stream = io.StringIO()
    logs = configure("info", "json", stream)
    stream.close()
    for fact in a_life():
        logs.observe(fact)
    logs.close(GRACE_S)
