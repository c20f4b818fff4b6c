"""Verdict trainer and feature reader on a run's learner, for calibration and for control arms.

    examples -> RunVerdictTrainer -> label logprobs
    groups   -> RunFeatureReader  -> hidden states

calibrate/ states what it needs as Protocols and knows no engine; they are implemented here.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibrate.config import CalibrateConfig
from calibrate.verdict import VerdictExample
from cluster.driver.progress import console
from cluster.session import Session
from cluster.stages.label_codes import label_code_logprobs, label_code_targets
from cluster.stages.supervised import train_supervised
from learner.config import OptimConfig
from learner.shared_prefix.rows import Row, supervised_row
from wire.types import TraceGroup


class RunVerdictTrainer:
    """calibrate's VerdictTrainer on the run's learner, for a stage or arm of this name, starting
    from the weights in ``policy_dir``."""

    def __init__(self, session: Session, name: str, policy_dir: Path) -> None:
        self._session, self._name, self._policy_dir = session, name, policy_dir

    async def train(self, examples: Sequence[VerdictExample], config: CalibrateConfig) -> int:
        """Fine-tune on the label code alone (end of turn not included). Returns the number of
        updates."""
        optim = OptimConfig(
            learning_rate=config.learning_rate,
            warmup_frac=config.warmup_frac,
            decay="linear",
            weight_decay=0.0,
        )
        return await train_supervised(
            self._session,
            self._name,
            self._policy_dir,
            await label_code_targets(self._session, examples),
            epochs=config.epochs,
            batch_size=config.batch_size,
            optim=optim,
        )

    async def label_logprobs(self, examples: Sequence[VerdictExample]) -> NDArray[np.float64]:
        """[N, L]: logprob of each label's code under the learner's present weights."""
        return await label_code_logprobs(self._session, examples)


class RunFeatureReader:
    """calibrate's FeatureReader on the run's learner, with the policy's weights in
    ``policy_dir``."""

    def __init__(self, session: Session, policy_dir: Path) -> None:
        self._session, self._policy_dir = session, policy_dir
        self._has_policy = False

    async def features(self, groups: Sequence[TraceGroup]) -> NDArray[np.float32]:
        """[N, H]: hidden state after video and trace, one row per trace."""
        if not self._has_policy:
            await self._session.start_training(self._policy_dir, OptimConfig())
            self._has_policy = True
        rows = _trace_rows(groups)
        console.print(f"head: hidden states of {len(rows)} traces")
        return await self._session.learner.features(rows)


def _trace_rows(groups: Sequence[TraceGroup]) -> list[Row]:
    """One row per trace, in the order of ``training_rows``: video, trace prompt, trace."""
    return [
        supervised_row(group.prompt, group.sample.video, trace.completion.token_ids)
        for group in groups
        for trace in group.traces
        if group.prompt is not None
    ]
