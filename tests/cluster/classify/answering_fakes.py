"""A pipeline whose engine is a script; tokenizer, prompts and calibration are real. (No test
file.)"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from calibrate.calibration import Calibration
from calibrate.calibrator import Calibrator, Source
from calibrate.risk import Threshold
from cluster.classify.pipeline import Answering, Pipeline, TraceObserver
from cluster.classify.rows import Versions
from cluster.classify.sources import LabelSource, PolicySource, VerdictSource, VoteSource
from rollout.engine import Answer, Generation, Sampling
from rollout.lora import Adapter
from rollout.prompt import Prompts
from rollout.prompt_inputs import PromptInputs
from rollout.render import Renderer
from tests.cluster.session_fakes import TOKENIZER
from video.processor import ProcessedClip
from wire.errors import DeepIntuitError
from wire.labels import Label, LabelSet
from wire.types import FinishReason, PolicyVersion, Prompt, Sample, Split

NAMES = ("repeat", "undo", "varied")
LABELS = LabelSet(labels=tuple(Label(name=name) for name in NAMES))
TRACE = "<think>left then left</think><answer>undo</answer>"
POLICY = PolicyVersion(attempt=0, step=7)


def write(text: str = TRACE) -> Callable[[str, int], str]:
    return lambda video, number: text


class ScriptedEngine:
    """Writes what ``trace`` says of a clip; logprob of a label's code by ``logprob``."""

    def __init__(
        self,
        renderer: Renderer,
        trace: Callable[[str, int], str] = write(),  # noqa: B008
        logprob: Callable[[str, tuple[int, ...]], float] = lambda video, code: -float(code[0] % 7),
        error: DeepIntuitError | None = None,
    ) -> None:
        self.is_alive = True
        self.running = self.most_running = 0
        self.asked: list[tuple[Prompt, tuple[Any, ...], Adapter | None]] = []
        self.samplings: list[Sampling] = []
        self._renderer, self._trace, self._logprob = renderer, trace, logprob
        self.error = error

    async def generate(
        self, prompt: Prompt, clip: ProcessedClip, sampling: Sampling, adapter: Any = None
    ) -> Generation:
        self.samplings.append(sampling)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        if self.error is not None:
            raise self.error
        texts = [self._trace(clip.clip_key, number) for number in range(sampling.n)]
        answers = tuple(self._answer(self._renderer.target(text)) for text in texts)
        return Generation(answers=answers, num_cached_tokens=0)

    def _answer(self, ids: tuple[int, ...]) -> Answer:
        return Answer(token_ids=ids, logprobs=(-0.5,) * len(ids), finish_reason=FinishReason.STOP)

    async def label_logprobs(
        self,
        prompt: Prompt,
        clip: ProcessedClip,
        codes: Sequence[tuple[int, ...]],
        adapter: Adapter | None = None,
    ) -> list[float]:
        self.asked.append((prompt, tuple(codes), adapter))
        await asyncio.sleep(0)
        return [self._logprob(clip.clip_key, code) for code in codes]


class Clips:
    """A clip store whose clip has the address as its key, or an error for some addresses."""

    def __init__(self, errors: dict[str, DeepIntuitError] | None = None) -> None:
        self._errors = errors or {}

    def get(self, address: str) -> ProcessedClip:
        if address in self._errors:
            raise self._errors[address]
        return ProcessedClip(
            pixel_values=np.zeros((8, 4), np.float32),
            grid_thw=(2, 2, 2),
            seconds_per_grid=0.5,
            placeholder_ids=(3, 7, 7, 4),
            fingerprint=address,
            clip_key=address,
        )


def sample(video: str, label: str = "") -> Sample:
    return Sample(id=video, video=video, label=label, split=Split.TEST)


def make_renderer() -> Renderer:
    return Renderer.load(TOKENIZER, 1000)


def calibration(
    weights: dict[Source, float], threshold: float | None = 0.5, **parts: Any
) -> Calibration:
    """With a threshold on the confidence, if one is given."""
    limits = (
        ()
        if threshold is None
        else (
            Threshold(
                max_error=0.1,
                confidence=0.9,
                num_samples=100,
                value=threshold,
                num_automatic=50,
                num_wrong=1,
                bound=0.09,
                coverage=0.5,
                num_needed=22,
            ),
        )
    )
    return Calibration(
        calibrator=Calibrator(label_names=NAMES, weights=weights), thresholds=limits, **parts
    )


def make_pipeline(
    engine: ScriptedEngine,
    renderer: Renderer,
    *,
    weights: dict[Source, float] | None = None,
    threshold: float | None = 0.5,
    clips: Clips | None = None,
    k: int = 4,
    in_flight: int = 4,
    observer: TraceObserver | None = None,
    adapter: Adapter | None = None,
) -> Pipeline:
    weights = {"verdict": 1.0} if weights is None else weights
    inputs = PromptInputs(renderer, clips or Clips(), Prompts(LABELS))  # type: ignore[arg-type]
    codes = [renderer.label_codes(LABELS)[name] for name in NAMES]
    sampled = Sampling(n=k, temperature=1.0, max_tokens=40, seed=0)
    made: dict[Source, LabelSource] = {
        "policy": PolicySource(engine, inputs, LABELS),  # type: ignore[arg-type]
        "verdict": VerdictSource(engine, inputs, codes, adapter),  # type: ignore[arg-type]
        "vote": VoteSource(engine, inputs, LABELS, sampled),  # type: ignore[arg-type]
    }
    answering = Answering(
        engine=engine,  # type: ignore[arg-type]
        engines=(engine,),  # type: ignore[arg-type]
        inputs=inputs,
        sources={name: made[name] for name in weights},
        labels=LABELS,
        calibration=calibration(weights, threshold),
        sampling=Sampling(n=1, temperature=0.01, max_tokens=40, seed=0),
        policy=POLICY,
        versions=Versions(policy=str(POLICY), classifier="c" * 12, calibrator="d" * 12),
    )
    return Pipeline(answering, in_flight=in_flight, observer=observer)
