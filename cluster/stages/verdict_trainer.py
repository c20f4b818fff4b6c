"""Verdict trainer and feature reader on a run's learner, for calibration and for control arms.

    examples -> RunVerdictTrainer -> label logprobs
    groups   -> RunFeatureReader  -> hidden states

calibrate/ states what it needs as Protocols and knows no engine; they are implemented here.
"""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from calibrate.config import CalibrateConfig
from calibrate.traces import TraceSet, VerdictExamples
from cluster.config.trainings import verdict_optim
from cluster.config.validation import ValidateConfig
from cluster.driver.progress import console
from cluster.session import Session
from cluster.stages.label_codes import LabelCodes
from cluster.stages.supervised import SupervisedTrainer
from cluster.stages.validation import Validator
from learner.config import LoraConfig, OptimConfig
from learner.shared_prefix.rows import Row, supervised_row
from wire.types import TraceGroup


class FeatureLearner(Protocol):
    """Computes hidden states; cluster/actors/learner_group.py implements it."""

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
    ) -> None:
        """``policy_dir``: the weights that training starts from; ``spill``: folder for rows;
        ``lora``: of the verdict alone."""
        self._codes, self._trainer, self._policy_dir = codes, trainer, policy_dir
        self._spill, self._lora = spill, lora

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
        return cls(LabelCodes.of(session), trainer, policy_dir, session.run_dir.path, lora)

    @property
    def validated(self) -> dict[str, Any]:
        """What done.json says of the validations, after the training."""
        return self._trainer.validated

    async def train(self, examples: VerdictExamples, config: CalibrateConfig) -> int:
        """Fine-tune on the label codes alone. Returns the number of updates."""
        with await self._codes.targets(examples, self._spill) as rows:
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
        return await self._codes.logprobs(examples)


class RunFeatureReader:
    """calibrate's FeatureReader on a learner, which loads the policy's weights first."""

    def __init__(
        self, learner: FeatureLearner, load_policy: Callable[[], Awaitable[None]], spill: Path
    ) -> None:
        """``spill``: folder for hidden states, which lie on disk."""
        self._learner, self._load_policy, self._spill = learner, load_policy, spill
        self._has_policy = False

    @classmethod
    def of(cls, session: Session, policy_dir: Path) -> Self:
        """With the learner of a run, and the weights in ``policy_dir``."""
        load = partial(session.start_training, policy_dir, OptimConfig())
        return cls(session.learner, load, session.run_dir.path)

    async def features(self, traces: TraceSet) -> NDArray[np.float32]:
        """[N, H]: hidden state after video and trace, one row per trace; mapped from a file."""
        if not self._has_policy:
            await self._load_policy()
            self._has_policy = True
        console.print(f"head: hidden states of {traces.num_traces} traces")
        # without a name: it is gone with the array, or with the process
        with tempfile.TemporaryFile(dir=self._spill, prefix="features-") as file:
            width = 0
            async for block in self._learner.feature_blocks(_trace_rows(traces.groups)):
                file.write(np.ascontiguousarray(block, np.float32).tobytes())
                width = block.shape[1]
            file.flush()
            return np.memmap(file, np.float32, "r", shape=(traces.num_traces, width))


def _trace_rows(groups: Sequence[TraceGroup]) -> Iterator[Row]:
    """One row per trace, in the order of ``training_rows``: video, trace prompt, trace."""
    return (
        supervised_row(group.prompt, group.sample.video, trace.completion.token_ids)
        for group in groups
        for trace in group.traces
        if group.prompt is not None
    )
