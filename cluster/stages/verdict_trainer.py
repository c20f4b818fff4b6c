"""Verdict trainer and reader of the policy on a learner, for calibration and for control arms.

    examples -> RunVerdictTrainer -> label logprobs
    groups   -> RunPolicyReader   -> label logprobs of the policy's own answer, hidden states: after
                                     the trace, or after the label prompt

calibrate/ states what it needs as Protocols and knows no engine; they are implemented here.
"""

import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from calibrate.config import CalibrateConfig, HeadFeatures
from calibrate.protocols import ValidationCurve
from calibrate.traces import TraceSet, VerdictExamples
from cluster.config.trainings import verdict_optim
from cluster.config.validation import ValidateConfig
from cluster.driver.progress import console
from cluster.metrics.inference_cost import InferenceCost, TokenCount
from cluster.session import Session
from cluster.stages.label_codes import (
    LabelCodes,
    LabelPrompts,
    ScoringLearner,
    code_logprobs,
    label_code_row,
)
from cluster.stages.spilled_rows import SpilledRows
from cluster.stages.supervised import SupervisedTrainer
from cluster.stages.validation import Validator
from learner.config import LoraConfig, OptimConfig
from learner.shared_prefix.rows import Row, prompt_end_row, supervised_row
from rollout.render import Renderer
from wire.daemon_thread import run_in_daemon_thread
from wire.errors import DataError
from wire.labels import LabelSet
from wire.types import Failure, Prompt, TraceGroup

_ROWS_AT_ONCE = 1024  # of a call to the learner


class ReadingLearner(ScoringLearner, Protocol):
    """Computes logprobs and hidden states; cluster/actors/learner_group.py implements it."""

    def feature_blocks(self, rows: Iterable[Row]) -> AsyncIterator[NDArray[np.float32]]:
        """Hidden state at each row's last token, [n, H] at a time, in the order of ``rows``."""
        ...


class RunVerdictTrainer:
    """calibrate's VerdictTrainer on a learner: fine-tunes the policy on label codes."""

    def __init__(
        self,
        codes: LabelCodes,
        trainer: SupervisedTrainer,
        policy_dir: Path,
        spill: Path,
        lora: LoraConfig | None = None,
        around_clip: Callable[[Prompt], Sequence[int]] | None = None,
    ) -> None:
        """``policy_dir``: the weights that training starts from; ``spill``: folder for rows;
        ``lora``: of the verdict alone; ``around_clip``: a prompt's tokens but for its clip, where
        the cost of an answer is to be known."""
        self._codes, self._trainer, self._policy_dir = codes, trainer, policy_dir
        self._spill, self._lora, self._around_clip = spill, lora, around_clip
        self.asked: InferenceCost | None = None
        """Cost per clip of the last ``label_logprobs``, without the traces that it reads."""

    @classmethod
    def of(
        cls,
        session: Session,
        name: str,
        policy_dir: Path,
        validate: ValidateConfig | None = None,
        validator: Validator | None = None,
        lora: LoraConfig | None = None,
    ) -> Self:
        """With the learner of a run, for a stage or arm of this name, from the weights in
        ``policy_dir``."""
        trainer = SupervisedTrainer.of(session, name, validate, validator)
        codes, folder = LabelCodes.of(session), session.run_dir.path
        return cls(codes, trainer, policy_dir, folder, lora, session.renderer.around_clip)

    @property
    def validated(self) -> dict[str, Any]:
        """What done.json says of the validations, after the training."""
        return self._trainer.validated

    @property
    def curve(self) -> ValidationCurve | None:
        """Its validations, by the metric that the best weights are chosen by."""
        return self._trainer.curve

    async def train(self, examples: VerdictExamples, config: CalibrateConfig) -> int:
        """Fine-tune on the label codes alone. Returns the number of updates."""
        weights = label_weights(examples) if config.class_weights == "balanced" else {}
        with await self._codes.targets(examples, self._spill, weights) as rows:
            return await self._trainer.train(
                self._policy_dir,
                rows,
                epochs=config.epochs,
                batch_size=config.batch_size,
                optim=verdict_optim(config),
                lora=self._lora,
            )

    async def label_logprobs(self, examples: VerdictExamples) -> NDArray[np.float64]:
        """[N, L]: logprob of each label's code under the learner's present weights."""
        if self._around_clip is None:
            return await self._codes.logprobs(examples)
        count, begun = TokenCount(self._around_clip), time.monotonic()
        logprobs = await self._codes.logprobs(examples, count)
        self.asked = count.cost(len(examples), time.monotonic() - begun)
        return logprobs


def label_weights(examples: VerdictExamples) -> dict[str, float]:
    """Weight of each label in the loss: all labels weigh the same, and the mean example 1."""
    counts = Counter(sample.label for sample in examples.samples)
    return {label: len(examples) / (len(counts) * count) for label, count in counts.items()}


class RunPolicyReader:
    """calibrate's PolicyScorer and FeatureReader on a learner, which loads the policy's weights
    first."""

    def __init__(
        self,
        learner: ReadingLearner,
        load_policy: Callable[[], Awaitable[None]],
        renderer: Renderer,
        labels: LabelSet,
        spill: Path,
        prompts: LabelPrompts | None = None,
    ) -> None:
        """``spill``: folder for hidden states, which lie on disk; ``prompts``: those of a head that
        reads the video alone; None: it reads traces."""
        self._learner, self._load_policy, self._spill = learner, load_policy, spill
        self._prompts = prompts
        self._renderer, self._labels = renderer, labels
        self._has_policy = False

    @classmethod
    def of(cls, session: Session, policy_dir: Path, features: HeadFeatures = "trace") -> Self:
        """With the learner of a run, and the weights in ``policy_dir``; ``features``: what its
        hidden states are of."""
        load = partial(session.start_training, policy_dir, OptimConfig())
        return cls(
            session.learner,
            load,
            session.renderer,
            session.config.label_set,
            session.run_dir.path,
            session if features == "video" else None,
        )

    async def label_logprobs(self, traces: TraceSet) -> NDArray[np.float64]:
        """[G, L]: logprob of each label as the answer after the reasoning of each group's first
        trace, in one pass for all labels; NaN without reasoning."""
        every = np.full((len(traces), len(self._labels.names)), np.nan)
        blocks = self._answer_rows(traces)
        while block := await run_in_daemon_thread(next, blocks, None):
            await self._ensure_policy()
            scores = await code_logprobs(self._learner, [row for _, row in block])
            every[[place for place, _ in block]] = scores
        return every

    def _answer_rows(self, traces: TraceSet) -> Iterator[list[tuple[int, Row]]]:
        """Blocks of rows of all answers, each with its group's place."""
        rows = self._rows_of_answers(traces)
        while block := list(islice(rows, _ROWS_AT_ONCE)):
            yield block

    def _rows_of_answers(self, traces: TraceSet) -> Iterator[tuple[int, Row]]:
        for place, facts in enumerate(traces.facts):
            if not facts.answers:
                continue
            group = traces.groups[place]
            token_ids = group.traces[0].completion.token_ids
            turns = self._renderer.answer_turns(token_ids, self._labels)
            assert group.prompt is not None, "a trace answers a prompt"
            if turns is not None:
                before, codes = turns
                # the reasoning joins the prompt, so that it is computed once for all labels
                prompt = replace(group.prompt, token_ids=group.prompt.token_ids + before)
                yield place, label_code_row(prompt, group.sample.video, list(codes.values()))

    async def _ensure_policy(self) -> None:
        if not self._has_policy:
            await self._load_policy()
            self._has_policy = True

    async def features(self, traces: TraceSet) -> NDArray[np.float32]:
        """[N, H], one row per trace: hidden state after video and trace, or after video and label
        prompt, read once for all traces of a clip; mapped from a file."""
        await self._ensure_policy()
        if self._prompts is not None:
            return await self._features_of_videos(traces, self._prompts)
        console.print(f"head: hidden states of {traces.num_traces} traces")
        return await self._read(_trace_rows(traces.groups), [1] * traces.num_traces)

    async def _features_of_videos(
        self, traces: TraceSet, prompts: LabelPrompts
    ) -> NDArray[np.float32]:
        counts = [len(facts.answers) for facts in traces.facts]
        samples = [s for s, count in zip(traces.samples, counts, strict=True) if count]
        console.print(f"head: hidden states of {len(samples)} clips")
        with SpilledRows(self._spill) as rows:
            for start in range(0, len(samples), _ROWS_AT_ONCE):
                block = samples[start : start + _ROWS_AT_ONCE]
                asked = await prompts.label_prompts(block)
                for sample, prompt in zip(block, asked, strict=True):
                    if isinstance(prompt, Failure):
                        raise DataError(f"no label can be asked for {sample.id}: {prompt.reason}")
                    rows.append(prompt_end_row(prompt, sample.video))
            return await self._read(iter(rows), [count for count in counts if count])

    async def _read(self, rows: Iterable[Row], counts: Sequence[int]) -> NDArray[np.float32]:
        """Hidden states of rows, each as often as its count says; mapped from a file."""
        # without a name: it is gone with the array, or with the process
        with tempfile.TemporaryFile(dir=self._spill, prefix="features-") as file:
            width = at = 0
            async for block in self._learner.feature_blocks(rows):
                every = np.repeat(block, counts[at : at + len(block)], axis=0)
                file.write(np.ascontiguousarray(every, np.float32).tobytes())
                at, width = at + len(block), block.shape[1]
            file.flush()
            return np.memmap(file, np.float32, "r", shape=(sum(counts), width))


def _trace_rows(groups: Sequence[TraceGroup]) -> Iterator[Row]:
    """One row per trace, in the order of ``training_rows``: video, trace prompt, trace."""
    return (
        supervised_row(group.prompt, group.sample.video, trace.completion.token_ids)
        for group in groups
        for trace in group.traces
        if group.prompt is not None
    )
