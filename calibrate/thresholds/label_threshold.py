"""Threshold of one label, derived from a stated precision or miss rate on held-out clips.

    precision >= p   of the clips at or above the threshold, at least p have the label
    miss_rate <= a   of the clips that have the label, at most a are below it

Learn then Test (Angelopoulos et al. 2022) with exact binomial tests, as calibrate/risk.py: over
draws of the held-out clips, and for new clips drawn like them, the target is kept with probability
``confidence``. For a miss rate one sequence goes from threshold 0, which misses nothing, upwards.
"Not attainable" is an answer, too: then the threshold has no value.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibrate.conformal import PredictionSets
from calibrate.risk import (
    Threshold,
    binomial_p_values,
    choose_start,
    fit_threshold,
    threshold_grid,
    upper_bounds,
)
from calibrate.thresholds.held_out import HeldOut, ScoredPart
from wire.errors import DataError

Target = Literal["precision", "miss_rate"]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelThreshold:
    """Threshold of a label's probability, with what it promises and was made of."""

    label: str
    target: Target
    goal: float
    """Least precision, or highest miss rate."""
    confidence: float
    """Probability, over draws of the held-out clips, that the goal is kept."""
    value: float | None
    """Fires at this probability and above; None: not attainable with this n."""
    num_held_out: int
    """Held-out clips."""
    num_fired: int
    """Held-out clips at or above the value; without one, at the threshold that was tested."""
    num_counted: int
    """Clips that the rate is of: those fired at (precision), those with the label (miss rate)."""
    num_wrong: int
    """Of those: without the label, or missed."""
    bound: float | None
    """The worst rate that the test leaves open (Clopper & Pearson): a precision at least, or a miss
    rate at most, this high; None without a clip."""
    num_needed: int
    """Clips, counted as ``num_counted``, that are needed even if none is wrong."""

    @property
    def attainable(self) -> bool:
        """Whether there is a value."""
        return self.value is not None

    @property
    def promise(self) -> str:
        """The target in words."""
        return promise_in_words(self.target, self.label, self.goal, self.confidence)

    @property
    def explanation(self) -> str:
        """Meaning of the threshold, or what it lacks, in words."""
        counted = (
            f"{self.num_wrong} of {self.num_counted} "
            + ("are not" if self.target == "precision" else "are missed")
            + ("" if self.bound is None else f"; the bound is {100 * self.bound:.3g}%")
        )
        if self.value is not None:
            return (
                f"{self.promise}: fires from probability {self.value:g}, at {self.num_fired} of "
                f"{self.num_held_out} held-out clips ({counted})"
            )
        return (
            f"{self.promise}: not attainable with these {self.num_held_out} held-out clips "
            f"(tested: {counted}); it takes {self.num_needed} "
            + ("sure clips" if self.target == "precision" else "clips with the label")
            + " without an error, more with some"
        )


def promise_in_words(target: Target, label: str, goal: float, confidence: float) -> str:
    """Target of a label in words."""
    rate = (
        f"of the clips it fires at, at least {100 * goal:g}% are {label}"
        if target == "precision"
        else f"of the clips that are {label}, at most {100 * goal:g}% are missed"
    )
    return f"{rate}, with {100 * confidence:g}% confidence"


def label_scores(
    probabilities: ArrayLike,
    usable: ArrayLike,
    place: int,
    *,
    target: Target,
    alone: bool,
) -> Floats:
    """[N]: what is compared with a label's threshold: the same for held-out clips and new ones.

    probabilities [N, L]; usable [N]: whether a clip has a readable trace and a prediction set that
    is not empty: others always go to a person; place: of the label; alone: no person looks. Alone,
    only the most probable label counts, and a clip that is not usable never fires (NaN). With a
    person, such a clip is no miss (1).
    """
    rows, marks = np.asarray(probabilities, dtype=np.float64), np.asarray(usable, dtype=np.bool_)
    own = np.minimum(rows[:, place], 1.0)
    if alone:
        return np.where(marks & (rows.argmax(axis=1) == place), own, np.nan)
    return np.where(marks, own, 1.0 if target == "miss_rate" else np.nan)


def usable_rows(
    probabilities: ArrayLike, read: ArrayLike, sets: PredictionSets | None
) -> NDArray[np.bool_]:
    """[N]: whether each clip has a readable trace and a prediction set that is not empty."""
    marks = np.asarray(read, dtype=np.bool_)
    return marks if sets is None else marks & sets.sets(probabilities).any(axis=1)


def derive_threshold(
    scored: HeldOut,
    sets: PredictionSets | None,
    *,
    label: str,
    target: Target,
    goal: float,
    confidence: float,
    alone: bool,
) -> LabelThreshold:
    """Derive the threshold of a label from a classifier's held-out clips.

    ``sets``: the classifier's first; ``alone``: as for ``label_scores``. Raises DataError for a
    label that the classifier does not have, or rates outside of (0, 1).
    """
    if label not in scored.label_names:
        raise DataError(f"there is no label {label!r}; expected one of {list(scored.label_names)}")
    if not (0 < goal < 1 and 0 < confidence < 1):
        raise DataError(f"{target} {goal} and confidence {confidence} must both be in (0, 1)")
    place = scored.label_names.index(label)

    def scores_of(part: ScoredPart) -> tuple[Floats, NDArray[np.bool_]]:
        usable = usable_rows(part.probabilities, part.read, sets)
        scores = label_scores(part.probabilities, usable, place, target=target, alone=alone)
        return scores, part.truth == place

    scores, has_label = scores_of(scored.held_out)
    if target == "miss_rate":
        return _miss_rate(label, scores, has_label, goal, confidence)
    start = None
    if len(scored.val) and len(scores):
        start = choose_start(*scores_of(scored.val), 1 - goal, confidence, len(scores))
    fitted = fit_threshold(scores, has_label, 1 - goal, confidence, start=start)
    threshold = _precision(label, fitted, goal)
    if start is None or threshold.attainable:
        return threshold
    fired = scores >= start  # where the test stopped
    num, wrong = int(fired.sum()), int((fired & ~has_label).sum())
    (bound,) = upper_bounds(np.array([wrong]), np.array([num]), 1 - confidence)
    return replace(
        threshold,
        num_fired=num,
        num_counted=num,
        num_wrong=wrong,
        bound=1 - float(bound) if num else None,
    )


def _precision(label: str, fitted: Threshold, goal: float) -> LabelThreshold:
    return LabelThreshold(
        label=label,
        target="precision",
        goal=goal,
        confidence=fitted.confidence,
        value=fitted.value,
        num_held_out=fitted.num_samples,
        num_fired=fitted.num_automatic,
        num_counted=fitted.num_automatic,
        num_wrong=fitted.num_wrong,
        bound=None if fitted.bound is None else 1 - fitted.bound,
        num_needed=fitted.num_needed,
    )


def _miss_rate(
    label: str, scores: Floats, has_label: NDArray[np.bool_], goal: float, confidence: float
) -> LabelThreshold:
    grid = threshold_grid()[::-1]
    own = np.sort(np.where(np.isnan(scores), -1.0, scores)[has_label])
    missed = np.searchsorted(own, grid, side="left")
    counts = np.full(len(grid), len(own))
    level = 1 - confidence
    fails = np.flatnonzero(binomial_p_values(missed, counts, goal) > level)
    num_kept = int(fails[0]) if len(fails) else len(grid)
    place = max(num_kept - 1, 0)
    bound = float(upper_bounds(missed, counts, level)[place]) if len(own) else None
    return LabelThreshold(
        label=label,
        target="miss_rate",
        goal=goal,
        confidence=confidence,
        value=float(grid[place]) if num_kept else None,
        num_held_out=len(scores),
        num_fired=int((scores >= grid[place]).sum()),
        num_counted=len(own),
        num_wrong=int(missed[place]),
        bound=bound,
        num_needed=math.ceil(math.log(level) / math.log1p(-goal) - 1e-9),
    )
