"""Sources of label logprobs: what the policy, its votes, the verdict and the head say of a clip.

    answered clip (prompt, pixels, trace) -> source -> [L] logprobs, one per label; NaN: it says
    nothing

The same prompts and tokens as a fit asks with, so that its calibration holds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from calibrate.calibrator import log_shares
from rollout.engine import AnsweringEngine, Sampling
from rollout.label_codes import Code
from rollout.lora import Adapter
from rollout.prompt import VerdictPrompt
from rollout.prompt_inputs import PromptInputs
from video.processor import ProcessedClip
from wire.errors import GenerationError
from wire.labels import LabelSet
from wire.token_arrays import TokenIds
from wire.types import Completion, Failure, Prompt, Purpose, Sample, stable_seed

LabelLogprobs = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredClip:
    """A clip with the trace that the policy wrote about it."""

    sample: Sample
    clip: ProcessedClip
    prompt: Prompt
    """That asked for the trace."""
    trace: Completion


class SourceScores(NamedTuple):
    """What a source says of a clip."""

    logprobs: LabelLogprobs
    """[L] in the order of the label set; NaN where it can say nothing."""
    votes: dict[str, int] | None = None
    """Answers of sampled traces by label, where there are any."""


class LabelSource(Protocol):
    """A source of label logprobs."""

    async def ask(self, answered: AnsweredClip) -> SourceScores:
        """What it says of a clip. Raises GenerationError, DeadlineExceeded."""
        ...


class PolicySource:
    """The policy's own answer: each label in its answer block, after its own reasoning."""

    def __init__(self, engine: AnsweringEngine, inputs: PromptInputs, labels: LabelSet) -> None:
        self._engine, self._renderer, self._labels = engine, inputs.renderer, labels

    async def ask(self, answered: AnsweredClip) -> SourceScores:
        """Logprobs of the rest of the turn with each label; NaN without a think block."""
        names = self._labels.names
        turns = self._renderer.answer_turns(answered.trace.token_ids, self._labels)
        if turns is None:
            return SourceScores(np.full(len(names), math.nan))
        before, codes = turns
        ids = TokenIds((*answered.prompt.token_ids, *before))
        begun = replace(answered.prompt, token_ids=ids)
        ordered = [codes[name] for name in names]
        return SourceScores(
            np.array(await self._engine.label_logprobs(begun, answered.clip, ordered))
        )


class VerdictSource:
    """The verdict: label codes after a prompt with the video and the trace, under its weights."""

    def __init__(
        self,
        engine: AnsweringEngine,
        inputs: PromptInputs,
        codes: Sequence[Code],
        adapter: Adapter | None = None,
    ) -> None:
        """``codes``: of the labels, in their order; ``adapter``: the verdict's, where it is LoRA on
        the policy."""
        self._engine, self._inputs, self._codes = engine, inputs, codes
        self._adapter = adapter

    async def ask(self, answered: AnsweredClip) -> SourceScores:
        """Logprobs of the label codes. A trace that cannot be parsed is shown whole."""
        ask = VerdictPrompt(answered.trace.text)
        prompt = self._inputs.about(answered.sample, ask, answered.clip)
        if isinstance(prompt, Failure):
            raise GenerationError(f"no verdict can be asked for: {prompt.reason}")
        call = self._engine.label_logprobs(prompt, answered.clip, self._codes, self._adapter)
        return SourceScores(np.array(await call))


class VoteSource:
    """A vote: shares of k sampled traces, smoothed so that no label is impossible."""

    def __init__(
        self, engine: AnsweringEngine, inputs: PromptInputs, labels: LabelSet, sampling: Sampling
    ) -> None:
        """``sampling``: k as its ``n``; its seed is that of the classifier."""
        self._engine, self._renderer, self._labels = engine, inputs.renderer, labels
        self._sampling = sampling

    async def ask(self, answered: AnsweredClip) -> SourceScores:
        """log((votes + 1/L) / (k + 1)); a trace that answers no label is no vote."""
        # a clip's seed is that of its sampled traces in a fit
        seed = stable_seed(Purpose.CALIBRATION, self._sampling.seed, answered.sample.id)
        sampling = replace(self._sampling, seed=seed)
        generation = await self._engine.generate(answered.prompt, answered.clip, sampling)
        texts = [self._renderer.text(answer.token_ids) for answer in generation.answers]
        answers = [self._labels.answer_in(text) for text in texts]
        votes = {name: answers.count(name) for name in self._labels.names}
        return SourceScores(log_shares(answers, self._labels.names), votes)
