"""Logistic regressions with an L2 penalty, many at a time over the same features.

    features [N, H], a row's label, problems (rows to train on, C) -> weights and logits of each

The minimum is scikit-learn's: the sum over the training rows of -log p, plus 1 / (2 C) times the
squared weights of the features as standardised over those rows; the intercept goes free. All
problems step together, so that one pass over the features serves all of them: L-BFGS, whose first
guess of the Hessian is the penalty plus the features' covariance, so that it takes some tens of
passes however the features correlate. Float32, as the features are.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

Floats = NDArray[np.float32]

_COLUMNS = 256  # labels x problems of a pass; bounds its memory
_ROWS = 2_048  # of a block, so that it stays in the processor's cache
_PAIRS = 8  # of steps and gradients that the curvature is made of
_MAX_STEPS = 300
_GRADIENT = 1e-5  # of the mean loss, at the minimum; scikit-learn stops at 1e-4
_TRIES = 8  # lengths of one step
_ROUNDING = 1e-6  # of the covariance, as share of its trace


@dataclass(frozen=True, slots=True)
class Problem:
    """One regression: the rows that it is fitted to, and the inverse of its penalty."""

    rows: NDArray[np.bool_]
    """[N]"""
    c: float


@dataclass(frozen=True, slots=True)
class Solution:
    """Weights of one regression, over the features as they were given."""

    weight: Floats
    """[L, H]"""
    bias: Floats
    """[L]; minus infinity for a label that no training row has."""
    logits: Floats
    """[N, L], of all rows."""


class Regressions:
    """Regressions over the same rows of features."""

    def __init__(self, features: Floats, truth: NDArray[np.int64], num_labels: int) -> None:
        """``features``: [N, H], standardised (over all rows is near enough); ``truth``: [N], a
        label's number."""
        self._wide = np.ones((len(features), features.shape[1] + 1), np.float32)
        self._wide[:, :-1] = features
        self._truth, self._num_labels = truth, num_labels
        self._curvature = _Curvature(features)

    def solve(
        self, problems: Sequence[Problem], start: Sequence[Solution] | None = None
    ) -> list[Solution]:
        """Solve the problems, of which the rows of each have at least two labels. ``start``:
        solutions of problems with the same rows, and another C."""
        solutions = []
        at_once = max(1, _COLUMNS // self._num_labels)
        for first in range(0, len(problems), at_once):
            some = slice(first, first + at_once)
            descent = _Descent(
                self._wide, self._truth, self._num_labels, problems[some], self._curvature
            )
            solutions += descent.run(start[some] if start else None)
        return solutions


class _Curvature:
    """The features' covariance, and the inverse of it times a factor plus a penalty."""

    def __init__(self, features: Floats) -> None:
        width = features.shape[1]
        self._covariance = np.zeros((width, width))
        for block in blocks(len(features)):
            self._covariance += features[block].T @ features[block]
        self._covariance /= len(features)
        self._least = _ROUNDING * float(np.trace(self._covariance))
        self._made_for: tuple[float, float] | None = None
        self._factor: Any = None

    def solve(self, right: Floats, penalty: float, spread: float) -> Floats:
        """``right`` [..., H] times the inverse of ``penalty`` + ``spread`` * covariance, near
        enough: the last such inverse serves for a spread up to four times as large or small."""
        last = self._made_for
        if last is None or last[0] != penalty or not 0.25 < last[1] / spread < 4:
            self._factor = self._factored(penalty, spread)
            self._made_for = penalty, spread
        flat = np.asfortranarray(right.reshape(-1, right.shape[-1]).T)
        solved = cho_solve(self._factor, flat, check_finite=False)
        return np.asarray(solved.T, np.float32).reshape(right.shape)

    def _factored(self, penalty: float, spread: float) -> Any:
        for kind in (np.float32, np.float64):  # the first takes half the time, and is near enough
            matrix: NDArray[Any] = (spread * self._covariance).astype(kind)
            matrix[np.diag_indices(len(matrix))] += penalty + spread * self._least
            with suppress(np.linalg.LinAlgError):
                return cho_factor(matrix, overwrite_a=True, check_finite=False)
        raise AssertionError("a covariance with a penalty is positive")


class _Descent:
    """The problems of one pass. Arrays begin with a label axis and a problem axis, [L, P, ...]."""

    def __init__(
        self,
        wide: Floats,
        truth: NDArray[np.int64],
        num_labels: int,
        problems: Sequence[Problem],
        guess: _Curvature,
    ) -> None:
        self._wide, self._truth, self._guess = wide, truth, guess
        self._shape = (num_labels, len(problems))
        self._trains = np.stack([p.rows for p in problems]).astype(np.float32)
        counts = np.stack([np.bincount(truth[p.rows], minlength=num_labels) for p in problems], 1)
        self._absent = counts == 0
        self._num = self._trains.sum(axis=1)
        self._present = (counts > 0).sum(axis=0)
        # two labels: scikit-learn has one weight, the difference of these two
        twice = np.where(self._present == 2, 2.0, 1.0)
        c = np.array([problem.c for problem in problems])
        self._penalty = np.zeros((len(problems), wide.shape[1]), np.float32)
        self._penalty[:, :-1] = (twice / (c * self._num))[:, None]
        self._scale = self._fold_scales()

    def _fold_scales(self) -> Floats:
        """[P, H + 1]: 1 over the deviation of each feature over a problem's rows."""
        sums, squares = (np.zeros((len(self._num), self._wide.shape[1])) for _ in range(2))
        for block in blocks(len(self._wide)):
            rows, trains = self._wide[block], self._trains[:, block]
            sums += trains @ rows
            squares += trains @ (rows * rows)
        variance = squares / self._num[:, None] - (sums / self._num[:, None]) ** 2
        variance[variance < 1e-9] = 1.0  # a constant, the column of ones among them
        scales: Floats = (1 / np.sqrt(variance)).astype(np.float32)
        return scales

    def run(self, start: Sequence[Solution] | None) -> list[Solution]:
        """Solve all."""
        weights = np.zeros((*self._shape, self._wide.shape[1]), np.float32)
        for number, near in enumerate(start or ()):
            weights[:, number, :-1] = near.weight
            weights[:, number, -1] = np.where(np.isfinite(near.bias), near.bias, 0)
        weights /= self._scale
        logits = self._logits(weights)
        residual, spread = self._residual(logits)
        gradient = self._gradient(residual, weights)
        pairs: list[tuple[Floats, Floats, Floats]] = []
        for _ in range(_MAX_STEPS):
            if np.abs(gradient).max() < _GRADIENT:
                break
            step = -self._newton(gradient, spread, pairs)
            moved = self._logits(step)
            length, residual, spread = self._search(weights, logits, step, moved, residual)
            if not length.any():
                break
            step *= length[:, None]
            moved *= length[:, None]
            logits += moved
            weights += step
            before, gradient = gradient, self._gradient(residual, weights)
            change = gradient - before
            pairs = [*pairs[-_PAIRS + 1 :], (step, change, _inverse(_dot(step, change)))]
        return [self._solution(weights, logits, number) for number in range(len(self._num))]

    def _solution(self, weights: Floats, logits: Floats, number: int) -> Solution:
        own = weights[:, number] * self._scale[number]
        missing = self._absent[:, number]
        bias = np.where(missing, -np.inf, own[:, -1]).astype(np.float32)
        scores = np.where(missing, -np.inf, logits[:, number].T).astype(np.float32)
        return Solution(np.ascontiguousarray(own[:, :-1]), bias, scores)

    def _logits(self, weights: Floats) -> Floats:
        scaled = (weights * self._scale).reshape(-1, weights.shape[2])
        return np.asarray(scaled @ self._wide.T, np.float32).reshape(*self._shape, -1)

    def _gradient(self, residual: Floats, weights: Floats) -> Floats:
        flat = residual.reshape(-1, residual.shape[2]) @ self._wide
        scale = self._scale / self._num[:, None]
        gradient: Floats = flat.reshape(weights.shape) * scale + self._penalty * weights
        return gradient

    def _residual(self, logits: Floats) -> tuple[Floats, Floats]:
        """p - truth of the training rows; and a probability's mean slope p (1 - p) over them."""
        residual, spread = np.empty_like(logits), np.zeros(len(self._num))
        for block in blocks(len(self._wide)):
            p = np.where(self._absent[..., None], np.float32(-1e30), logits[..., block])
            p -= p.max(axis=0)
            np.exp(p, out=p)
            p /= p.sum(axis=0)
            trains, truth = self._trains[:, block], self._truth[block]
            spread += ((1 - (p * p).sum(axis=0)) * trains).sum(axis=1)
            p[truth, :, np.arange(len(truth))] -= 1
            residual[..., block] = p * trains
        mean = spread / self._num / (self._present - 1)
        return residual, np.maximum(mean, 1e-6).astype(np.float32)

    def _newton(
        self, gradient: Floats, spread: Floats, pairs: Sequence[tuple[Floats, Floats, Floats]]
    ) -> Floats:
        """The inverse Hessian times the gradient, by L-BFGS' two loops."""
        right, shares = gradient.copy(), []
        for moved, change, inverse in reversed(pairs):
            share = inverse * _dot(moved, right)
            shares.append(share[:, None])
            right -= shares[-1] * change
        step = np.empty_like(right)
        penalty = float(self._penalty[:, 0].mean())
        step[..., :-1] = self._guess.solve(right[..., :-1], penalty, float(spread.mean()))
        step[..., -1] = right[..., -1] / spread
        for (moved, change, inverse), share in zip(pairs, reversed(shares), strict=True):
            step += (share - (inverse * _dot(change, step))[:, None]) * moved
        return step

    def _search(
        self, weights: Floats, logits: Floats, step: Floats, moved: Floats, residual: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Length of each problem's step, by the slope along it, which rises; and the residual
        there. 0 where the step goes nowhere."""
        at_start, squared = (_dot(self._penalty * a, step) for a in (weights, step))
        first = self._slope(residual, moved) + at_start
        low, high = np.zeros_like(first), np.full_like(first, np.inf)
        slope_low, slope_high = first.copy(), np.full_like(first, np.nan)
        length = np.where(first < 0, np.float32(1), np.float32(0))
        spread = first
        for _ in range(_TRIES):
            residual, spread = self._residual(logits + moved * length[:, None])
            slope = self._slope(residual, moved) + at_start + length * squared
            settled = (first >= 0) | ((slope >= 0.5 * first) & (slope <= -0.1 * first))
            if settled.all():
                break
            below = slope < 0
            low, slope_low = np.where(below, length, low), np.where(below, slope, slope_low)
            high, slope_high = np.where(below, high, length), np.where(below, slope_high, slope)
            with np.errstate(invalid="ignore", divide="ignore"):
                between = low - slope_low * (high - low) / (slope_high - slope_low)
                margin = 0.1 * (high - low)
                between = np.clip(between, low + margin, high - margin)
            tried = np.where(np.isfinite(high), between, length * 3).astype(np.float32)
            length = np.where(settled, length, tried)
        return length, residual, spread

    def _slope(self, residual: Floats, moved: Floats) -> Floats:
        return np.asarray(_dot(residual, moved) / self._num, np.float32)


def blocks(num_rows: int) -> Iterator[slice]:
    """Slices of rows that are worked on at a time."""
    return (slice(start, start + _ROWS) for start in range(0, num_rows, _ROWS))


def _dot(one: Floats, other: Floats) -> Floats:
    """Products of each problem: [L, P, ...] -> [P]."""
    total: Floats = np.einsum("lpn,lpn->lp", one, other).sum(axis=0)
    return total


def _inverse(products: Floats) -> Floats:
    """1 over the products; 0 where a pair has no curvature, so that it says nothing."""
    usable = products > 1e-20
    return np.where(usable, 1 / np.where(usable, products, 1), 0).astype(np.float32)
