"""Work beside the event loop: in pieces, with pauses, and all of it."""

import time

from gateway.telemetry.unhurried import unhurried


def test_all_of_it_is_done_in_order_and_most_of_the_time_is_left_to_others() -> None:
    began, worked = time.perf_counter(), time.thread_time()
    done = []
    for number in unhurried(range(200)):
        until = time.thread_time() + 0.0001
        while time.thread_time() < until:
            pass
        done.append(number)
    assert done == list(range(200))
    assert time.perf_counter() - began > 3 * (time.thread_time() - worked)
