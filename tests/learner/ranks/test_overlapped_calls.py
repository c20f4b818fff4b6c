import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from learner.ranks.overlapped_calls import Abandonable, OverlappedCalls
from wire.errors import DeadlineExceeded


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def fail(_: int) -> None:
    raise ValueError("lost")


def test_calls_are_made_in_their_order(thread: ThreadPoolExecutor):
    made: list[int] = []
    calls = OverlappedCalls(thread, timeout_s=10.0)
    added = [calls.add(f"call {number}", made.append, number) for number in range(5)]
    assert calls.wait_for(added[2])
    assert made[:3] == [0, 1, 2]
    calls.end()
    assert made == [0, 1, 2, 3, 4]


def test_after_a_failed_call_no_further_one_is_made_and_its_error_surfaces(
    thread: ThreadPoolExecutor,
):
    made: list[int] = []
    calls = OverlappedCalls(thread, timeout_s=10.0)
    failed = calls.add("a call", fail, 0)
    last = calls.add("the next", made.append, 1)
    assert not calls.wait_for(failed)
    assert not calls.wait_for(last)
    with pytest.raises(ValueError, match="lost"):
        calls.end()
    assert made == []


def test_a_call_that_overruns_its_deadline_is_named(thread: ThreadPoolExecutor):
    go_on = threading.Event()
    calls = OverlappedCalls(thread, timeout_s=0.05)
    calls.add("engine r1", lambda: go_on.wait(10) and None)
    with pytest.raises(DeadlineExceeded, match="engine r1"):
        calls.end()
    go_on.set()


def test_calls_that_wait_can_be_cancelled(thread: ThreadPoolExecutor):
    go_on, made = threading.Event(), list[int]()
    calls = OverlappedCalls(thread, timeout_s=10.0)
    calls.add("the first", lambda: go_on.wait(10) and None)
    calls.add("the second", made.append, 1)
    calls.cancel_pending()
    go_on.set()
    calls.end()
    assert made == []


def test_a_call_that_never_ends_keeps_nobody_waiting() -> None:
    freed = threading.Event()
    call = Abandonable(freed.wait, 60)
    assert not call.wait(0.05)
    assert not call.succeeded
    assert not call.has_failed
    freed.set()
    assert call.wait(30.0)
    assert call.succeeded
    assert call.result() is True


def test_the_error_of_an_abandonable_call_is_the_owners() -> None:
    def fail() -> None:
        raise ConnectionError("gone")

    call = Abandonable(fail)
    assert call.wait(30.0)
    assert call.has_failed
    with pytest.raises(ConnectionError, match="gone"):
        call.result()
