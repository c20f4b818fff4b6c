import asyncio
import time

import pytest
from ray.exceptions import OutOfMemoryError

from cluster.actors.deadlines import (
    Withdrawn,
    answer_unless,
    gather_or_raise,
    responds,
    with_deadline,
)
from wire.errors import DeadlineExceeded, WorkerDied


async def after(seconds: float, outcome: object) -> object:
    await asyncio.sleep(seconds)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


async def test_a_wait_that_takes_too_long_names_whom_it_waited_for():
    with pytest.raises(DeadlineExceeded, match="waited 0 s for rank 1 to save"):
        await with_deadline(after(5, None), 0.01, "rank 1 to save")


async def test_a_process_that_ray_ends_for_want_of_memory_is_a_worker_that_died_with_the_remedy():
    full = OutOfMemoryError("Memory on the node was 21GB used / 23GB limit; Top 10 memory users: a")
    with pytest.raises(WorkerDied, match=r"rank 0.*nearly full.*21GB used.*max_tokens_per_batch"):
        await with_deadline(after(0, full), 5, "rank 0")
    assert not await responds(after(0, full))


async def test_the_results_come_in_order():
    assert await gather_or_raise([after(0.02, "a"), after(0, "b")]) == ["a", "b"]


@pytest.mark.parametrize("died_after_s", [0.0, 0.1])
async def test_a_death_is_told_before_the_lost_connection_that_it_caused(died_after_s: float):
    waits = [
        after(0.05, RuntimeError("connection closed by peer")),
        after(died_after_s, WorkerDied("waited for learner rank 1")),
    ]
    with pytest.raises(WorkerDied, match="rank 1"):
        await gather_or_raise(waits)


async def test_those_that_go_on_are_waited_for_a_moment_only():
    start = time.monotonic()
    with pytest.raises(WorkerDied):
        await gather_or_raise([after(30, None), after(0, WorkerDied("gone"))], grace_s=0.1)
    assert time.monotonic() - start < 5


async def test_one_that_answers_late_may_live(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cluster.actors.deadlines._GRACE_S", 0.01)
    assert await responds(after(5, False))
    assert not await responds(after(0, False))


async def test_a_call_that_is_withdrawn_goes_elsewhere_at_once():
    withdrawn, started = asyncio.Event(), asyncio.Event()

    async def never() -> None:
        started.set()
        await asyncio.sleep(60)

    call = asyncio.create_task(answer_unless(withdrawn, never()))
    await started.wait()
    withdrawn.set()
    with pytest.raises(Withdrawn):
        await asyncio.wait_for(call, 10)


async def test_an_answer_that_came_first_counts():
    async def answer() -> int:
        return 7

    assert await answer_unless(asyncio.Event(), answer()) == 7


async def test_the_error_of_a_call_is_its_own():
    async def fail() -> None:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        await answer_unless(asyncio.Event(), fail())
