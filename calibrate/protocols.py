"""Protocols of calibration: what it needs of an engine that writes, and of a learner that trains.

    TraceWriter      samples  -> TraceSet        (rollout engines behind it)
    PolicyScorer     traces   -> label logprobs  (the learner behind it, with the policy's weights)
    VerdictTrainer   examples -> label logprobs  (the learner's SFT behind it)
    FeatureReader    traces   -> hidden states   (the learner behind it)

``calibrate/fit.py`` calls them in their order. A run hands in its engines
(``cluster/stages/calibration.py``), a service its own.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from calibrate.config import CalibrateConfig
from calibrate.traces import TraceSet, VerdictExamples
from wire.types import PolicyVersion, Purpose, Sample


class TraceWriter(Protocol):
    """Writes traces under the policy being served; the rollout engine is behind it."""

    @property
    def weights(self) -> Container[PolicyVersion]:
        """Versions that name the policy's weights: traces that it wrote before count as its own."""
        ...

    async def write(
        self, samples: Sequence[Sample], k: int, temperature: float, purpose: Purpose
    ) -> TraceSet:
        """One group of ``k`` traces per sample, in their order; a failed clip's group says why.

        Raises TooManyFailures if more failed than the run allows.
        """
        ...

    async def write_evaluation(self, samples: Sequence[Sample]) -> TraceSet:
        """One near-greedy trace per sample, in their order, as the policy answers in use."""
        ...


class PolicyScorer(Protocol):
    """Scores every label as the policy's own answer; the learner is behind it."""

    async def label_logprobs(self, traces: TraceSet) -> NDArray[np.float64]:
        """[G, L]: logprob of each label after the reasoning of each group's first trace; NaN where
        there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationCurve:
    """Validations of a verdict while it trained.

    Example:
        ValidationCurve(measure="nll", steps=(0, 25, 50), values=(1.2, 0.7, 0.6))
    """

    measure: str
    steps: tuple[int, ...]
    """Updates before each."""
    values: tuple[float, ...]


class VerdictTrainer(Protocol):
    """Fine-tunes a copy of the policy to emit labels; the learner's SFT is behind it."""

    @property
    def curve(self) -> ValidationCurve | None:
        """Its validations, after the training; None: it was not validated."""
        ...

    async def train(self, examples: VerdictExamples, config: CalibrateConfig) -> int:
        """Start from the policy's weights; one supervised token per example. Returns the number of
        updates."""
        ...

    async def label_logprobs(self, examples: VerdictExamples) -> NDArray[np.float64]:
        """[N, L]: logprob of each label's code after each prompt; ``example.label`` is not read."""
        ...


class FeatureReader(Protocol):
    """Reads the policy's hidden states; the learner is behind it."""

    async def features(self, traces: TraceSet) -> NDArray[np.float32]:
        """[N, H]: hidden state after video and trace, or after the video alone
        (``head_features``), one row per trace in the groups' order, as
        ``training_rows`` lists them."""
        ...
