"""Verdict trainer and feature reader on a run's learner, for calibration and for control arms.

    examples -> RunVerdictTrainer -> label logprobs
    groups   -> RunFeatureReader  -> hidden states

calibrate/ states what it needs as Protocols and knows no engine; they are implemented here.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from calibrate.config import CalibrateConfig
from calibrate.verdict import VerdictExample
from cluster.config.trainings import verdict_optim
from cluster.config.validation import ValidateConfig
from cluster.driver.progress import console
from cluster.session import Session
from cluster.stages.label_codes import LabelCodes
from cluster.stages.supervised import SupervisedTrainer
from cluster.stages.validation import Validator
from learner.config import OptimConfig
from learner.shared_prefix.rows import Row, supervised_row
from wire.types import TraceGroup


class FeatureLearner(Protocol):
    """Computes hidden states; cluster/actors/learner_group.py implements it."""

    async def features(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """[N, H]: hidden state at each row's last token."""
        ...


class RunVerdictTrainer:
    """calibrate's VerdictTrainer on a learner: fine-tunes the policy on label codes."""

    def __init__(self, codes: LabelCodes, trainer: SupervisedTrainer, policy_dir: Path) -> None:
        """``policy_dir``: the weights that training starts from."""
        self._codes, self._trainer, self._policy_dir = codes, trainer, policy_dir

    @classmethod
    def of(
        cls,
        session: Session,
        name: str,
        policy_dir: Path,
        validate: ValidateConfig | None = None,
        validator: Validator | None = None,
    ) -> Self:
        """With the learner of a run, for a stage or arm of this name, from the weights in
        ``policy_dir``."""
        trainer = SupervisedTrainer.of(session, name, validate, validator)
        return cls(LabelCodes.of(session), trainer, policy_dir)

    @property
    def validated(self) -> dict[str, Any]:
        """What done.json says of the validations, after the training."""
        return self._trainer.validated

    async def train(self, examples: Sequence[VerdictExample], config: CalibrateConfig) -> int:
        """Fine-tune on the label codes alone. Returns the number of updates."""
        return await self._trainer.train(
            self._policy_dir,
            await self._codes.targets(examples),
            epochs=config.epochs,
            batch_size=config.batch_size,
            optim=verdict_optim(config),
        )

    async def label_logprobs(self, examples: Sequence[VerdictExample]) -> NDArray[np.float64]:
        """[N, L]: logprob of each label's code under the learner's present weights."""
        return await self._codes.logprobs(examples)


class RunFeatureReader:
    """calibrate's FeatureReader on a learner, which loads the policy's weights first."""

    def __init__(self, learner: FeatureLearner, load_policy: Callable[[], Awaitable[None]]) -> None:
        self._learner, self._load_policy = learner, load_policy
        self._has_policy = False

    @classmethod
    def of(cls, session: Session, policy_dir: Path) -> Self:
        """With the learner of a run, and the weights in ``policy_dir``."""
        load = partial(session.start_training, policy_dir, OptimConfig())
        return cls(session.learner, load)

    async def features(self, groups: Sequence[TraceGroup]) -> NDArray[np.float32]:
        """[N, H]: hidden state after video and trace, one row per trace."""
        if not self._has_policy:
            await self._load_policy()
            self._has_policy = True
        rows = _trace_rows(groups)
        console.print(f"head: hidden states of {len(rows)} traces")
        return await self._learner.features(rows)


def _trace_rows(groups: Sequence[TraceGroup]) -> list[Row]:
    """One row per trace, in the order of ``training_rows``: video, trace prompt, trace."""
    return [
        supervised_row(group.prompt, group.sample.video, trace.completion.token_ids)
        for group in groups
        for trace in group.traces
        if group.prompt is not None
    ]
