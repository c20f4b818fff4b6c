"""How an engine's side of a weight update ends, by a stand-in for vLLM's client."""

import asyncio
import time
from typing import Any

import pytest

from rollout.config import RolloutConfig
from rollout.vllm_engine import VllmEngine
from wire.errors import DeadlineExceeded, GenerationError, WeightUpdateError


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

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> None:
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


# --- sleep


class RecordingLlm:
    """Keeps the calls that it gets; the update of a broken one cannot be finished."""

    errored = False

    def __init__(self, breaks: bool = False) -> None:
        self.calls: list[str] = []
        self.breaks = breaks

    @property
    def engine_core(self) -> "RecordingLlm":
        return self

    async def sleep(self, level: int, mode: str) -> None:
        self.calls.append(f"sleep {level}")

    async def wake_up(self, tags: list[str]) -> None:
        self.calls.append(f"wake {' '.join(tags)}")

    async def pause_scheduler_async(self, mode: str, clear_cache: bool) -> None:
        self.calls.append("pause")

    async def collective_rpc(self, method: str, args: tuple[int, ...] = ()) -> list[Any]:
        self.calls.append(method)
        return []

    async def update_weights(self, request: Any) -> None:
        self.calls.append("update")

    async def finish_weight_update(self) -> None:
        self.calls.append("finish")
        if self.breaks:
            raise ValueError("a bucket is missing")

    async def resume_generation(self) -> None:
        self.calls.append("resume")

    async def add_lora(self, request: Any) -> None:
        self.calls.append("add_lora")


def sleeper(llm: Any, keeps_weights: bool = False, num_gpus: float = 0.5) -> Any:
    config = RolloutConfig(sleep=True, num_gpus=num_gpus)
    return VllmEngine(llm, config, None, [], keeps_weights=keeps_weights)  # type: ignore[arg-type]


async def update(engine: Any) -> None:
    await engine.begin_update()
    await engine.update_weights({})
    await engine.finish_update()


async def test_a_sleeping_engine_takes_memory_for_weights_and_after_them_for_the_cache() -> None:
    llm = RecordingLlm()
    engine = sleeper(llm)
    await engine.sleep()
    assert llm.calls == ["sleep 2"]
    await update(engine)
    begun = llm.calls[1:4]
    assert begun[0] == "wake weights"
    assert set(begun[1:]) == {"pause", "begin_weight_update"}
    assert llm.calls[4:] == ["update", "finish", "wake kv_cache", "resume"]
    llm.calls.clear()
    await update(engine)  # of one that does not sleep
    assert not [call for call in llm.calls if "wake" in call]


async def test_weights_that_no_update_brings_are_kept_and_an_adapter_wakes_the_engine() -> None:
    from rollout.lora import Adapter
    from wire.types import PolicyVersion

    llm = RecordingLlm()
    engine = sleeper(llm, keeps_weights=True)
    await engine.sleep()
    adapter = Adapter(number=1, version=PolicyVersion(attempt=0, step=1), path="/adapter")
    await engine.load_adapter(adapter)
    assert llm.calls == ["sleep 1", "wake weights", "wake kv_cache", "add_lora", "left_out"]


async def test_after_an_update_that_broke_off_the_engine_answers_nothing_and_can_be_updated() -> (
    None
):
    llm = RecordingLlm(breaks=True)
    engine = sleeper(llm)
    await engine.sleep()
    with pytest.raises(WeightUpdateError, match="a bucket is missing"):
        await update(engine)
    with pytest.raises(GenerationError, match="sleeps until it gets new weights"):
        await engine._run(None, None, None)
    llm.breaks = False
    llm.calls.clear()
    await update(engine)  # its weights have memory already
    assert [call for call in llm.calls if "wake" in call] == ["wake kv_cache"]
    await engine.sleep()
    assert llm.calls[-1] == "sleep 2"


async def test_an_engine_does_not_sleep_while_a_request_runs() -> None:
    llm = RecordingLlm()
    engine = sleeper(llm)
    engine._running = 2
    with pytest.raises(WeightUpdateError, match="2 requests run"):
        await engine.sleep()
    assert llm.calls == []


async def test_sleep_is_nothing_on_a_cpu() -> None:
    llm = RecordingLlm()
    engine = sleeper(llm, num_gpus=0)
    await engine.sleep()
    await update(engine)
    assert not [call for call in llm.calls if "wake" in call or "sleep" in call]
