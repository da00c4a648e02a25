"""A thread that does jobs for an event loop: in order, each answer to whoever asked for it."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from gateway.store.job_thread import JobThread


@pytest.fixture
async def thread() -> Iterator[JobThread]:
    thread = JobThread("jobs")
    yield thread
    thread.end()


async def test_jobs_are_done_in_the_order_of_asking_in_one_thread(thread):
    done: list[tuple[int, int]] = []
    answers = await asyncio.gather(
        *(thread.do(lambda n: done.append((n, threading.get_ident())) or n, n) for n in range(100))
    )
    assert answers == list(range(100))
    assert [n for n, _ in done] == answers
    assert {ident for _, ident in done} - {threading.get_ident()}
    assert len({ident for _, ident in done}) == 1


async def test_what_a_job_raises_reaches_who_asked_and_nobody_else(thread):
    failed, fine = thread.do(int, "no number"), thread.do(int, "7")
    with pytest.raises(ValueError, match="no number"):
        await failed
    assert await fine == 7


async def test_whoever_has_gone_holds_nobody_up(thread):
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
    go_on = threading.Event()
    waiting, left = thread.do(go_on.wait, 60), thread.do(int, "1")
    left.cancel()
    go_on.set()
    assert await waiting
    assert await thread.do(int, "2") == 2
    assert not errors


async def test_the_end_comes_after_what_was_asked_for():
    thread = JobThread("jobs")
    first, which = thread.do(int, "1"), thread.do(threading.current_thread)
    thread.end()
    assert await first == 1
    ended = await which
    await asyncio.to_thread(ended.join, 60)
    assert not ended.is_alive()
