"""The *verdict* classifier's data: traces of the refined policy -> examples; answers -> a report.

    clips -> TraceWriter -> TraceGroups -> VerdictExamples -> VerdictTrainer -> logprobs ->
    Predictions

The VLM reads video + one of its own traces and emits one label. It is trained on *all* its traces,
right or wrong, so that it meets in training what it will meet in use (DeepIntuit, stage 2). The
order of the work is in ``calibrate/fit.py``, the prompt's text in ``rollout/prompt.py``.
"""

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from calibrate.predictions import Prediction, from_probabilities
from wire.errors import DataError
from wire.labels import LabelSet, reasoning_in
from wire.types import PolicyVersion, Sample, TraceGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictExample:
    """One trace, and the label that the verdict should give on reading it; or the video alone, for
    the control that classifies without a trace.

    Example:
        VerdictExample(sample=sample, trace="<think>...</think><answer>normal</answer>",
        label="abnormal")
    """

    sample: Sample
    trace: str | None
    """The trace as the policy wrote it, whole; it may be wrong or malformed. None: the video
    alone."""
    label: str
    """The clip's true label."""


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
    groups: Sequence[TraceGroup], expected: PolicyVersion, same: Container[PolicyVersion] = ()
) -> None:
    """Raise DataError if any trace was written by another policy than ``expected``; ``same``:
    further versions that name the same weights.

    A verdict trained on another policy's traces meets others in use: the mismatch the method
    removes.
    """
    foreign = Counter(
        version
        for group in groups
        for version in _versions(group)
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


def training_rows(groups: Sequence[TraceGroup], label_names: Sequence[str]) -> list[VerdictExample]:
    """One example per trace in the groups' order: right, wrong, malformed or unscored, none is
    dropped.

    Raises DataError if a clip's label is not in ``label_names``, or if there is no trace at all.
    """
    for group in groups:
        if group.sample.label not in label_names:
            raise DataError(
                f"sample {group.sample.id} has label {group.sample.label!r}, "
                f"expected one of {list(label_names)}"
            )
    examples = [
        VerdictExample(sample=sample, trace=text, label=sample.label)
        for sample, text in _traces(groups)
    ]
    if not examples:
        raise DataError(
            f"none of {len(groups)} clips has a trace; see the failures of their groups"
        )
    return examples


def label_predictions(
    samples: Sequence[Sample],
    asked: Sequence[VerdictExample],
    probabilities: NDArray[np.float64],
    label_names: Sequence[str],
) -> list[Prediction]:
    """Predictions for all ``samples``, from the probabilities [N, L] of the examples ``asked``; a
    sample without an example counts as wrong."""
    given = from_probabilities(
        [example.sample.id for example in asked],
        [example.label for example in asked],
        probabilities,
        label_names,
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


def is_parsed(trace: str, labels: LabelSet) -> bool:
    """Whether the verdict prompt can show reasoning and conclusion (``rollout/prompt.py``)."""
    return labels.answer_in(trace) is not None and reasoning_in(trace) is not None


def report_traces(groups: Sequence[TraceGroup], labels: LabelSet) -> TraceReport:
    """Accuracy and parse failures of the traces. Raises DataError if there is no trace."""
    right: dict[str, list[bool]] = {}
    for sample, text in _traces(groups):
        right.setdefault(sample.label, []).append(labels.answer_in(text) == sample.label)
    outcomes = [outcome for of_label in right.values() for outcome in of_label]
    if not outcomes:
        raise DataError(
            f"none of {len(groups)} clips has a trace; see the failures of their groups"
        )
    return TraceReport(
        num_clips=len(groups),
        num_clips_without_traces=sum(not group.traces for group in groups),
        num_traces=len(outcomes),
        num_unparsed=sum(not is_parsed(text, labels) for _, text in _traces(groups)),
        accuracy=sum(outcomes) / len(outcomes),
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


def trace_agreement(predictions: Sequence[Prediction], labels: LabelSet) -> float | None:
    """Share of predictions that repeat the answer of the trace they were shown.

    A trace without an answer agrees with nothing. None if no prediction was shown a trace.
    """
    shown = [(p.predicted, labels.answer_in(p.trace)) for p in predictions if p.trace is not None]
    if not shown:
        return None
    return sum(answer is not None and predicted == answer for predicted, answer in shown) / len(
        shown
    )


def _traces(groups: Sequence[TraceGroup]) -> Iterator[tuple[Sample, str]]:
    return ((group.sample, trace.completion.text) for group in groups for trace in group.traces)


def _versions(group: TraceGroup) -> set[PolicyVersion]:
    return {group.policy_version} | {trace.completion.policy_version for trace in group.traces}
