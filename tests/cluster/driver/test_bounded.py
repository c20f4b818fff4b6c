import asyncio

import pytest

from cluster.driver.bounded import run_bounded


async def test_calls_start_in_their_order_and_no_more_than_the_limit_at_a_time():
    started: list[int] = []
    running = most = 0

    async def call(number: int) -> None:
        nonlocal running, most
        started.append(number)
        running += 1
        most = max(most, running)
        for _ in range(number % 3):
            await asyncio.sleep(0)
        running -= 1

    await run_bounded(20, 4, call)
    assert started == list(range(20))
    assert most == 4
    await run_bounded(0, 4, call)


async def test_a_failed_call_ends_the_others():
    ended: list[int] = []

    async def call(number: int) -> None:
        if number == 1:
            raise ValueError("one")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    with pytest.raises(ValueError, match="one"):
        await run_bounded(20, 3, call)
    assert ended == [0, 2]
