"""Conformal prediction sets: labels of which one is the true one, as often as promised.

    calibrated probabilities and truth of held-out clips -> fit_sets -> PredictionSets
    probabilities of a clip -> every label whose 1 - p is at most its limit

The score is 1 - p (LAC; Sadinle, Lei & Wasserman 2019), the limit the ceil((n + 1) * coverage)-th
smallest score of held-out clips (Vovk, Gammerman & Shafer 2005). ``marginal``: one limit for all
labels, by MAPIE; the true label is in the set of at least ``coverage`` of new clips on average over
labels. ``class_conditional``: a limit per label from its own clips, by crepes (label-conditional
Mondrian); the promise then holds for the clips of each label.

What is promised: held-out and new clips drawn alike (exchangeable), P(true label in the set) >=
``coverage``, in the mean over draws of the held-out clips; for one draw the coverage varies with n
(``promised_range``). Clips of another kind (new looks) are not covered: measure those.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibrate.metrics import wilson_interval
from wire.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Kind = Literal["marginal", "class_conditional"]

_TOLERANCE = 1e-8  # MAPIE's: a score this far above the limit is rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionSets:
    """Limits of prediction sets, from held-out clips."""

    kind: Kind
    coverage: float
    """The promise: share of new clips, drawn as the held-out ones, whose set has the true label."""
    label_names: tuple[str, ...]
    num_samples: int
    """Held-out clips."""
    num_per_label: tuple[int, ...]
    limits: tuple[float | None, ...]
    """Of each label: it is in the set if 1 - p is at most this. None: not attainable with this n,
    the label is in every set."""
    num_needed: int
    """Clips (``class_conditional``: of each label) without which the promise means all labels."""
    one_draw: tuple[float, float] | None = None
    """95% range of the coverage that one draw of as many held-out clips brings
    (``class_conditional``: of the label with the fewest that has a limit); None without a limit."""

    @property
    def attainable(self) -> bool:
        """Whether every label has a limit."""
        return None not in self.limits

    @property
    def explanation(self) -> str:
        """Meaning of the sets, or what they lack, in words."""
        share = f"{100 * self.coverage:g}%"
        if self.kind == "marginal":
            if not self.attainable:
                return (
                    f"{share} coverage is not attainable with {self.num_samples} held-out clips "
                    f"({self.num_needed} needed): the set is all labels"
                )
            return (
                f"of new clips drawn like the {self.num_samples} held-out ones, at least {share} "
                f"have the true label in their set{self._one_draw_in_words}"
            )
        short = [
            f"{name} has {count}"
            for name, count, limit in zip(
                self.label_names, self.num_per_label, self.limits, strict=True
            )
            if limit is None
        ]
        promise = f"of new clips of each label, at least {share} have it in their set"
        if short:
            return (
                f"{promise}; not attainable with this n for some labels, which are in every set: "
                f"{', '.join(short)} held-out clips, {self.num_needed} needed"
            )
        return (
            f"{promise} (drawn like the {self.num_samples} held-out ones){self._one_draw_in_words}"
        )

    @property
    def _one_draw_in_words(self) -> str:
        if self.one_draw is None:
            return ""
        counts = [n for n in self.num_per_label if n >= self.num_needed]
        num = self.num_samples if self.kind == "marginal" else min(counts)
        low, high = self.one_draw
        return (
            f", in the mean over draws of them; one draw of {num} covers {100 * low:.0f}% to "
            f"{100 * high:.0f}% in 95 of 100 cases"
        )

    def sets(self, probabilities: ArrayLike) -> NDArray[np.bool_]:
        """[N, L] probabilities -> [N, L], True for labels in the set. A set may be empty: no label
        is as probable as the true ones of held-out clips were."""
        rows = _checked(probabilities, len(self.label_names))
        limits = np.array([np.inf if one is None else one for one in self.limits])
        return np.asarray((1 - rows) - limits <= _TOLERANCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCoverage:
    """Coverage of the clips of one label."""

    num_samples: int
    share: float | None
    """Of them, with the label in the set; None without clips."""
    low: float | None
    """Lower end of the 95% Wilson interval."""
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Coverage of prediction sets as measured on clips with known labels."""

    num_samples: int
    share: float
    """Clips whose set has the true label."""
    low: float
    """Lower end of the 95% Wilson interval."""
    high: float
    mean_size: float
    single_frac: float
    """Share of sets of exactly one label."""
    empty_frac: float
    """Share of sets without a label: never right."""
    per_label: dict[str, LabelCoverage]


def num_needed(coverage: float) -> int:
    """Smallest n with ceil((n + 1) * coverage) <= n: ceil(1 / alpha) - 1 for alpha = 1 - coverage.

    In fractions of the decimal that was written, so that 0.9 needs 9, whatever floats make of it.
    """
    if not 0 < coverage < 1:
        raise DataError(f"coverage {coverage} is not in (0, 1); 0.9 is usual")
    return math.ceil(1 / (1 - Fraction(str(coverage)))) - 1


def order_statistic(num: int, coverage: float) -> int:
    """Rank, from 1, of the score that is the limit: ceil((n + 1) * coverage)."""
    return math.ceil((num + 1) * Fraction(str(coverage)))


def fit_sets(
    probabilities: ArrayLike,
    truth: ArrayLike,
    label_names: Sequence[str],
    coverage: float = 0.9,
    kind: Kind = "marginal",
) -> PredictionSets:
    """Prediction sets from calibrated probabilities [N, L] and true label indices [N] of held-out
    clips, of which neither the classifier nor its calibrator learned anything."""
    rows = _checked(probabilities, len(label_names))
    labels = np.asarray(truth, dtype=np.int64)
    if labels.shape != (len(rows),):
        raise DataError(f"{len(rows)} rows of probabilities, true labels of {labels.shape} clips")
    needed = num_needed(coverage)
    counts = np.bincount(labels, minlength=len(label_names)).tolist()
    limits: list[float | None]
    if kind == "marginal":
        limit = _marginal_limit(rows, labels, coverage) if len(rows) >= needed else None
        limits = [limit] * len(label_names)
    else:
        limits = _crepes_limits(rows, labels, coverage, needed)
    return PredictionSets(
        kind=kind,
        coverage=coverage,
        label_names=tuple(label_names),
        num_samples=len(rows),
        num_per_label=tuple(counts),
        limits=tuple(limits),
        num_needed=needed,
        one_draw=_one_draw(kind, counts, needed, coverage),
    )


def measure_coverage(
    sets: NDArray[np.bool_], truth: ArrayLike, label_names: Sequence[str]
) -> Coverage:
    """Coverage of sets [N, L] on clips with true label indices [N]. Raises DataError without
    clips."""
    labels = np.asarray(truth, dtype=np.int64)
    if not len(labels):
        raise DataError("no clips to measure coverage on; select a split that has clips")
    covered, sizes = sets[np.arange(len(labels)), labels], sets.sum(axis=1)
    low, high = wilson_interval(int(covered.sum()), len(labels))
    return Coverage(
        num_samples=len(labels),
        share=float(covered.mean()),
        low=low,
        high=high,
        mean_size=float(sizes.mean()),
        single_frac=float((sizes == 1).mean()),
        empty_frac=float((sizes == 0).mean()),
        per_label={
            name: _label_coverage(covered[labels == index])
            for index, name in enumerate(label_names)
        },
    )


def promised_range(num: int, coverage: float) -> tuple[float, float]:
    """95% range of the coverage that one draw of ``num`` held-out clips brings (untied scores).

    It is Beta(k, n + 1 - k) distributed, k the limit's rank (Vovk 2012, Angelopoulos & Bates 2023,
    section 3.2). (1, 1) where it is not attainable: sets are all labels.
    """
    from scipy.special import betaincinv

    rank = order_statistic(num, coverage)
    if rank > num:
        return 1.0, 1.0
    low, high = (float(betaincinv(rank, num + 1 - rank, p)) for p in (0.025, 0.975))
    return low, high


def _one_draw(
    kind: Kind, counts: Sequence[int], needed: int, coverage: float
) -> tuple[float, float] | None:
    enough = [num for num in ([sum(counts)] if kind == "marginal" else counts) if num >= needed]
    return promised_range(min(enough), coverage) if enough else None


def _marginal_limit(rows: Floats, labels: Ints, coverage: float) -> float:
    if len(rows) <= num_needed(coverage) + 2:  # MAPIE refuses a number that is just enough
        scores = np.sort(1 - rows[np.arange(len(rows)), labels])
        return float(scores[order_statistic(len(rows), coverage) - 1])
    from mapie.classification import SplitConformalClassifier
    from mapie.conformity_scores import LACConformityScore

    score = LACConformityScore()
    model = SplitConformalClassifier(
        _as_classifier(rows.shape[1]),
        confidence_level=coverage,
        conformity_score=score,
        prefit=True,
    )
    with warnings.catch_warnings():  # of labels without a clip, which num_per_label shows
        warnings.simplefilter("ignore", UserWarning)
        model.conformalize(rows, labels)
    model.predict_set(rows[:1])  # MAPIE takes the quantile where it predicts
    return float(score.quantiles_[0])


def _crepes_limits(rows: Floats, labels: Ints, coverage: float, needed: int) -> list[float | None]:
    """Of each label the largest of its scores that is still in the set.

    A label is in the set if its p-value is above 1 - coverage (Vovk et al. 2005). ``predict_set``
    of crepes also takes one that is equal, which is a rank more than the promise needs.
    """
    from crepes import WrapClassifier

    model = WrapClassifier(_as_classifier(rows.shape[1]))
    model.calibrate(rows, labels, class_cond=True)
    alpha = 1 - Fraction(str(coverage))
    limits: list[float | None] = []
    for label in range(rows.shape[1]):
        own = np.unique(rows[labels == label, label])[::-1]  # from the smallest score on
        num = int((labels == label).sum())
        if num < needed:
            limits.append(None)
            continue
        inside, outside = 0, len(own)  # the p-value falls with the score
        while outside - inside > 1:
            middle = (inside + outside) // 2
            asked = np.full((1, rows.shape[1]), own[middle])
            p_value = model.predict_p(asked, smoothing=False)[0, label]
            is_inside = round(p_value * (num + 1)) > alpha * (num + 1)
            inside, outside = (middle, outside) if is_inside else (inside, middle)
        limits.append(float(1 - own[inside]))
    return limits


def _as_classifier(num_labels: int) -> Any:
    """A fitted scikit-learn classifier whose features are the probabilities themselves."""
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Probabilities(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        """Rows of probabilities, taken as they are."""

        def __init__(self) -> None:
            self.classes_ = np.arange(num_labels)

        def fit(self, _x: Any, _y: Any) -> "Probabilities":
            return self

        def predict_proba(self, x: Floats) -> Floats:
            return np.asarray(x, dtype=np.float64)

        def predict(self, x: Floats) -> Ints:
            return np.asarray(np.argmax(x, axis=1), dtype=np.int64)

    return Probabilities()


def _label_coverage(covered: NDArray[np.bool_]) -> LabelCoverage:
    if not len(covered):
        return LabelCoverage(num_samples=0, share=None, low=None, high=None)
    low, high = wilson_interval(int(covered.sum()), len(covered))
    return LabelCoverage(num_samples=len(covered), share=float(covered.mean()), low=low, high=high)


def _checked(probabilities: ArrayLike, num_labels: int) -> Floats:
    rows = np.asarray(probabilities, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != num_labels:
        raise DataError(f"probabilities have shape {list(rows.shape)}, expected [N, {num_labels}]")
    if not ((rows >= 0) & (rows <= 1 + 1e-9)).all():
        raise DataError(
            "probabilities must be in [0, 1]; of a clip without a trace give the calibrator's, "
            "which are uniform"
        )
    return rows
