import asyncio
import threading
import time

import pytest
from ray.exceptions import OutOfMemoryError

from cluster.actors import deadlines
from cluster.actors.deadlines import (
    gather_or_raise,
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


async def test_a_disk_that_hangs_is_named_and_an_error_of_its_own_is_not_taken_for_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(deadlines, "DISK_S", 0.05)
    hangs = threading.Event()
    with pytest.raises(DeadlineExceeded, match="waited 0 s for the disk to compact the archive"):
        await deadlines.on_disk("compact the archive", hangs.wait, 20)
    hangs.set()

    def times_out() -> None:
        raise TimeoutError("nfs: server not responding")

    with pytest.raises(TimeoutError, match="nfs: server") as raised:
        await deadlines.on_disk("compact the archive", times_out)
    assert not isinstance(raised.value, DeadlineExceeded)


async def test_what_is_waited_for_is_known_while_it_is_waited_for():
    ready = asyncio.Event()
    waits = [deadlines.with_deadline(ready.wait(), 5, f"rollout-{n} to start") for n in range(2)]
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.sleep(0.01)
    assert sorted(what for what, _ in deadlines.open_waits()) == [
        "rollout-0 to start",
        "rollout-1 to start",
    ]
    ready.set()
    await asyncio.gather(*tasks)
    assert deadlines.open_waits() == []
