"""Verdict trainer and trace writer on a run's engines and learner.

    samples  -> RunTraceWriter    -> TraceGroups -> VerdictExamples
    examples -> RunVerdictTrainer -> predictions

calibrate/ states what it needs as Protocols and knows no engine; they are implemented here, for the
calibration stage and for the control arms that train another verdict.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibrate.config import CalibrateConfig
from calibrate.predictions import Prediction, from_probabilities
from calibrate.verdict import VerdictExample, probabilities_from_logprobs
from cluster.session import Session
from cluster.stages.supervised import train_supervised
from learner.config import OptimConfig
from learner.shared_prefix.rows import Response, Row, supervised_row
from wire.errors import DataError
from wire.types import Failure, Prompt, Sample


class RunVerdictTrainer:
    """calibrate's VerdictTrainer on the run's learner, for a stage or arm of this name, starting
    from the weights in ``policy_dir``."""

    def __init__(self, session: Session, name: str, policy_dir: Path) -> None:
        self._session, self._name, self._policy_dir = session, name, policy_dir
        self._codes = session.renderer.label_codes(session.config.label_set)

    async def train(self, examples: Sequence[VerdictExample], config: CalibrateConfig) -> int:
        """Fine-tune on the label code alone (end of turn not included). Returns the number of
        updates."""
        rows = [
            supervised_row(prompt, example.sample.video, self._codes[example.label])
            for example, prompt in await _prompts(self._session, examples)
        ]
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
            rows,
            epochs=config.epochs,
            batch_size=config.batch_size,
            optim=optim,
        )

    async def label_logprobs(self, examples: Sequence[VerdictExample]) -> NDArray[np.float64]:
        """[N, L]: logprob of each label's code under the learner's present weights."""
        asked = await _prompts(self._session, examples)
        rows = [
            label_code_row(prompt, example.sample.video, list(self._codes.values()))
            for example, prompt in asked
        ]
        return await code_logprobs(self._session, rows)

    async def predict(
        self, examples: Sequence[VerdictExample], samples: Sequence[Sample]
    ) -> list[Prediction]:
        """Predict the labels of ``samples``; a sample without an example counts as wrong."""
        probabilities = probabilities_from_logprobs(await self.label_logprobs(examples))
        return label_predictions(self._session, examples, probabilities, samples)


def label_code_row(prompt: Prompt, video: str, codes: Sequence[tuple[int, ...]]) -> Row:
    """A row of all label codes as responses to one prompt, to compute their logprobs."""
    return Row(
        prompt=prompt, video=video, responses=tuple(Response(token_ids=code) for code in codes)
    )


async def code_logprobs(session: Session, rows: Sequence[Row]) -> NDArray[np.float64]:
    """[N, L]: logprob of each response of each row, summed over its tokens."""
    logprobs = await session.learner.logprobs(rows)
    return np.array([[sum(tokens) for tokens in row] for row in logprobs])


def label_predictions(
    session: Session,
    asked: Sequence[VerdictExample],
    probabilities: NDArray[np.float64],
    samples: Sequence[Sample],
) -> list[Prediction]:
    """Predictions for all samples, from the probabilities [N, L] of the examples ``asked``; a
    sample without an example counts as wrong."""
    given = from_probabilities(
        [example.sample.id for example in asked],
        [example.label for example in asked],
        probabilities,
        session.config.label_set.names,
        [example.trace for example in asked],
    )
    by_id = {prediction.sample_id: prediction for prediction in given}
    return [by_id.get(sample.id) or no_prediction(sample) for sample in samples]


def no_prediction(sample: Sample) -> Prediction:
    """Prediction of a sample without an example: no label, which counts as wrong."""
    return Prediction(
        sample_id=sample.id,
        label=sample.label,
        predicted=None,
        confidence=0.0,
        probabilities=None,
        trace=None,
    )


async def _prompts(
    session: Session, examples: Sequence[VerdictExample]
) -> list[tuple[VerdictExample, Prompt]]:
    """Each example's prompt. Raises DataError if a clip can no longer be read."""
    pairs = []
    for start in range(0, len(examples), 256):  # bounded, so that calls do not pile up
        part = examples[start : start + 256]
        pairs += list(zip(part, await _ask(session, part), strict=True))
    bad = next((p for _, p in pairs if isinstance(p, Failure)), None)
    if bad is not None:
        raise DataError(f"no label can be asked for {bad.culprit}: {bad.reason}")
    return [(example, prompt) for example, prompt in pairs if isinstance(prompt, Prompt)]


async def _ask(session: Session, examples: Sequence[VerdictExample]) -> list[Prompt | Failure]:
    """Render the prompts: for a verdict on each trace, or for the label where examples have
    none."""
    traces = [(e.sample, e.trace) for e in examples if e.trace is not None]
    assert len(traces) in (0, len(examples)), "examples with and without trace in one training"
    if traces:
        return await session.verdict_prompts(traces)
    return await session.label_prompts([example.sample for example in examples])
