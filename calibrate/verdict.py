"""The *verdict* classifier's data: traces of the refined policy -> examples; answers -> a report.

    clips -> TraceWriter -> TraceGroups -> VerdictExamples -> VerdictTrainer -> logprobs ->
    Predictions

The VLM reads video + one of its own traces and emits one label. It is trained on *all* its traces,
right or wrong, so that it meets in training what it will meet in use (DeepIntuit, stage 2). The
order of the work is in ``calibrate/fit.py``, the prompt's text in ``rollout/prompt.py``.
"""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from calibrate.predictions import Prediction, from_probabilities
from calibrate.traces import TraceSet, VerdictExamples
from wire.errors import DataError
from wire.labels import LabelSet
from wire.types import PolicyVersion, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceReport:
    """Quality of the traces themselves. Shares count traces, not clips."""

    num_clips: int
    num_clips_without_traces: int
    num_traces: int
    num_unparsed: int
    """Traces without a think block or without an answer that is a label."""
    accuracy: float
    """Share of traces whose answer is the true label; an unparsable one is wrong."""
    accuracy_per_label: dict[str, float]
    """Labels without traces are left out."""


def refuse_foreign_traces(
    traces: TraceSet, expected: PolicyVersion, same: Container[PolicyVersion] = ()
) -> None:
    """Raise DataError if any trace was written by another policy than ``expected``; ``same``:
    further versions that name the same weights.

    A verdict trained on another policy's traces meets others in use: the mismatch the method
    removes.
    """
    foreign = Counter(
        version
        for facts in traces.facts
        for version in facts.versions
        if version != expected and version not in same
    )
    if foreign:
        named = ", ".join(
            f"{version} ({count} clips)" for version, count in sorted(foreign.items())
        )
        raise DataError(
            f"the archive has traces of policy {named}, expected {expected}, the one being served; "
            "write the calibration traces anew under it, or serve the policy that wrote them"
        )


def training_rows(traces: TraceSet, label_names: Sequence[str]) -> VerdictExamples:
    """One example per trace in the groups' order: right, wrong, malformed or unscored, none is
    dropped.

    Raises DataError if a clip's label is not in ``label_names``, or if there is no trace at all.
    """
    check_labels(traces.samples, label_names)
    refuse_no_traces(traces)
    return traces.examples()


def check_labels(samples: Iterable[Sample], label_names: Sequence[str]) -> None:
    """Raise DataError if a clip's label is not in ``label_names``."""
    for sample in samples:
        if sample.label not in label_names:
            raise DataError(
                f"sample {sample.id} has label {sample.label!r}, "
                f"expected one of {list(label_names)}"
            )


def label_predictions(
    samples: Sequence[Sample],
    asked: VerdictExamples,
    probabilities: NDArray[np.float64],
    label_names: Sequence[str],
) -> Iterator[Prediction]:
    """Predictions for all ``samples``, from the probabilities [N, L] of the examples ``asked``; a
    sample without an example counts as wrong. The text of a trace is read as its prediction is
    made."""
    places = {sample.id: place for place, sample in enumerate(asked.samples)}
    if len(probabilities) != len(asked):
        raise ValueError(f"{len(probabilities)} rows of probabilities, {len(asked)} examples")
    return (
        no_prediction(sample)
        if (place := places.get(sample.id)) is None
        else from_probabilities(
            [sample.id],
            [asked.samples[place].label],
            probabilities[place : place + 1],
            label_names,
            [asked[place].trace],
        )[0]
        for sample in samples
    )


def first_answers(traces: TraceSet) -> list[Prediction]:
    """What the first trace of each group answers, without a confidence; one that answers no label
    counts as wrong."""
    return [
        replace(no_prediction(facts.sample), predicted=next(iter(facts.answers), None))
        for facts in traces.facts
    ]


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


def report_traces(traces: TraceSet) -> TraceReport:
    """Accuracy and parse failures of the traces. Raises DataError if there is no trace."""
    refuse_no_traces(traces)
    right: dict[str, list[bool]] = {}
    for facts in traces.facts:
        if facts.answers:
            label = facts.sample.label
            right.setdefault(label, []).extend(answer == label for answer in facts.answers)
    return TraceReport(
        num_clips=len(traces),
        num_clips_without_traces=traces.num_failed,
        num_traces=traces.num_traces,
        num_unparsed=traces.num_traces - sum(facts.num_parsed for facts in traces.facts),
        accuracy=sum(map(sum, right.values())) / traces.num_traces,
        accuracy_per_label={label: sum(of) / len(of) for label, of in sorted(right.items())},
    )


def probabilities_from_logprobs(logprobs: ArrayLike) -> NDArray[np.float64]:
    """[N, L] logprobs or logits of the label codes -> probabilities over labels only; rows sum to
    1.

    Softmax restricted to the label tokens (seeds.md 1.8). Raises DataError on NaN, plus infinity,
    or a row in which every label is impossible.
    """
    rows = np.asarray(logprobs, dtype=np.float64)
    if rows.ndim != 2:
        raise DataError(f"logprobs have shape {list(rows.shape)}, expected [N, L]")
    if not (rows < np.inf).all() or not np.isfinite(rows).any(axis=1).all():
        raise DataError(
            "logprobs of labels are NaN or infinite; the engine must return every label's"
        )
    return np.asarray(softmax(rows, axis=1), dtype=np.float64)


def trace_agreement(predictions: Iterable[Prediction], labels: LabelSet) -> float | None:
    """Share of predictions that repeat the answer of the trace they were shown.

    A trace without an answer agrees with nothing. None if no prediction was shown a trace.
    """
    count = AgreementCount(labels)
    for prediction in predictions:
        count.add(prediction)
    return count.share


class AgreementCount:
    """Counts :func:`trace_agreement`, one prediction after another."""

    def __init__(self, labels: LabelSet) -> None:
        self._labels, self._num_shown, self._num_equal = labels, 0, 0

    def add(self, prediction: Prediction) -> None:
        """Count a prediction."""
        if prediction.trace is not None:
            answer = self._labels.answer_in(prediction.trace)
            self._num_shown += 1
            self._num_equal += answer is not None and prediction.predicted == answer

    @property
    def share(self) -> float | None:
        """The share so far."""
        return self._num_equal / self._num_shown if self._num_shown else None


def refuse_no_traces(traces: TraceSet) -> None:
    """Raise DataError if there is no trace."""
    if not traces.num_traces:
        raise DataError(
            f"none of {len(traces)} clips has a trace; see the failures of their groups"
        )
