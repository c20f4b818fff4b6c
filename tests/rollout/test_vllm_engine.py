"""How an engine's side of a weight update ends, by a stand-in for vLLM's client."""

import asyncio
import time
from typing import Any

import pytest

from rollout.config import RolloutConfig
from rollout.vllm_engine import VllmEngine
from wire.errors import DeadlineExceeded, WeightUpdateError


class Llm:
    """Never answers, as vLLM where the process died that a call was sent to."""

    def __init__(self, dies_after_s: float) -> None:
        self._end = time.monotonic() + dies_after_s

    @property
    def errored(self) -> bool:
        return time.monotonic() > self._end

    @property
    def engine_core(self) -> "Llm":
        return self

    async def pause_scheduler_async(self, mode: str, clear_cache: bool) -> None:
        await asyncio.get_running_loop().create_future()

    async def collective_rpc(self, method: str) -> None:
        await asyncio.get_running_loop().create_future()


def make_engine(dies_after_s: float, timeout_s: float) -> Any:
    config = RolloutConfig(update_timeout_s=timeout_s)
    return VllmEngine(Llm(dies_after_s), config, None, [])  # type: ignore[arg-type]


async def test_a_process_that_dies_ends_the_update_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(WeightUpdateError, match="process ended, asked to begin a weight update"):
        await make_engine(0.1, 60.0).begin_update()
    assert time.monotonic() - start < 10


async def test_a_process_that_hangs_ends_it_at_the_deadline() -> None:
    with pytest.raises(DeadlineExceeded, match="did not begin a weight update within 1 s"):
        await make_engine(60.0, 0.6).begin_update()


async def test_who_cancels_an_update_is_heard() -> None:
    task = asyncio.create_task(make_engine(60.0, 60.0).begin_update())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
