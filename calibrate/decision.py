"""Decision about one clip: its label, its prediction set, and whether a person must look.

    probabilities of the clip + Calibration + alarm -> decide -> Decision (auto or review, and why)

``auto`` needs everything: a parsed trace, a threshold that was attainable, a confidence at or above
it, a set that is not empty, no alarm of shift. Whatever lacks is a reason for review; nothing here
turns a review into an automatic decision. The threshold's promise is about all clips that it was
tested with: to have it for parsed ones alone, fit it with NaN for the unparsed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibrate.calibration import Calibration
from calibrate.calibrator import Source
from wire.errors import DataError

Action = Literal["auto", "review"]
ReasonCode = Literal[
    "no_trace",
    "unparsed",
    "shift_alarm",
    "no_threshold",
    "below_threshold",
    "empty_set",
    "several_labels",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Reason for a review, as a code for filters and in words."""

    code: ReasonCode
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Decision about one clip."""

    label: str
    """The most probable; of equal ones the first of the label set."""
    confidence: float
    """Its calibrated probability."""
    probabilities: dict[str, float]
    """Calibrated, of each label."""
    prediction_set: tuple[str, ...]
    """Labels that are in the classifier's first kind of set, in the label set's order; empty if no
    label is probable enough; all labels if the classifier has no sets."""
    action: Action
    reasons: tuple[Reason, ...]
    """For review; none for ``auto``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Evidence about one clip: what each source says of the labels, before calibration. A decision
    follows from it and the classifier's Calibration alone, so that it can be replayed.

    Example:
        Evidence(trace="<think>...", parsed=True, logprobs={"policy": (-0.1, -2.4)}, frames=(0, 8))
    """

    trace: str
    parsed: bool
    """Whether the trace has reasoning and an answer."""
    logprobs: Mapping[Source, tuple[float, ...]]
    """[L] in the label set's order, by source; NaN: it says nothing."""
    votes: Mapping[str, int] | None = None
    """Answers of sampled traces by label, where the classifier votes."""
    frames: tuple[int, ...] = ()
    """Numbers in the video of the frames that the model saw."""
    trace_logprobs: tuple[float, ...] = ()
    """Logprobs of the trace's tokens, for the monitor of shift."""
    video_hash: str = ""


def probabilities_of(evidence: Evidence, calibration: Calibration) -> NDArray[np.float64]:
    """Calibrated probabilities [L] that follow from the evidence about a clip."""
    rows = {name: np.array([values]) for name, values in evidence.logprobs.items()}
    probabilities: NDArray[np.float64] = calibration.calibrator.probabilities(rows)[0]
    return probabilities


def decide_from(
    evidence: Evidence, calibration: Calibration, *, alarm: str | None = None
) -> Decision:
    """Decision that follows from the evidence about a clip. ``alarm`` as in :func:`decide`."""
    probabilities = probabilities_of(evidence, calibration)
    return decide(probabilities, calibration, alarm=alarm, parsed=evidence.parsed)


def decide(
    probabilities: ArrayLike,
    calibration: Calibration,
    *,
    alarm: str | None = None,
    parsed: bool = True,
    single_label_only: bool = False,
) -> Decision:
    """Decide about a clip from its calibrated probabilities [L].

    ``alarm``: words of a shift alarm that has not been acknowledged; ``parsed``: whether its trace
    has reasoning and an answer; ``single_label_only``: also review where the set has several
    labels. NaN probabilities: there is no trace.
    """
    names = calibration.calibrator.label_names
    row = np.asarray(probabilities, dtype=np.float64)
    if row.shape != (len(names),):
        raise DataError(f"probabilities have shape {list(row.shape)}, expected [{len(names)}]")
    has_trace = not np.isnan(row).any()
    row = row if has_trace else np.full(len(names), 1 / len(names))
    first = calibration.sets[0] if calibration.sets else None
    inside = first.sets(row[None])[0] if first else np.ones(len(names), np.bool_)
    place = int(row.argmax())
    confidence = min(float(row[place]), 1.0)
    reasons = list(_trace_reasons(has_trace, parsed, alarm))
    reasons += _threshold_reasons(calibration, confidence)
    reasons += _set_reasons(int(inside.sum()), single_label_only)
    return Decision(
        label=names[place],
        confidence=confidence,
        probabilities=dict(zip(names, row.tolist(), strict=True)),
        prediction_set=tuple(name for name, inner in zip(names, inside, strict=True) if inner),
        action="review" if reasons else "auto",
        reasons=tuple(reasons),
    )


def _trace_reasons(has_trace: bool, parsed: bool, alarm: str | None) -> Iterator[Reason]:
    if not has_trace:
        yield Reason(code="no_trace", text="there is no trace to read")
    elif not parsed:
        yield Reason(code="unparsed", text="the trace has no reasoning or no answer")
    if alarm is not None:
        yield Reason(code="shift_alarm", text=alarm)


def _threshold_reasons(calibration: Calibration, confidence: float) -> Iterator[Reason]:
    threshold = calibration.thresholds[0] if calibration.thresholds else None
    if threshold is None:
        yield Reason(code="no_threshold", text="the classifier has no threshold")
    elif threshold.value is None:
        yield Reason(code="no_threshold", text=threshold.explanation)
    elif not threshold.is_automatic(np.array([confidence]))[0]:
        yield Reason(
            code="below_threshold",
            text=f"confidence {confidence:.3g} is below the threshold {threshold.value:g}",
        )


def _set_reasons(size: int, single_label_only: bool) -> Iterator[Reason]:
    if size == 0:
        yield Reason(
            code="empty_set",
            text="the prediction set is empty: no label is as probable as held-out ones were",
        )
    elif size > 1 and single_label_only:
        yield Reason(code="several_labels", text=f"the prediction set has {size} labels")
