"""Risk threshold: the confidence from which a label may be decided without a person.

    confidences of held-out clips, right or wrong -> fit_threshold -> Threshold
    confidence of a clip >= its value -> automatic

Learn then Test (Angelopoulos, Bates, Candes et al. 2022) with exact binomial tests: for each
threshold t of a fixed list, H(t): of clips with confidence >= t more than ``max_error`` are wrong;
given how many held-out clips those are, their errors are binomial, and p = P(Bin(m, max_error) <=
errors), the test of Clopper & Pearson (1934). Fixed-sequence testing goes from strict to lax and
stops at the first t that is not rejected. The promise, over draws of the held-out clips, and for
new clips drawn like them: P(error rate of automatic decisions > max_error) <= 1 - confidence.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibrate.metrics import wilson_interval
from wire.errors import DataError

Floats = NDArray[np.float64]

_STEP = 200  # thresholds are multiples of 1 / 200
NUM_STARTS = 10
"""Places of the list at which a sequence may start where none was chosen on other clips: strict
thresholds have too few clips to be rejected, and each start pays its share of the error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Confidence from which decisions are automatic, with what it promises and was made of."""

    max_error: float
    """The target: highest error rate of automatic decisions."""
    confidence: float
    """Probability, over draws of the held-out clips, that the target is kept."""
    num_samples: int
    """Held-out clips."""
    value: float | None
    """Decide automatically from this confidence on; None: not attainable with this n."""
    num_automatic: int
    """Held-out clips at or above it; without a value, above the best that was tried."""
    num_wrong: int
    """Of those."""
    bound: float | None
    """Upper bound of the error rate of automatic decisions (Clopper & Pearson), at the level of
    the test that chose the value; without a value, the lowest bound that was reached."""
    coverage: float
    """Share of the held-out clips decided automatically."""
    num_needed: int
    """Clips at or above a threshold that are needed even if none is wrong."""

    @property
    def attainable(self) -> bool:
        """Whether there is a value."""
        return self.value is not None

    @property
    def explanation(self) -> str:
        """Meaning of the threshold, or what it lacks, in words."""
        target = (
            f"at most {100 * self.max_error:g}% wrong with {100 * self.confidence:g}% confidence"
        )
        if self.value is not None:
            return (
                f"{target}: automatic from confidence {self.value:g}, {100 * self.coverage:.1f}% "
                f"of {self.num_samples} held-out clips ({self.num_wrong} of {self.num_automatic} "
                f"wrong, at most {100 * (self.bound or 0):.2g}% with new clips)"
            )
        reached = (
            ""
            if self.bound is None
            else (
                f"; the nearest was a bound of {100 * self.bound:.2g}% "
                f"({self.num_wrong} of {self.num_automatic} wrong)"
            )
        )
        return (
            f"{target} is not attainable with these {self.num_samples} held-out clips{reached}; "
            f"it takes {self.num_needed} confident clips without an error, more with some"
        )

    def is_automatic(self, confidences: ArrayLike) -> NDArray[np.bool_]:
        """[N] confidences -> True where the decision is automatic; NaN never is."""
        rows = np.asarray(confidences, dtype=np.float64)
        return np.zeros(rows.shape, np.bool_) if self.value is None else rows >= self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class AutomaticErrors:
    """Errors of automatic decisions as measured on clips with known labels."""

    num_samples: int
    num_automatic: int
    num_wrong: int
    error: float | None
    """Share of the automatic decisions that are wrong; None without any."""
    low: float | None
    """Lower end of the 95% Wilson interval."""
    high: float | None


def measure_automatic(
    threshold: Threshold, confidences: ArrayLike, right: ArrayLike
) -> AutomaticErrors:
    """Errors of the decisions that a threshold leaves automatic; NaN is never automatic."""
    automatic = threshold.is_automatic(confidences)
    wrong = int((automatic & ~np.asarray(right, dtype=np.bool_)).sum())
    num = int(automatic.sum())
    low, high = wilson_interval(wrong, num) if num else (None, None)
    return AutomaticErrors(
        num_samples=len(automatic),
        num_automatic=num,
        num_wrong=wrong,
        error=wrong / num if num else None,
        low=low,
        high=high,
    )


def fit_threshold(
    confidences: ArrayLike,
    right: ArrayLike,
    max_error: float,
    confidence: float = 0.9,
    *,
    start: float | None = None,
) -> Threshold:
    """Threshold from confidences [N] of held-out clips and whether each was right [N].

    NaN is a clip that is never decided automatically (unparsed, say). ``start``: the strictest
    threshold tested, chosen on *other* clips (``choose_start``): then one sequence has the whole
    error; without it ``NUM_STARTS`` sequences share it.
    """
    rows, hits = _checked(confidences, right, max_error, confidence)
    starts, level = _starts(start, 1 - confidence)
    grid = threshold_grid()
    counts, wrong = _counts(rows, hits, grid)
    p_values = binomial_p_values(wrong, counts, max_error)
    rejected = np.zeros(len(grid), np.bool_)
    for first in starts:
        fails = np.flatnonzero(p_values[first:] > level)
        rejected[first : first + fails[0] if len(fails) else None] = True
    bounds = upper_bounds(wrong, counts, level)
    tested = np.concatenate([np.arange(first, len(grid)) for first in starts])
    place = int(np.flatnonzero(rejected)[-1]) if rejected.any() else _best(bounds, tested)
    return Threshold(
        max_error=max_error,
        confidence=confidence,
        num_samples=len(rows),
        value=float(grid[place]) if rejected.any() else None,
        num_automatic=int(counts[place]),
        num_wrong=int(wrong[place]),
        bound=float(bounds[place]) if counts[place] else None,
        coverage=float(counts[place] / len(rows)) if rejected.any() and len(rows) else 0.0,
        num_needed=math.ceil(math.log(level) / math.log1p(-max_error) - 1e-9),
    )


def choose_start(
    confidences: ArrayLike,
    right: ArrayLike,
    max_error: float,
    confidence: float,
    num_held_out: int,
) -> float:
    """Where to start the sequence for ``num_held_out`` clips, from *other* clips (val): the
    threshold whose error rate, seen with as many clips, would be the most significant."""
    rows, hits = _checked(confidences, right, max_error, confidence)
    grid = threshold_grid()
    counts, wrong = _counts(rows, hits, grid)
    scale = num_held_out / max(len(rows), 1)
    # an error more than was seen: val flatters its best threshold
    p_values = binomial_p_values(
        np.ceil((wrong + 1) * scale).astype(np.int64),
        np.floor(counts * scale).astype(np.int64),
        max_error,
    )
    return float(grid[int(np.argmin(p_values))])


def threshold_grid() -> Floats:
    """All thresholds that are tested, from strict to lax: 1.0, 0.995, ... 0. Fixed before any clip
    is seen."""
    return np.arange(_STEP, -1, -1) / _STEP


def binomial_p_values(wrong: NDArray[np.int64], counts: NDArray[np.int64], rate: float) -> Floats:
    """P(Bin(count, rate) <= wrong): small where the true error rate is below ``rate``. 1 without
    clips."""
    from scipy.special import bdtr

    p_values = np.ones(len(counts))
    some = (counts > 0) & (wrong < counts)
    p_values[some] = bdtr(wrong[some].astype(np.float64), counts[some], rate)
    return p_values


def upper_bounds(wrong: NDArray[np.int64], counts: NDArray[np.int64], level: float) -> Floats:
    """One-sided upper bounds of an error rate (Clopper & Pearson 1934); 1 without clips."""
    from scipy.special import betaincinv

    bounds = np.ones(len(counts))
    some = wrong < counts
    bounds[some] = betaincinv(wrong[some] + 1, counts[some] - wrong[some], 1 - level)
    return bounds


def _best(bounds: Floats, tested: NDArray[np.int64]) -> int:
    return int(tested[np.argmin(bounds[tested])])


def _counts(
    rows: Floats, hits: NDArray[np.bool_], grid: Floats
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Clips at or above each threshold, and the wrong ones of them."""
    order = np.argsort(rows)  # NaN last
    known = rows[order][: np.isfinite(rows).sum()]
    misses = np.concatenate([[0], np.cumsum(~hits[order][: len(known)])])
    below = np.searchsorted(known, grid, side="left")
    return len(known) - below, misses[-1] - misses[below]


def _starts(start: float | None, error: float) -> tuple[list[int], float]:
    """Places in the grid where sequences start, and the error that each may make."""
    if start is None:
        return list(range(0, _STEP, _STEP // NUM_STARTS)), error / NUM_STARTS
    if not 0 <= start <= 1:
        raise DataError(f"start {start} is no threshold in [0, 1]")
    return [_STEP - math.floor(start * _STEP + 1e-9)], error


def _checked(
    confidences: ArrayLike, right: ArrayLike, max_error: float, confidence: float
) -> tuple[Floats, NDArray[np.bool_]]:
    rows, hits = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.bool_)
    if rows.ndim != 1 or rows.shape != hits.shape:
        raise DataError(f"confidences {list(rows.shape)} and answers {list(hits.shape)} differ")
    if not (0 < max_error < 1 and 0 < confidence < 1):
        raise DataError(
            f"max_error {max_error} and confidence {confidence} must both be in (0, 1); "
            "0.05 and 0.9, say"
        )
    if (rows[~np.isnan(rows)] < 0).any() or (rows[~np.isnan(rows)] > 1 + 1e-9).any():
        raise DataError("confidences must be in [0, 1], or NaN for what is never automatic")
    return rows, hits
