import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rollout.engine import Answer, Generation, Sampling
from rollout.lora import Adapter
from rollout.prompt import PromptKind, Prompts, RationalePrompt, VerdictPrompt
from rollout.prompts_config import PromptsConfig
from rollout.render import Renderer
from rollout.worker import RolloutWorker
from video.processor import ProcessedClip
from wire.adapters import AdapterFiles
from wire.errors import (
    ClipError,
    ClipUnreachable,
    DeadlineExceeded,
    DeepIntuitError,
    GenerationError,
    WeightUpdateError,
)
from wire.labels import Label, LabelSet
from wire.types import (
    Failure,
    FailureKind,
    FinishReason,
    PolicyVersion,
    Prompt,
    Sample,
    Split,
    VersionChange,
)

LABELS = LabelSet(labels=(Label(name="walk"), Label(name="fall")))
TRACE = "<think>she slips</think><answer>fall</answer>"
SAMPLE = Sample(id="s1", video="a.mp4", label="fall", split=Split.TRAIN, text="at night")
SAMPLING = Sampling(n=2, temperature=1.0, max_tokens=9, seed=0)
OLD, NEW = PolicyVersion(attempt=0, step=3), PolicyVersion(attempt=0, step=4)


class ScriptedEngine:
    """Answers every request with the same tokens, or raises; keeps what it was asked."""

    def __init__(self, token_ids: tuple[int, ...], error: DeepIntuitError | None = None) -> None:
        self.is_alive = True
        self.prompts: list[Prompt] = []
        self.adapters: list[Adapter | None] = []
        self.calls: list[str] = []
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        self.finish_error: WeightUpdateError | None = None
        self.versions: tuple[tuple[int, PolicyVersion | None], ...] = ()
        self._token_ids = token_ids
        self._error = error

    async def generate(
        self,
        prompt: Prompt,
        clip: ProcessedClip,
        sampling: Sampling,
        adapter: Adapter | None = None,
    ) -> Generation:
        self.prompts.append(prompt)
        self.adapters.append(adapter)
        if self.meanwhile:
            await self.meanwhile()
        if self._error:
            raise self._error
        answer = Answer(
            token_ids=self._token_ids,
            logprobs=(-0.5,) * len(self._token_ids),
            finish_reason=FinishReason.STOP,
            versions=self.versions,
        )
        return Generation(answers=(answer,) * sampling.n, num_cached_tokens=32)

    async def logprobs(
        self,
        prompt: Prompt,
        clip: ProcessedClip,
        response: Sequence[int],
        adapter: Adapter | None = None,
    ) -> list[float]:
        self.adapters.append(adapter)
        return [-float(token) for token in response]

    async def load_adapter(self, adapter: Adapter) -> None:
        self.calls.append(f"load {adapter.version}")

    async def drop_adapter(self, adapter: Adapter) -> None:
        self.calls.append(f"drop {adapter.version}")

    async def begin_update(self) -> None:
        self.calls.append("begin")

    async def update_weights(self, update: dict[str, Any]) -> None:
        self.calls.append(f"update {update}")

    async def finish_update(self, version: PolicyVersion) -> None:
        self.calls.append(f"finish {version}")
        if self.finish_error:
            raise self.finish_error


class Clips:
    """A clip store with one clip for every path, or an error."""

    def __init__(self, error: DeepIntuitError | None = None) -> None:
        self._error = error
        self.prepared = asyncio.Queue[str]()
        self._loop = asyncio.get_running_loop()

    def prepare(self, path: str) -> None:
        self._loop.call_soon_threadsafe(self.prepared.put_nowait, path)

    def get(self, path: str) -> ProcessedClip:
        if self._error:
            raise self._error
        return ProcessedClip(
            pixel_values=np.zeros((8, 4), np.float32),
            grid_thw=(2, 2, 2),
            seconds_per_grid=0.5,
            placeholder_ids=(3, 6, 6, 4),
            fingerprint="f",
            clip_key="k",
        )


@pytest.fixture
def renderer(tokenizer: Any) -> Renderer:
    return Renderer(tokenizer, 1000)


@pytest.fixture
def engine(renderer: Renderer) -> ScriptedEngine:
    return ScriptedEngine(renderer.target(TRACE))


def make_worker(
    engine: ScriptedEngine, renderer: Renderer, clips: Clips | None = None, side_text: bool = False
) -> RolloutWorker:
    prompts = Prompts(LABELS, use_side_text=side_text)
    return RolloutWorker("r0", engine, renderer, clips or Clips(), prompts, OLD)


async def test_a_sample_is_answered_with_a_group_of_completions(
    engine: ScriptedEngine, renderer: Renderer
) -> None:
    rollout = await make_worker(engine, renderer).answer(SAMPLE, SAMPLING)
    assert rollout.prompt == engine.prompts[0]
    assert rollout.failures == ()
    assert rollout.num_cached_tokens == 32
    assert len(rollout.completions) == 2
    assert rollout.completions[0].token_ids == renderer.target(TRACE)
    assert {c.policy_version for c in rollout.completions} == {rollout.policy_version} == {OLD}


@pytest.mark.parametrize(("for_training", "expected"), [(True, 0.7), (False, 1.0)])
async def test_a_trace_says_at_which_temperature_its_logprobs_are(
    engine: ScriptedEngine, renderer: Renderer, for_training: bool, expected: float
) -> None:
    sampling = replace(SAMPLING, temperature=0.7, for_training=for_training)
    rollout = await make_worker(engine, renderer).answer(SAMPLE, sampling)
    assert {c.logprobs_temperature for c in rollout.completions} == {expected}


async def test_the_text_of_a_completion_keeps_its_tags_and_drops_the_end_of_turn(
    engine: ScriptedEngine, renderer: Renderer
) -> None:
    rollout = await make_worker(engine, renderer).answer(SAMPLE, SAMPLING)
    assert [c.text for c in rollout.completions] == [TRACE, TRACE]


async def test_the_next_clip_is_made_ready_while_the_engine_writes(
    engine: ScriptedEngine, renderer: Renderer
) -> None:
    clips, seen = Clips(), []

    async def meanwhile() -> None:
        seen.append(await asyncio.wait_for(clips.prepared.get(), 10))

    engine.meanwhile = meanwhile
    worker = make_worker(engine, renderer, clips)
    rollout = await worker.answer(SAMPLE, SAMPLING, upcoming="b.mp4")
    assert len(rollout.completions) == 2
    assert seen == ["b.mp4"]


# --- failures


@pytest.mark.parametrize(
    "error", [ClipError("moov atom not found"), DeadlineExceeded("another process holds it")]
)
async def test_a_clip_that_cannot_be_had_is_a_decode_failure(
    engine: ScriptedEngine, renderer: Renderer, error: DeepIntuitError
) -> None:
    rollout = await make_worker(engine, renderer, Clips(error)).answer(SAMPLE, SAMPLING)
    expected = Failure(kind=FailureKind.DECODE, culprit="a.mp4", reason=str(error))
    assert (rollout.completions, rollout.failures) == ((), (expected,))
    assert engine.prompts == []


async def test_a_clip_whose_disk_fails_is_a_failure_of_the_disk(
    engine: ScriptedEngine, renderer: Renderer
) -> None:
    clips = Clips(ClipUnreachable("the disk of a.mp4 failed"))
    (failure,) = (await make_worker(engine, renderer, clips).answer(SAMPLE, SAMPLING)).failures
    assert (failure.kind, failure.culprit) == (FailureKind.DISK, "a.mp4")


async def test_a_prompt_that_does_not_fit_is_a_prompt_failure(
    engine: ScriptedEngine, tokenizer: Any
) -> None:
    rollout = await make_worker(engine, Renderer(tokenizer, 20)).answer(SAMPLE, SAMPLING)
    (failure,) = rollout.failures
    assert (failure.kind, failure.culprit) == (FailureKind.PROMPT, "s1")
    assert "rollout.max_prompt_length is 20" in failure.reason
    assert engine.prompts == []


@pytest.mark.parametrize("error", [GenerationError("refused"), DeadlineExceeded("no answer")])
async def test_a_request_that_fails_is_a_generation_failure(
    renderer: Renderer, error: DeepIntuitError
) -> None:
    rollout = await make_worker(ScriptedEngine((), error), renderer).answer(SAMPLE, SAMPLING)
    expected = Failure(kind=FailureKind.GENERATION, culprit="r0", reason=str(error))
    assert (rollout.completions, rollout.failures) == ((), (expected,))
    assert rollout.policy_version == OLD


async def test_a_worker_whose_engine_has_ended_says_so_instead_of_failing_every_sample(
    renderer: Renderer,
) -> None:
    engine = ScriptedEngine((), GenerationError("gone"))
    engine.is_alive = False
    with pytest.raises(GenerationError, match="r0 has lost its engine: gone"):
        await make_worker(engine, renderer).answer(SAMPLE, SAMPLING)


# --- versions


async def test_a_group_overtaken_by_an_update_has_the_version_of_before(
    engine: ScriptedEngine, renderer: Renderer
) -> None:
    worker = make_worker(engine, renderer)
    engine.meanwhile = lambda: worker.finish_update(NEW)
    rollout = await worker.answer(SAMPLE, SAMPLING)
    assert {c.policy_version for c in rollout.completions} == {rollout.policy_version} == {OLD}
    engine.meanwhile = None
    assert (await worker.answer(SAMPLE, SAMPLING)).policy_version == NEW


async def test_each_token_has_the_version_that_the_engine_names_and_the_oldest_counts(
    engine: ScriptedEngine, renderer: Renderer
) -> None:
    worker = make_worker(engine, renderer)
    engine.versions = ((0, None), (2, NEW))  # None: what the engine started with
    (one, two) = (await worker.answer(SAMPLE, SAMPLING)).completions
    assert one == two
    assert (one.policy_version, one.version_changes) == (OLD, (VersionChange(2, NEW),))
    engine.versions = ((0, None), (2, OLD))  # the same weights, sent again
    rollout = await worker.answer(SAMPLE, SAMPLING)
    assert {(c.policy_version, c.version_changes) for c in rollout.completions} == {(OLD, ())}
    engine.versions = ((0, NEW),)  # begun before an update, written wholly after it
    rollout = await worker.answer(SAMPLE, SAMPLING)
    assert {c.policy_version for c in rollout.completions} == {rollout.policy_version} == {NEW}


async def test_an_update_goes_to_the_engine_step_by_step(
    engine: ScriptedEngine, renderer: Renderer
) -> None:
    worker = make_worker(engine, renderer)
    await worker.begin_update()
    await worker.update_weights({"x": 1})
    await worker.finish_update(NEW)
    assert engine.calls == ["begin", "update {'x': 1}", f"finish {NEW}"]


async def test_an_update_that_fails_leaves_the_version_as_it_was(
    engine: ScriptedEngine, renderer: Renderer
) -> None:
    worker = make_worker(engine, renderer)
    engine.finish_error = WeightUpdateError("2 of 3 buckets")
    with pytest.raises(WeightUpdateError):
        await worker.finish_update(NEW)
    assert (await worker.answer(SAMPLE, SAMPLING)).policy_version == OLD


# --- prompts and probes


async def test_a_prompt_carries_the_version_of_its_wording(
    engine: ScriptedEngine, renderer: Renderer
) -> None:
    texts = PromptsConfig(trace="Of {labels}: <think>, <answer>.", system="Be brief.")
    prompts = Prompts(LABELS, texts)
    own = RolloutWorker("r0", engine, renderer, Clips(), prompts, OLD)
    asks: tuple[PromptKind, ...] = ("trace", "label", VerdictPrompt(TRACE))
    for ask in asks:
        made = await own.prompt(SAMPLE, ask)
        assert isinstance(made, Prompt)
        assert made.version == prompts.version(ask) != "1"
        assert renderer.text(made.token_ids).startswith("<|im_start|>system\nBe brief.<|im_end|>")
    rollout = await own.answer(SAMPLE, SAMPLING)
    assert rollout.prompt is not None
    assert rollout.prompt.version == prompts.version("trace")
    default = await make_worker(engine, renderer).answer(SAMPLE, SAMPLING)
    assert default.prompt is not None
    assert default.prompt.version == "1"


async def test_side_text_is_shown_only_if_the_recipe_says_so(
    engine: ScriptedEngine, renderer: Renderer
) -> None:
    without, given = [
        renderer.text((await worker.prompt(SAMPLE, "trace")).token_ids)
        for worker in [make_worker(engine, renderer, None, shown) for shown in (False, True)]
    ]
    assert "at night" not in without
    assert "Text that came with the video: at night\n" in given


@pytest.mark.parametrize(
    ("ask", "start", "end"),
    [
        ("trace", "Decide which label", "between <answer> and </answer>."),
        ("label", "Decide which label", "Write one label and nothing else."),
        (
            VerdictPrompt(TRACE),
            "Review",
            "slips\nConclusion: fall\nWrite one label and nothing else.",
        ),
        (RationalePrompt(hint=True), "The label of this video is fall", "the label"),
        (RationalePrompt(hint=False), "Explain which label", "Classification: the label"),
        ("caption", "Describe the video", "Write the description and nothing else."),
    ],
)
async def test_the_prompt_asks_for_what_it_is_told_to(
    engine: ScriptedEngine, renderer: Renderer, ask: PromptKind, start: str, end: str
) -> None:
    prompt = await make_worker(engine, renderer).prompt(SAMPLE, ask)
    text = renderer.text(prompt.token_ids).partition("<|im_end|>")[0]
    assert start in text
    assert text.endswith(end)


@pytest.mark.parametrize("ask", [RationalePrompt(hint=True), "caption"])
async def test_answers_are_written_to_the_prompt_that_is_asked(
    engine: ScriptedEngine, tokenizer: Any, ask: PromptKind
) -> None:
    worker = make_worker(engine, Renderer(tokenizer, 1000))
    rollout = await worker.answer(SAMPLE, SAMPLING, ask=ask)
    assert rollout.prompt == await worker.prompt(SAMPLE, ask)
    assert rollout.prompt.version == Prompts(LABELS).version(ask)
    assert len(rollout.completions) == SAMPLING.n
    short = await make_worker(engine, Renderer(tokenizer, 20)).answer(SAMPLE, SAMPLING, ask=ask)
    assert [failure.kind for failure in short.failures] == [FailureKind.PROMPT]


@pytest.mark.parametrize("ask", ["label", VerdictPrompt(TRACE)])
async def test_what_is_asked_of_the_learner_may_be_longer_than_the_engine_s_limit(
    engine: ScriptedEngine, tokenizer: Any, ask: PromptKind
) -> None:
    prompt = await make_worker(engine, Renderer(tokenizer, 20)).prompt(SAMPLE, ask)
    assert len(prompt.token_ids) > 20


async def test_a_prompt_that_cannot_be_made_is_a_failure(
    engine: ScriptedEngine, tokenizer: Any
) -> None:
    long = await make_worker(engine, Renderer(tokenizer, 20)).prompt(SAMPLE, "trace")
    blind = make_worker(engine, Renderer(tokenizer, 999), Clips(ClipError("cut")))
    lost = await blind.prompt(SAMPLE, "trace")
    assert (long.kind, lost.kind) == (FailureKind.PROMPT, FailureKind.DECODE)


async def test_the_probe_is_the_engine_s_word_on_a_given_response(
    engine: ScriptedEngine, renderer: Renderer
) -> None:
    worker = make_worker(engine, renderer)
    prompt = await worker.prompt(SAMPLE, "trace")
    assert await worker.logprobs("a.mp4", prompt, (5, 2)) == [-5.0, -2.0]


async def test_groups_are_answered_side_by_side(renderer: Renderer) -> None:
    engine = ScriptedEngine(renderer.target(TRACE))
    both = asyncio.Barrier(2)

    async def meet() -> None:
        await both.wait()

    engine.meanwhile = meet
    worker = make_worker(engine, renderer)
    async with asyncio.timeout(5):
        rollouts = await asyncio.gather(*[worker.answer(SAMPLE, SAMPLING) for _ in range(2)])
    assert [len(rollout.completions) for rollout in rollouts] == [2, 2]


async def test_a_trace_has_the_version_of_the_adapter_it_began_with(
    engine: ScriptedEngine, renderer: Renderer
) -> None:
    worker, files = make_worker(engine, renderer), AdapterFiles.of("{}", {})
    await worker.load_adapter(OLD, files)
    await worker.serve_adapter(OLD)

    async def overtake() -> None:
        await worker.load_adapter(NEW, files)
        await worker.logprobs("a.mp4", engine.prompts[-1], (5,), NEW)  # the probe
        await worker.serve_adapter(NEW)

    engine.meanwhile = overtake
    rollout = await worker.answer(SAMPLE, SAMPLING)
    engine.meanwhile = None
    later = await worker.answer(SAMPLE, SAMPLING)
    assert [a and a.version for a in engine.adapters] == [OLD, NEW, NEW]
    assert {c.policy_version for c in rollout.completions} == {rollout.policy_version} == {OLD}
    assert {c.policy_version for c in later.completions} == {later.policy_version} == {NEW}
    assert engine.calls == [f"load {OLD}", f"load {NEW}", f"drop {OLD}"]


async def test_a_request_whose_clip_comes_late_begins_with_the_adapter_served_by_then(
    engine: ScriptedEngine, renderer: Renderer
) -> None:
    came = threading.Event()

    class Slow(Clips):
        def get(self, path: str) -> ProcessedClip:
            assert came.wait(5)
            return super().get(path)

    worker, files = make_worker(engine, renderer, Slow()), AdapterFiles.of("{}", {})
    await worker.load_adapter(OLD, files)
    await worker.serve_adapter(OLD)
    async with asyncio.TaskGroup() as tasks:
        answering = tasks.create_task(worker.answer(SAMPLE, SAMPLING))
        await asyncio.sleep(0)  # it waits for its clip
        await worker.load_adapter(NEW, files)
        await worker.serve_adapter(NEW)
        came.set()
    rollout = answering.result()
    assert [a and a.version for a in engine.adapters] == [NEW]
    assert {c.policy_version for c in rollout.completions} == {rollout.policy_version} == {NEW}
