import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from reward.builtins.judge import close_judges, judge
from reward.builtins.judge_params import JudgeParams
from reward.builtins.judge_thread import LoopThread
from reward.context import RewardContext
from tests.reward.judge_server import Server, reply, serving


async def in_thread() -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


async def test_work_runs_in_the_thread_and_its_result_and_error_come_back():
    thread = LoopThread("elsewhere")
    assert await thread.run(in_thread()) == "elsewhere"

    async def fails() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        await thread.run(fails())
    await thread.stop()


async def test_a_wait_that_is_cancelled_cancels_the_work():
    thread, ended = LoopThread("elsewhere"), threading.Event()

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(thread.run(waits()), 0.05)
    assert await asyncio.to_thread(ended.wait, 10)
    await thread.stop()


async def test_the_callers_loop_turns_while_the_judges_stands_still():
    thread = LoopThread("elsewhere")

    async def blocks() -> None:
        time.sleep(0.3)  # as a client with hundreds of connections does

    blocked, turns = asyncio.ensure_future(thread.run(blocks())), 0
    while not blocked.done():
        turns += 1
        await asyncio.sleep(0.001)
    assert turns > 10
    await thread.stop()


async def test_judges_leave_no_thread_and_can_be_asked_again(
    make_context: Callable[..., RewardContext],
):
    """As a reward: in one thread for all judges of a run, which ends with them."""
    context = make_context("fall", "walk", texts=("<think>a</think>",))
    for _ in range(2):
        async with serving(Server(reply("<score>5</score>"))) as server:
            for model in ("one", "other"):
                params = JudgeParams(base_url=server.url, model=model).arguments()
                assert await judge("<think>a</think>", "fall", context, **params) == 0.5
            names = [thread.name for thread in threading.enumerate()]
            assert names.count("judges") == 1
            await close_judges()
        assert "judges" not in [thread.name for thread in threading.enumerate()]
