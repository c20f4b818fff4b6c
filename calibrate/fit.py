"""Fitting of the classifiers: the order of calibration's work, for a run and for a service.

    samples   -> TraceWriter, k traces each, kept right or wrong -> VerdictTrainer -> verdict
                                                                 -> FeatureReader  -> head
    evaluated -> TraceWriter, one trace each -> both classifiers -> predictions

DeepIntuit's intuition calibration: a classifier is trained on the traces of the policy that it will
read in use, and on no other's. Knows no engine: they are behind ``calibrate/protocols.py``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from calibrate import head as linear_head
from calibrate.config import CalibrateConfig
from calibrate.head import Head
from calibrate.predictions import Prediction
from calibrate.protocols import FeatureReader, TraceWriter, VerdictTrainer
from calibrate.traces import TraceSet
from calibrate.verdict import (
    TraceReport,
    label_predictions,
    probabilities_from_logprobs,
    refuse_foreign_traces,
    report_traces,
    training_rows,
)
from wire.daemon_thread import run_in_daemon_thread
from wire.labels import LabelSet
from wire.types import PolicyVersion, Purpose, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedHead:
    """A head, and its predictions of the evaluated samples."""

    head: Head
    predictions: Iterator[Prediction]
    """To be taken once: traces are read as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationResult:
    """Classifiers fitted to a policy's traces, and the traces they were fitted to and measured by.

    The verdict's weights are with the VerdictTrainer.
    """

    report: TraceReport
    """Quality of the traces that the classifiers learned from."""
    evaluated: TraceSet
    """The traces that they were measured by, one group per evaluated sample."""
    head: FittedHead | None
    """None: not among the methods."""
    verdict: Iterator[Prediction] | None
    """The verdict's predictions of the evaluated samples, to be taken once; None: not among the
    methods."""


async def fit_classifiers(
    samples: Sequence[Sample],
    evaluated: Sequence[Sample],
    *,
    config: CalibrateConfig,
    labels: LabelSet,
    policy: PolicyVersion,
    writer: TraceWriter,
    verdict: VerdictTrainer | None,
    features: FeatureReader,
) -> CalibrationResult:
    """Write traces of ``samples``, fit the methods of ``config`` to them, and predict ``evaluated``
    from one trace each.

    ``policy``: the version that is served, whose weights must have written every trace;
    ``verdict``: None where it is not among the methods. Raises DataError for traces of another
    policy, or without a trace to learn from; TooManyFailures.
    """
    written = await writer.write(
        samples, config.num_traces, config.temperature, Purpose.CALIBRATION
    )
    refuse_foreign_traces(written, policy, writer.weights)
    groups = await writer.write_evaluation(evaluated)
    head = None
    if "head" in config.methods:
        head = await _fit_head(written, groups, labels, features)
    predictions = None
    if "verdict" in config.methods:
        assert verdict is not None, "the verdict is among the methods"
        await verdict.train(training_rows(written, labels.names), config)
        predictions = await ask_verdict(verdict, groups, labels)
    return CalibrationResult(
        report=report_traces(written),
        evaluated=groups,
        head=head,
        verdict=predictions,
    )


async def ask_verdict(
    verdict: VerdictTrainer, traces: TraceSet, labels: LabelSet
) -> Iterator[Prediction]:
    """The verdict's prediction for each group's sample, from its trace; a group without a trace
    counts as wrong."""
    asked = training_rows(traces, labels.names)
    probabilities = probabilities_from_logprobs(await verdict.label_logprobs(asked))
    return label_predictions(traces.samples, asked, probabilities, labels.names)


async def _fit_head(
    written: TraceSet, evaluated: TraceSet, labels: LabelSet, features: FeatureReader
) -> FittedHead:
    """A linear classifier over the policy's hidden state after video and trace."""
    learned, asked = training_rows(written, labels.names), training_rows(evaluated, labels.names)
    head = await run_in_daemon_thread(
        linear_head.fit,
        await features.features(written),
        [sample.label for sample in learned.samples],
        labels.names,
        [sample.id for sample in learned.samples],
    )
    read = await features.features(evaluated)
    probabilities = await run_in_daemon_thread(head.probabilities, read)
    predictions = label_predictions(evaluated.samples, asked, probabilities, labels.names)
    return FittedHead(head=head, predictions=predictions)
