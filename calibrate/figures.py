"""Figures of probabilities on clips with known labels, with 95% intervals, for report and card.

probabilities [N, L], true label indices [N] -> measure -> Figures
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibrate.metrics import (
    NUM_BINS,
    brier_score,
    expected_calibration_error,
    macro_f1,
    negative_log_likelihood,
    wilson_interval,
)
from wire.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_RESAMPLES = 1000
_MOST_DRAWS = 20_000_000  # of clips, over all resamples: of many clips fewer resamples do
_AT_ONCE = 2_000_000  # draws of clips in memory
_SEED = 0  # figures of the same clips are the same numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Figures of one classifier on one set of clips. ``calibrate/metrics.py`` has the formulas."""

    num_samples: int
    accuracy: float
    accuracy_low: float
    """Wilson interval."""
    accuracy_high: float
    nll: float
    nll_low: float
    """Percentile bootstrap over clips (Efron 1979), at most 1,000 resamples; so for Brier score and
    ECE. ECE is biased upwards on few clips, and its interval with it."""
    nll_high: float
    brier: float
    brier_low: float
    brier_high: float
    ece: float
    ece_low: float
    ece_high: float
    macro_f1: float


def measure(probabilities: ArrayLike, truth: ArrayLike) -> Figures:
    """Figures of probabilities [N, L] against true label indices [N]. Raises DataError without
    clips."""
    rows, labels = np.asarray(probabilities, np.float64), np.asarray(truth, np.int64)
    if not len(labels) or rows.ndim != 2 or len(rows) != len(labels):
        raise DataError(
            f"probabilities of shape {list(rows.shape)} for {len(labels)} clips; expected a row "
            "for each of at least one clip"
        )
    answers = rows.argmax(axis=1)
    right = answers == labels
    confidence = np.minimum(rows.max(axis=1), 1.0)
    low, high = wilson_interval(int(right.sum()), len(labels))
    own = rows[np.arange(len(labels)), labels]
    per_clip = np.stack(
        [
            -np.log(np.clip(own, np.finfo(np.float64).eps, 1.0)),
            ((rows - np.eye(rows.shape[1])[labels]) ** 2).sum(axis=1),
        ]
    )
    intervals = _intervals(per_clip, confidence, right)
    nll, brier, ece = (
        (value, min(value, float(ends[0])), max(value, float(ends[1])))
        for value, ends in zip(
            (
                negative_log_likelihood(rows, labels),
                brier_score(rows, labels),
                expected_calibration_error(confidence, right),
            ),
            intervals,
            strict=True,
        )
    )
    return Figures(
        num_samples=len(labels),
        accuracy=float(right.mean()),
        accuracy_low=low,
        accuracy_high=high,
        nll=nll[0],
        nll_low=nll[1],
        nll_high=nll[2],
        brier=brier[0],
        brier_low=brier[1],
        brier_high=brier[2],
        ece=ece[0],
        ece_low=ece[1],
        ece_high=ece[2],
        macro_f1=macro_f1(_confusion(labels, answers, rows.shape[1])),
    )


def _confusion(labels: Ints, answers: Ints, num_labels: int) -> Ints:
    counts = np.zeros((num_labels, num_labels + 1), dtype=np.int64)
    np.add.at(counts, (labels, answers), 1)
    return counts


def _intervals(per_clip: Floats, confidence: Floats, right: NDArray[np.bool_]) -> Floats:
    """Ends [3, 2] of the intervals of the two mean losses and of the ECE, over resampled clips."""
    num = len(right)
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    gaps, rng = right - confidence, np.random.default_rng(_SEED)
    resamples = max(200, min(_RESAMPLES, _MOST_DRAWS // num))
    resampled = np.empty((3, resamples))
    at_once = max(1, _AT_ONCE // num)
    for first in range(0, resamples, at_once):
        rows = slice(first, min(first + at_once, resamples))
        draws = rng.integers(num, size=(rows.stop - first, num))
        resampled[:2, rows] = per_clip[:, draws].mean(axis=2)
        places = bins[draws] + NUM_BINS * np.arange(len(draws))[:, None]
        sums = np.bincount(places.ravel(), gaps[draws].ravel(), NUM_BINS * len(draws))
        resampled[2, rows] = np.abs(sums.reshape(len(draws), NUM_BINS)).sum(axis=1) / num
    return np.asarray(np.quantile(resampled, [0.025, 0.975], axis=1).T, dtype=np.float64)
