import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.actors.deadlines import with_deadline
from cluster.config.fleet import WatchdogConfig
from cluster.metrics.events import EventLog, read_events
from cluster.stages.watchdog import Watchdog
from wire.errors import DeadlineExceeded


class Clock:
    """A time that moves only when the watchdog sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


class Dumps:
    def __init__(self) -> None:
        self.count = 0

    async def __call__(self) -> str:
        self.count += 1
        return "== driver, process 1 =="


def watchdog(path: Path, dumps: Dumps, clock: Clock, **config: Any) -> Watchdog:
    values = WatchdogConfig(interval_s=10, stall_timeout_s=100, **config)
    events = EventLog(path, 0)
    return Watchdog(values, path, events, dump=dumps, clock=lambda: clock.now, sleep=clock.sleep)


async def work_until(clock: Clock, end: float, tell: Callable[[], None] = lambda: None) -> str:
    while clock.now < end:
        tell()
        await asyncio.sleep(0)
    return "done"


async def test_a_training_that_stalls_leaves_the_stacks_and_who_was_waited_for(tmp_path: Path):
    clock, dumps = Clock(), Dumps()
    work = with_deadline(work_until(clock, 250), 60, "learner rank 3 to train_step")
    guarded = watchdog(tmp_path, dumps, clock).guard("grpo", work, lambda: 7)
    assert await guarded == "done", "the run goes on waiting"
    assert dumps.count == 2, "at 100 and at 200 seconds"
    events = list(read_events(tmp_path))
    assert [(e.kind, e.subject) for e in events] == [("stalled", "grpo")] * 2
    assert events[0].fields["who"] == ["learner rank 3 to train_step"]
    text = (tmp_path / "stalls" / events[0].fields["file"]).read_text()
    assert text.startswith("no step of grpo ended for 100 s; waiting for: learner rank 3")
    assert "== driver, process 1 ==" in text


async def test_a_training_whose_steps_end_is_left_alone(tmp_path: Path):
    clock, dumps = Clock(), Dumps()
    dog = watchdog(tmp_path, dumps, clock)
    assert await dog.guard("grpo", work_until(clock, 999), lambda: int(clock.now // 90)) == "done"
    assert dumps.count == 0
    assert not (tmp_path / "stalls").exists()


async def test_a_run_may_end_where_it_stalls(tmp_path: Path):
    clock, dumps, ended = Clock(), Dumps(), []

    async def hangs() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("cleaned up")

    dog = watchdog(tmp_path, dumps, clock, stall_action="end")
    with pytest.raises(DeadlineExceeded, match="no step of grpo ended for 100 s; waiting for"):
        await dog.guard("grpo", hangs(), lambda: 0)
    assert ended == ["cleaned up"]


async def test_an_error_and_an_interrupt_pass_through(tmp_path: Path):
    async def fails() -> None:
        raise ValueError("bad row")

    clock = Clock()
    with pytest.raises(ValueError, match="bad row"):
        await watchdog(tmp_path, Dumps(), clock).guard("grpo", fails(), lambda: 0)
    ended = asyncio.Event()

    async def long() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    dog = Watchdog(WatchdogConfig(), tmp_path, EventLog(tmp_path, 0))
    task = asyncio.create_task(dog.guard("grpo", long(), lambda: 0))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
