"""Virtual time: asyncio unchanged, on a clock that jumps."""

import asyncio
import time

import pytest

from cluster.simulation.virtual_time import (
    SimulationStuck,
    run_virtually,
    virtual_loop,
)


def test_an_hour_of_sleep_takes_no_time():
    began = time.perf_counter()
    _, seconds = run_virtually(lambda: asyncio.sleep(3600))
    assert seconds == 3600
    assert time.perf_counter() - began < 1


def test_timers_fire_in_their_order_however_they_were_set():
    async def main() -> list[tuple[str, float]]:
        fired: list[tuple[str, float]] = []

        async def wait(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            fired.append((name, asyncio.get_running_loop().time()))

        async with asyncio.TaskGroup() as group:
            for name, seconds in (("c", 3.0), ("a", 1.0), ("b", 2.5)):
                group.create_task(wait(name, seconds))
        return fired

    assert run_virtually(main)[0] == [("a", 1.0), ("b", 2.5), ("c", 3.0)]


def test_a_deadline_passes_in_virtual_time():
    async def main() -> float:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 600)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.sleep(61)
        return asyncio.get_running_loop().time()

    assert run_virtually(main)[0] == 660


def test_a_wait_that_nothing_ends_is_an_error_that_names_the_tasks():
    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.sleep(5)
        await waits_for_ever()

    with pytest.raises(SimulationStuck, match=r"after 5 s, and 1 tasks wait: 1 x .*main"):
        run_virtually(main)


def test_asking_again_and_again_without_waiting_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cluster.simulation.virtual_time._MOST_TURNS", 1000)

    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(SimulationStuck, match="time stands still at 0 s"):
        run_virtually(main)


def test_a_thread_is_refused_since_its_time_is_real():
    async def main() -> None:
        await asyncio.to_thread(time.sleep, 0)

    with pytest.raises(RuntimeError, match="its time is real"):
        run_virtually(main)


def test_tasks_that_are_left_are_cancelled():
    ended = []

    async def background() -> None:
        try:
            await asyncio.sleep(1e9)
        finally:
            ended.append(True)

    async def main() -> None:
        left.append(asyncio.create_task(background()))
        await asyncio.sleep(1)

    left: list[asyncio.Task[None]] = []
    with virtual_loop() as loop:
        loop.run_until_complete(main())
    assert ended == [True]
