"""Calibrator: label logprobs of one or several sources -> calibrated probabilities, and its fit.

    probabilities = softmax over labels of  sum over sources of  weight * logprob

One source: the weight is 1 / temperature (temperature scaling, Guo et al. 2017). Several: the
log-linear pool (Genest & Zidek 1986), its weights fitted to clips that nothing else learned from.
Serving is NumPy alone; scikit-learn and SciPy are imported where something is fitted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wire.errors import DataError

Source = Literal["policy", "vote", "verdict", "head"]
"""Where label logprobs come from: ``policy``, its own answer after its own reasoning; ``vote``,
smoothed shares of k sampled traces; ``verdict``, label codes under the verdict's weights; ``head``,
a linear head on the policy's hidden state."""
SOURCES: tuple[Source, ...] = get_args(Source)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_WEIGHT = float(np.exp(10))  # scikit-learn searches ln(1 / temperature) in [-10, 10]
_NEGLIGIBLE = 1e-6  # of the largest weight
_IMPOSSIBLE = 1e9  # below the best, in place of infinity for optimisers: times exp(-10) still 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrator:
    """Label logprobs -> probabilities.

    Example:
        Calibrator(label_names=("abnormal", "normal"), weights={"policy": 0.4, "verdict": 1.3})
    """

    label_names: tuple[str, ...]
    weights: dict[Source, float]
    """Of each source that is read, >= 0. A source with weight 0 is not read."""

    def __post_init__(self) -> None:
        if len(self.label_names) < 2 or len(set(self.label_names)) != len(self.label_names):
            raise DataError(f"labels {list(self.label_names)}: expected two or more, each once")
        if not self.weights:
            raise DataError("a calibrator without a source; give the weight of at least one")
        for source, weight in self.weights.items():
            if source not in SOURCES or not 0 <= weight < np.inf:
                raise DataError(
                    f"weight {weight} of {source!r}; expected a finite weight >= 0 of one of "
                    f"{list(SOURCES)}"
                )

    @property
    def sources(self) -> tuple[Source, ...]:
        """Sources that are read, in the order of ``SOURCES``."""
        return tuple(name for name in SOURCES if self.weights.get(name, 0.0) > 0)

    @property
    def temperature(self) -> float | None:
        """1 / weight of the only source; None for a pool, or if no source has a weight."""
        return 1 / self.weights[self.sources[0]] if len(self.sources) == 1 else None

    @property
    def formula(self) -> str:
        """Weighted sum of the sources in words, such as ``0.8 x policy + 0.4 x verdict``."""
        return " + ".join(f"{self.weights[name]:.3g} x {name}" for name in self.sources)

    def without_temperature(self) -> Self:
        """The same before calibration: a source with weight 1, a pool with weights of the same
        proportion that add up to 1. Its labels are the same: figures differ by calibration
        alone."""
        total = sum(self.weights.values())
        if not total:
            return self
        return replace(self, weights={name: one / total for name, one in self.weights.items()})

    def probabilities(self, logprobs: Mapping[Source, ArrayLike]) -> Floats:
        """[N, L] of each source -> [N, L], rows summing to 1.

        Shifts of a row change nothing: logits serve as well. Minus infinity is a label that cannot
        be, with probability exactly 0. A row of NaN (no trace) becomes uniform, and so does one in
        which every label is impossible. Raises DataError for a missing source, another shape, plus
        infinity, or a row that is NaN in part.
        """
        missing = [source for source in self.sources if source not in logprobs]
        if missing:
            raise DataError(
                f"label logprobs of {missing} are missing; got {sorted(logprobs)}, "
                f"expected {list(self.sources)}"
            )
        rows = {name: checked_logprobs(logprobs[name], name) for name in self.sources}
        if not rows:  # every weight is 0: no source says anything
            num = len(np.asarray(next(iter(logprobs.values())))) if logprobs else 0
            return np.full((num, len(self.label_names)), 1 / len(self.label_names))
        shapes = {values.shape for values in rows.values()}
        if len(shapes) > 1 or next(iter(shapes))[1] != len(self.label_names):
            raise DataError(
                f"label logprobs have shapes {sorted(shapes)}, expected one row for each clip and "
                f"one column for each of {list(self.label_names)}"
            )
        return softmax(sum_weighted(rows, self.weights))


def checked_logprobs(values: ArrayLike, name: str = "a source") -> Floats:
    """Label logprobs as an array [N, L]. Raises DataError on plus infinity, another number of axes,
    or a row that is NaN in part."""
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2:
        raise DataError(f"label logprobs of {name} have shape {list(rows.shape)}, expected [N, L]")
    unknown = np.isnan(rows)
    if (rows == np.inf).any() or (unknown.any(axis=1) & ~unknown.all(axis=1)).any():
        raise DataError(
            f"label logprobs of {name} are infinite, or NaN for some labels of a clip; the engine "
            "must return every label's, or NaN for all of a clip without a trace"
        )
    return rows


def sum_weighted(rows: Mapping[Source, Floats], weights: Mapping[Source, float]) -> Floats:
    """Weighted sum of the sources' logprobs [N, L], each shifted so that its best label has 0."""
    total: Floats | None = None
    for name in SOURCES:
        if name in rows and weights.get(name, 0.0) > 0:
            part = weights[name] * _shifted(rows[name])
            total = part if total is None else total + part
    assert total is not None, "no source has a weight"
    return total


def softmax(scores: Floats) -> Floats:
    """Softmax of each row [N, L]; uniform where a row is NaN or has no possible label."""
    best = scores.max(axis=1, keepdims=True)
    known = np.isfinite(best)
    with np.errstate(invalid="ignore"):
        powers = np.where(known, np.exp(scores - np.where(known, best, 0.0)), 1.0)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float64)


def fit_temperature(
    logprobs: ArrayLike, truth: ArrayLike, label_names: Sequence[str], source: Source
) -> Calibrator:
    """Calibrator of one source: the temperature with the least NLL on [N, L] logprobs and true
    label indices [N], by scikit-learn.

    Rows without a trace, and clips whose true label is impossible, say nothing of it. Where all
    other clips are answered right the NLL falls without end: the temperature is then the one whose
    mean confidence is (n + 1) / (n + 2), Laplace's rule for n right answers of n.
    """
    rows, labels = _informative({source: checked_logprobs(logprobs, source)}, truth, label_names)
    scores = _finite(rows[source])
    weight = 1.0
    if len(labels):
        weight = _laplace_scale(scores, labels) or _sklearn_weight(scores, labels)
    return Calibrator(label_names=tuple(label_names), weights={source: weight})


def fit_pool(
    logprobs: Mapping[Source, ArrayLike], truth: ArrayLike, label_names: Sequence[str]
) -> Calibrator:
    """Calibrator of several sources: the weights >= 0 with the least NLL (a convex problem,
    L-BFGS-B); rows that say nothing, and clips all answered right, as in ``fit_temperature``."""
    given = {name: checked_logprobs(logprobs[name], name) for name in SOURCES if name in logprobs}
    rows, labels = _informative(given, truth, label_names)
    if not len(labels):
        weights = np.full(len(rows), 1 / len(rows))
    else:
        stacked = np.stack([_finite(values) for values in rows.values()])
        weights = _least_nll(stacked, labels)
        scale = _laplace_scale(_pooled(weights, stacked), labels)
        weights = np.minimum(weights * (scale or 1.0), MAX_WEIGHT)
        weights[weights < _NEGLIGIBLE * weights.max()] = 0.0  # an optimiser's way to say 0
    return Calibrator(
        label_names=tuple(label_names), weights=dict(zip(rows, weights.tolist(), strict=True))
    )


def _informative(
    rows: dict[Source, Floats], truth: ArrayLike, label_names: Sequence[str]
) -> tuple[dict[Source, Floats], Ints]:
    """The rows of clips that have logprobs, and in which the true label is possible."""
    labels = np.asarray(truth, dtype=np.int64)
    for name, values in rows.items():
        if values.shape != (len(labels), len(label_names)):
            raise DataError(
                f"label logprobs of {name} have shape {list(values.shape)}, expected "
                f"[{len(labels)}, {len(label_names)}]: clips and labels"
            )
    if labels.size and (labels.min() < 0 or labels.max() >= len(label_names)):
        raise DataError(f"true labels must be indices below {len(label_names)}")
    usable = np.ones(len(labels), np.bool_)
    for values in rows.values():
        usable &= np.isfinite(values[np.arange(len(labels)), labels])
    return {name: values[usable] for name, values in rows.items()}, labels[usable]


def _sklearn_weight(scores: Floats, labels: Ints) -> float:
    """1 / temperature. scikit-learn takes rows that sum to 1 for probabilities (its issue 34313),
    so it is given logits, none above 0, through ``decision_function``."""
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV

    num_labels = scores.shape[1]

    class Logits(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        """A classifier whose features are the logits themselves; there is nothing to fit."""

        def fit(self, _x: Any, _y: Any, sample_weight: Any = None) -> "Logits":
            self.classes_ = np.arange(num_labels)
            return self

        def decision_function(self, x: Floats) -> Floats:
            # of two labels scikit-learn reads one number, and takes it for logits (-x, x)
            return (x[:, 1] - x[:, 0]) / 2 if num_labels == 2 else x

        def predict(self, x: Floats) -> Ints:
            return np.asarray(x.argmax(axis=1), dtype=np.int64)

    # scikit-learn wants each label in each of its two folds: rows without weight see to it
    x = np.concatenate([scores, np.zeros((2 * num_labels, num_labels))])
    y = np.concatenate([labels, np.repeat(np.arange(num_labels), 2)])
    weights = np.concatenate([np.ones(len(labels)), np.zeros(2 * num_labels)])
    model = CalibratedClassifierCV(Logits(), method="temperature", ensemble=False, cv=2)
    model.fit(x, y, sample_weight=weights)
    return float(model.calibrated_classifiers_[0].calibrators[0].beta_)


def _least_nll(stacked: Floats, labels: Ints) -> Floats:
    """Weights [S] in [0, MAX_WEIGHT] of scores [S, N, L]."""
    from scipy.optimize import minimize

    own = np.take_along_axis(stacked, labels[None, :, None], axis=2)[..., 0]  # [S, N]

    def loss(weights: Floats) -> tuple[float, Floats]:
        scores = _pooled(weights, stacked)
        best = scores.max(axis=1, keepdims=True)
        powers = np.exp(scores - best)
        sums = powers.sum(axis=1, keepdims=True)
        nll = (np.log(sums) + best)[:, 0] - weights @ own
        slope = (stacked * (powers / sums)).sum(axis=2) - own
        return float(nll.mean()), slope.mean(axis=1)

    start = np.full(len(stacked), 1 / len(stacked))
    return np.asarray(
        minimize(
            loss,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, MAX_WEIGHT)] * len(stacked),
            options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000},
        ).x,
        dtype=np.float64,
    )


def _pooled(weights: Floats, stacked: Floats) -> Floats:
    return np.asarray(np.tensordot(weights, stacked, axes=1), dtype=np.float64)


def _laplace_scale(scores: Floats, labels: Ints) -> float | None:
    """Factor that makes the mean confidence (n + 1) / (n + 2) over the n clips that have one best
    label; None where some clip is answered wrong, so that a finite factor has the least NLL."""
    own = scores[np.arange(len(labels)), labels]
    others = scores.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    margins = own - others.max(axis=1)
    if not (margins >= 0).all():
        return None
    clear = scores[margins > 0]
    if not len(clear):
        return 1.0
    target = (len(clear) + 1) / (len(clear) + 2)
    return _bisect(lambda scale: float(softmax(scale * clear).max(axis=1).mean()) - target)


def _bisect(rising: Callable[[float], float]) -> float:
    """Where a rising function of a factor in [1 / MAX_WEIGHT, MAX_WEIGHT] crosses 0."""
    low, high = -np.log(MAX_WEIGHT), np.log(MAX_WEIGHT)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(float(np.exp(middle))) < 0 else (low, middle)
    return float(np.exp((low + high) / 2))


def _shifted(rows: Floats) -> Floats:
    best = rows.max(axis=1, keepdims=True)
    return np.asarray(rows - np.where(np.isfinite(best), best, 0.0), dtype=np.float64)


def _finite(rows: Floats) -> Floats:
    """Shifted logprobs with a large number for infinity, which optimisers cannot multiply by 0."""
    return np.maximum(_shifted(rows), -_IMPOSSIBLE)


def log_shares(answers: Iterable[str | None], label_names: tuple[str, ...]) -> Floats:
    """[L]: log of the labels' smoothed shares of answers, of which None counts for none; NaN
    without an answer to count."""
    given = list(answers)
    counts = np.array([given.count(name) for name in label_names], np.float64)
    if not given:
        return np.full(len(label_names), np.nan)
    return np.asarray(np.log((counts + 1 / len(label_names)) / (len(given) + 1)))
