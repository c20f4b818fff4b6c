"""Predictions -> the figures of a classifier. Pure NumPy; each function names its formula's source.

    Predictions + label names -> evaluate -> Evaluation -> evaluation.json

An answer that could not be parsed is wrong, with confidence 0: it stays in every denominator.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from calibrate.predictions import Prediction
from wire.errors import DataError

NUM_BINS = 15
COVERAGE = 0.8
"""Share of the clips that are answered in ``selective_accuracy``."""
_Z_95 = 1.959963984540054  # 0.975 quantile of the standard normal distribution
# A probability of 0 for the true label would make the NLL infinite; scikit-learn's log_loss clips
# alike.
_SMALLEST = float(np.finfo(np.float64).eps)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFigures:
    """Figures of one class."""

    support: int
    """Clips of this class."""
    predicted: int
    """Clips called this class."""
    recall: float | None
    """None without support."""
    f1: float | None
    """None if the class neither occurs nor is predicted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All figures of one classifier on one set of clips; shares are in [0, 1]."""

    num_samples: int
    accuracy: float
    accuracy_low: float
    """Lower end of the 95% Wilson interval."""
    accuracy_high: float
    macro_f1: float
    balanced_accuracy: float
    unparsed_frac: float
    ece: float
    selective_accuracy: float
    """Accuracy on the 80% of the clips with the highest confidence: what is left to a person is the
    rest. Unparsed answers have confidence 0 and go first."""
    aurc: float
    """Area under the risk-coverage curve: mean error of the k most confident, over all k."""
    brier: float | None
    """In [0, 2]; None if no prediction has probabilities."""
    nll: float | None
    """Nats per clip; None if no prediction has probabilities."""
    probabilities_frac: float
    """Share of predictions that have probabilities: the only ones in ``brier`` and ``nll``."""
    majority_baseline: float | None
    """Accuracy of always saying the most frequent *training* label; None if not given those."""
    best_constant: float
    """Accuracy of the best constant answer on these very clips: no classifier may know it."""
    per_label: dict[str, LabelFigures]
    confusion: tuple[tuple[int, ...], ...]
    """[L, L + 1]: row = true label, column = predicted label, last column = could not be parsed."""
    label_names: tuple[str, ...]
    """Order of rows and columns."""

    @property
    def minority(self) -> str | None:
        """The label that has the fewest of the clips, whose F1 stands beside the accuracy where
        labels are skewed; None where several have as few."""
        support = {name: one.support for name, one in self.per_label.items() if one.support}
        fewest = [name for name, count in support.items() if count == min(support.values())]
        return fewest[0] if len(fewest) == 1 else None

    def to_json(self) -> str:
        """Strict JSON (no NaN), with the fields by name."""
        return json.dumps(asdict(self), indent=2, allow_nan=False)


def evaluate(
    predictions: Sequence[Prediction], label_names: Sequence[str], train_labels: Sequence[str] = ()
) -> Evaluation:
    """All figures. ``train_labels`` are the labels trained on, for the majority baseline.

    Raises DataError if there are no predictions, a label is not in ``label_names``, or a prediction
    has another number of probabilities.
    """
    if not predictions:
        raise DataError("no predictions to evaluate; select a split that has clips")
    confusion = confusion_matrix(predictions, label_names)
    num_samples = int(confusion.sum())
    num_right = int(np.trace(confusion))
    low, high = wilson_interval(num_right, num_samples)
    right = np.array([p.predicted == p.label for p in predictions])
    confidence = np.array([p.confidence for p in predictions], dtype=np.float64)
    probabilities, truth = _probabilities(predictions, label_names)
    selective = selective_accuracies(confidence, right)
    return Evaluation(
        num_samples=num_samples,
        accuracy=num_right / num_samples,
        accuracy_low=low,
        accuracy_high=high,
        macro_f1=macro_f1(confusion),
        balanced_accuracy=balanced_accuracy(confusion),
        unparsed_frac=float(confusion[:, -1].sum()) / num_samples,
        ece=expected_calibration_error(confidence, right),
        selective_accuracy=accuracy_at_coverage(selective),
        aurc=float(1 - selective.mean()),
        brier=brier_score(probabilities, truth) if len(truth) else None,
        nll=negative_log_likelihood(probabilities, truth) if len(truth) else None,
        probabilities_frac=len(truth) / num_samples,
        majority_baseline=majority_baseline(train_labels, [p.label for p in predictions]),
        best_constant=float(confusion.sum(axis=1).max()) / num_samples,
        per_label=_per_label(confusion, label_names),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        label_names=tuple(label_names),
    )


def confusion_matrix(predictions: Sequence[Prediction], label_names: Sequence[str]) -> Ints:
    """Counts [L, L + 1]: true label by predicted label; last column: unparsable answers."""
    place: dict[str | None, int] = {name: index for index, name in enumerate(label_names)}
    place[None] = len(label_names)
    counts = np.zeros((len(label_names), len(label_names) + 1), dtype=np.int64)
    for p in predictions:
        if p.label not in place or p.predicted not in place:
            raise DataError(
                f"{p.sample_id}: label {p.label!r}, predicted {p.predicted!r}; "
                f"expected two of {list(label_names)}"
            )
        counts[place[p.label], place[p.predicted]] += 1
    return counts


def wilson_interval(num_right: int, num_samples: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927, score interval without continuity correction)."""
    share = num_right / num_samples
    weight = _Z_95**2 / num_samples
    middle = (share + weight / 2) / (1 + weight)
    half = (
        _Z_95
        / (1 + weight)
        * math.sqrt(share * (1 - share) / num_samples + weight / num_samples / 4)
    )
    return max(0.0, middle - half), min(1.0, middle + half)


def recalls(confusion: Ints) -> Floats:
    """Right answers of each class over its clips, [L]; NaN without clips."""
    return _ratio(np.diagonal(confusion), confusion.sum(axis=1))


def f1_scores(confusion: Ints) -> Floats:
    """2 right / (clips + calls) of each class, [L]; NaN if it neither occurs nor is predicted."""
    calls = confusion[:, :-1].sum(axis=0)
    return _ratio(2 * np.diagonal(confusion), confusion.sum(axis=1) + calls)


def macro_f1(confusion: Ints) -> float:
    """Mean F1 over the classes that occur or are predicted (scikit-learn's default classes)."""
    return float(np.nanmean(f1_scores(confusion)))


def balanced_accuracy(confusion: Ints) -> float:
    """Mean recall over the classes that occur (scikit-learn's definition)."""
    return float(np.nanmean(recalls(confusion)))


def expected_calibration_error(
    confidence: Floats, right: NDArray[np.bool_], num_bins: int = NUM_BINS
) -> float:
    """Sum over equal-width bins of bin share * |accuracy - mean confidence| (Guo et al. 2017, eq.
    3).

    ``confidence`` [N] in [0, 1] of the predicted class, ``right`` [N]. Bins are (i/B, (i+1)/B]; a
    confidence of 0 is in the first.
    """
    bins = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    gap = np.bincount(bins, weights=right - confidence, minlength=num_bins)
    return float(np.abs(gap).sum() / len(confidence))


def selective_accuracies(confidence: Floats, right: NDArray[np.bool_]) -> Floats:
    """Accuracy of the k most confident answers for k = 1..N, [N] (Geifman & El-Yaniv 2017).

    Selective classification answers where it is sure; the last entry is plain accuracy. Answers of
    equal confidence have no order of their own: each entry is the mean over all orders of them, so
    the order of clips changes nothing. ``1 - mean`` is the AURC (Geifman et al. 2019).
    """
    _, tied, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    mean_right = np.bincount(tied, weights=right) / counts  # of each confidence, highest first
    num_right = np.cumsum(np.repeat(mean_right, counts))
    return np.asarray(num_right / np.arange(1, len(right) + 1), dtype=np.float64)


def accuracy_at_coverage(selective: Floats, coverage: float = COVERAGE) -> float:
    """The entry of ``selective_accuracies`` for the smallest k that is ``coverage`` of the clips.

    ``coverage`` in (0, 1].
    """
    num_kept = math.ceil(coverage * len(selective) - 1e-9)  # 0.7 * 10 is a little above 7
    return float(selective[num_kept - 1])


def brier_score(probabilities: Floats, truth: Ints) -> float:
    """Mean over clips of sum_c (p_c - y_c)^2, in [0, 2] (Brier 1950). [N, L] and indices [N]."""
    hits = np.eye(probabilities.shape[1])[truth]
    return float(((probabilities - hits) ** 2).sum(axis=1).mean())


def negative_log_likelihood(probabilities: Floats, truth: Ints) -> float:
    """Mean over clips of -ln p(true class), with p clipped to [eps, 1]. [N, L] and indices [N]."""
    own = probabilities[np.arange(len(truth)), truth]
    return float(-np.log(np.clip(own, _SMALLEST, 1.0)).mean())


def majority_baseline(train_labels: Sequence[str], labels: Sequence[str]) -> float | None:
    """Accuracy on ``labels`` of the most frequent training label (ties: the first by name)."""
    if not train_labels:
        return None
    counts = Counter(train_labels)
    majority = min(counts, key=lambda name: (-counts[name], name))
    return sum(label == majority for label in labels) / len(labels)


def _probabilities(
    predictions: Sequence[Prediction], label_names: Sequence[str]
) -> tuple[Floats, Ints]:
    """Probabilities [M, L] and class indices [M] of the predictions that have probabilities."""
    rows: list[tuple[float, ...]] = []
    truth: list[int] = []
    for p in predictions:
        if p.probabilities is None:
            continue
        if len(p.probabilities) != len(label_names):
            raise DataError(
                f"{p.sample_id}: {len(p.probabilities)} probabilities, "
                f"expected one for each of {list(label_names)}"
            )
        rows.append(p.probabilities)
        truth.append(list(label_names).index(p.label))
    shaped = np.array(rows, dtype=np.float64).reshape(len(rows), len(label_names))
    return shaped, np.array(truth, dtype=np.int64)


def _per_label(confusion: Ints, label_names: Sequence[str]) -> dict[str, LabelFigures]:
    recall, f1 = recalls(confusion), f1_scores(confusion)
    return {
        name: LabelFigures(
            support=int(confusion[index].sum()),
            predicted=int(confusion[:, index].sum()),
            recall=None if np.isnan(recall[index]) else float(recall[index]),
            f1=None if np.isnan(f1[index]) else float(f1[index]),
        )
        for index, name in enumerate(label_names)
    }


def _ratio(top: Ints, bottom: Ints) -> Floats:
    """top / bottom, NaN where bottom is 0."""
    out = np.full(len(bottom), np.nan)
    np.divide(top, bottom, out=out, where=bottom > 0)
    return out
