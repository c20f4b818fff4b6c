"""The engine, by a stand-in for vLLM's client: how a weight update ends, sleep, logprobs."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from rollout.config import RolloutConfig
from rollout.engine import Sampling
from rollout.vllm_calls.arguments import logprobs_mode
from rollout.vllm_engine import VllmEngine
from video.positions import PositionRule
from wire.errors import DeadlineExceeded, GenerationError, WeightUpdateError
from wire.token_arrays import TokenIds
from wire.types import PolicyVersion, Prompt


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
    config = RolloutConfig(pause_timeout_s=timeout_s)
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
        self.calls.append(f"pause {mode}")

    async def collective_rpc(self, method: str, args: tuple[int, ...] = ()) -> list[Any]:
        self.calls.append(method)
        return []

    async def update_weights(self, request: Any) -> None:
        self.calls.append("update")

    async def finish_weight_update(self, weight_version: str) -> None:
        self.calls.append(f"finish {weight_version}")
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
    await engine.finish_update(PolicyVersion(attempt=0, step=4))
    await engine._groups._resume_now()


async def test_a_sleeping_engine_takes_memory_for_weights_and_after_them_for_the_cache() -> None:
    llm = RecordingLlm()
    engine = sleeper(llm)
    await engine.sleep()
    assert llm.calls == ["sleep 2"]
    await update(engine)
    begun = llm.calls[1:4]
    assert begun[0] == "wake weights"
    assert begun[1:] == ["pause keep", "begin_weight_update"]
    assert llm.calls[4:] == ["update", "finish 0.4", "wake kv_cache", "resume"]
    llm.calls.clear()
    await update(engine)  # of one that does not sleep
    assert not [call for call in llm.calls if "wake" in call]


async def test_weights_that_no_update_brings_are_kept_and_an_adapter_wakes_the_engine() -> None:
    from rollout.lora import Adapter

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
        await engine._run((), None, [], None)
    llm.breaks = False
    llm.calls.clear()
    await update(engine)  # its weights have memory already
    assert [call for call in llm.calls if "wake" in call] == ["wake kv_cache"]
    await engine.sleep()
    assert llm.calls[-1] == "sleep 2"


async def test_an_engine_does_not_sleep_while_a_request_runs() -> None:
    llm = RecordingLlm()
    engine = sleeper(llm)
    engine._groups.running = 2
    with pytest.raises(WeightUpdateError, match="2 groups are being written"):
        await engine.sleep()
    assert llm.calls == []


async def test_sleep_is_nothing_on_a_cpu() -> None:
    llm = RecordingLlm()
    engine = sleeper(llm, num_gpus=0)
    await engine.sleep()
    await update(engine)
    assert not [call for call in llm.calls if "wake" in call or "sleep" in call]


# --- narratives


class Shared:
    """Embeddings of clips, of which none is there."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def find(self, prompt: Prompt) -> None:
        self.asked.append(prompt.clip_key)

    def keep(self, prompt: Prompt, clip: Any, embeddings: Any) -> None:
        raise AssertionError("the stand-in's tower has made nothing")


class NoTower:
    """vLLM's client, whose tower has seen no clip."""

    async def collective_rpc(self, method: str, args: Any) -> list[None]:
        return [None]


@pytest.mark.slow  # imports vLLM
async def test_embeddings_are_shared_of_videos_and_not_of_narratives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rule = PositionRule("qwen2_5_vl", 7, merge_size=2, tokens_per_second=2)
    engine = VllmEngine(NoTower(), RolloutConfig(), rule, [])  # type: ignore[arg-type]
    monkeypatch.setattr(engine, "_run", Completions().run)
    engine.embeddings = shared = Shared()
    sampling = Sampling(n=1, temperature=1.0, max_tokens=9, seed=0)
    rows = np.zeros((1, 4), np.float32)
    for key, ids, embeddings in (
        ("video", (1, 7), None),
        ("text", (1, 2), None),
        ("v", (7,), rows),
    ):
        prompt = Prompt(token_ids=TokenIds(ids), clip_key=key, fingerprint="")
        clip: Any = SimpleNamespace(embeddings=embeddings, fingerprint="")
        await engine.generate(prompt, clip, sampling)
    assert shared.asked == ["video"]


# --- logprobs at a sampling temperature


class Completions:
    """vLLM's answer to any request: two completions, with the logprobs of its mode."""

    def __init__(self) -> None:
        self.rescored: list[tuple[int, ...]] = []

    async def run(
        self,
        token_ids: Any,
        clip: Any,
        params: Any,
        adapter: Any,
        embeddings: Any,
        continued: Any,
    ) -> list[Any]:
        return [
            SimpleNamespace(
                num_cached_tokens=0,
                outputs=[
                    SimpleNamespace(
                        token_ids=[5, 6 + index],
                        logprobs=[{5: Logprob(-0.5)}, {6 + index: Logprob(-0.75)}],
                        finish_reason="stop",
                        weight_versions=None,
                    )
                ],
            )
            for index in range(len(params))
        ]

    async def logprobs(self, prompt: Any, clip: Any, response: Any, adapter: Any) -> list[float]:
        self.rescored.append(tuple(response))
        return [-1.5] * len(response)


class Logprob(NamedTuple):
    logprob: float


class Table:
    """vLLM's answer to requests for the logprobs of given tokens: minus the token's number, minus
    a tenth of the number of tokens before it."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[int, ...], list[int]]] = []

    async def run(
        self,
        token_ids: Any,
        clip: Any,
        params: Any,
        adapter: Any,
        embeddings: Any,
        continued: Any,
    ) -> list[Any]:
        self.asked = [
            (tuple(more), one.logprob_token_ids)
            for more, one in zip(continued, params, strict=True)
        ]
        return [
            SimpleNamespace(
                outputs=[
                    SimpleNamespace(
                        logprobs=[{t: Logprob(-t - 0.1 * len(more)) for t in (99, *tokens)}]
                    )
                ]
            )
            for more, tokens in self.asked
        ]


@pytest.mark.slow  # imports vLLM
async def test_codes_of_one_token_are_one_request_and_codes_share_the_beginnings_they_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, table = VllmEngine(None, RolloutConfig(), None, [3]), Table()  # type: ignore[arg-type]
    monkeypatch.setattr(engine, "_run", table.run)
    prompt = Prompt(token_ids=TokenIds((1,)), clip_key="", fingerprint="")
    clip: Any = None
    assert await engine.label_logprobs(prompt, clip, [(7,), (3,), (7,)]) == [-7, -3, -7]
    assert table.asked == [((), [7, 3])]
    codes = [(7, 1, 9), (7, 1, 3), (7, 2), (4,)]
    logprobs = await engine.label_logprobs(prompt, clip, codes)
    assert logprobs == pytest.approx([-17.3, -11.3, -9.1, -4])
    assert table.asked == [((), [7, 4]), ((7,), [1, 2]), ((7, 1), [9, 3])]


@pytest.mark.slow  # imports vLLM
@pytest.mark.parametrize(
    ("of_training", "temperature", "for_training", "rescored"),
    [
        (1.0, 1.0, True, False),
        (1.0, 0.01, False, False),  # raw logprobs are at temperature 1
        (0.7, 0.7, True, False),
        (0.7, 1.0, False, False),
        (0.7, 0.01, False, True),
        (0.7, 0.7, False, True),
    ],
)
async def test_traces_that_are_measured_have_logprobs_at_temperature_1(
    monkeypatch: pytest.MonkeyPatch,
    of_training: float,
    temperature: float,
    for_training: bool,
    rescored: bool,
) -> None:
    config, answers = RolloutConfig(temperature=of_training), Completions()
    engine = VllmEngine(None, config, None, [])  # type: ignore[arg-type]
    monkeypatch.setattr(engine, "_run", answers.run)
    monkeypatch.setattr(engine, "logprobs", answers.logprobs)
    prompt = Prompt(token_ids=TokenIds((1,)), clip_key="", fingerprint="")
    sampling = Sampling(
        n=2, temperature=temperature, max_tokens=9, seed=0, for_training=for_training
    )
    generation = await engine.generate(prompt, None, sampling)  # type: ignore[arg-type]
    assert [answer.token_ids for answer in generation.answers] == [(5, 6), (5, 7)]
    assert answers.rescored == [(5, 6), (5, 7)] * rescored
    expected = (-1.5, -1.5) if rescored else (-0.5, -0.75)
    assert {answer.logprobs for answer in generation.answers} == {expected}


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_vllms_sampler_gives_logprobs_at_the_temperature_that_it_samples_at(
    temperature: float,
) -> None:
    import torch
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler
    from vllm.v1.sample.sampler import Sampler

    config = RolloutConfig(temperature=temperature)
    mode = logprobs_mode(config)
    logits = torch.randn(3, 50)
    if mode == "raw_logprobs":
        given = Sampler.compute_logprobs(logits)
    else:
        each = torch.full((3,), temperature)
        tempered = Sampler.apply_temperature(logits.clone(), each, all_random=True)
        _, given = TopKTopPSampler(mode)(tempered, {}, None, None)
    assert torch.allclose(given, (logits / temperature).log_softmax(-1), atol=1e-6)
