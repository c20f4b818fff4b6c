"""Selection of the classifier: candidates compared on val clips, the best one published.

    label logprobs of val by source -> fit_candidates -> temperature of each source, pools of two
    -> select -> the best by the recipe's measure; the simpler one where there is no difference

A verdict is never published that is worse than what it reads: the policy's answer and the vote are
candidates like verdict and head, and so are their log-linear combinations. Figures are cross-fitted
(five folds of val clips; a fold's probabilities come from a fit to the others), so that a weight
more is no advantage of its own; what is published is fitted to all of val.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibrate.calibrator import (
    SOURCES,
    Calibrator,
    Source,
    checked_logprobs,
    fit_pool,
    fit_temperature,
)
from calibrate.compare import compare, mean_interval
from calibrate.figures import Figures, measure
from calibrate.predictions import from_probabilities
from wire.errors import DataError

Measure = Literal["nll", "accuracy", "macro_f1", "brier", "ece"]
_HIGHER_IS_BETTER = ("accuracy", "macro_f1")

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NUM_FOLDS = 5
MIN_CLIPS = 25
"""Val clips below which nothing is cross-fitted and no pool is a candidate."""
_COST = ("policy", "head", "verdict", "vote")  # of equal candidates the first is the simpler


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A candidate classifier, fitted to all val clips, with its cross-fitted figures on them."""

    name: str
    """Its sources, joined by ``+``: ``policy``, ``policy+verdict``."""
    calibrator: Calibrator
    figures: Figures
    cross_fitted: bool
    """False: val is too small, and the figures are of the clips that it was fitted to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Difference of another candidate to the chosen one on the same val clips, with 95%
    intervals."""

    name: str
    accuracy: float
    """The other's - the chosen one's (Newcombe's paired interval)."""
    accuracy_low: float
    accuracy_high: float
    nll: float
    """The other's - the chosen one's, in nats (Student's paired interval)."""
    nll_low: float
    nll_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Selection among candidates on val."""

    by: Measure
    num_samples: int
    chosen: str
    candidates: tuple[Candidate, ...]
    """From the best to the worst by the measure."""
    differences: tuple[Difference, ...]
    """Of each candidate but the chosen one, in their order."""
    explanation: str
    """What was chosen and how sure that is, in words."""

    def candidate(self, name: str | None = None) -> Candidate:
        """The candidate of a name; None: the chosen one."""
        return next(one for one in self.candidates if one.name == (name or self.chosen))


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatedCandidate:
    """A candidate with its probabilities of the val clips, for paired comparisons."""

    candidate: Candidate
    probabilities: Floats
    """[N, L], cross-fitted, in the order of the clips given."""


def pools_of(sources: Sequence[Source]) -> list[tuple[Source, ...]]:
    """Pairs of sources that are worth a combination: an answer and what reads its trace."""
    return [
        pair
        for pair in combinations([name for name in SOURCES if name in sources], 2)
        if len({"policy", "vote"} & set(pair)) == 1
    ]


def fit_candidates(
    logprobs: Mapping[Source, ArrayLike],
    truth: ArrayLike,
    label_names: Sequence[str],
    sample_ids: Sequence[str],
    pools: Sequence[tuple[Source, ...]] | None = None,
) -> list[ValidatedCandidate]:
    """Candidates from label logprobs [N, L] of each source on val, of which no source learned.

    ``pools``: the combinations tried; None: ``pools_of`` the sources; one in which a source gets
    weight 0 is no candidate. Folds go by a hash of the sample ids within each label; the order of
    the clips changes no bit of the result.
    """
    labels = np.asarray(truth, dtype=np.int64)
    given = {name: checked_logprobs(values, name) for name, values in logprobs.items()}
    if not given or not len(labels) or len(set(sample_ids)) != len(labels):
        raise DataError(
            f"{len(given)} sources, {len(labels)} val clips, {len(set(sample_ids))} sample ids; "
            "expected at least one source and one clip, each clip once"
        )
    order = np.argsort(np.asarray(sample_ids))
    ordered = {name: values[order] for name, values in given.items()}
    enough = len(labels) >= MIN_CLIPS
    folds = stable_folds(labels[order], [sample_ids[i] for i in order]) if enough else None
    combined = (pools_of(list(given)) if pools is None else pools) if enough else []
    kinds: list[tuple[Source, ...]] = [(name,) for name in SOURCES if name in given]
    candidates = []
    for sources in [*kinds, *combined]:
        rows = {name: ordered[name] for name in sources}
        calibrator = _fit(rows, labels[order], label_names)
        if len(sources) > 1 and calibrator.sources != sources:
            continue  # a weight of 0: nothing to gain, and the other source is a candidate anyway
        probabilities = (
            calibrator.probabilities(rows)
            if folds is None
            else _cross_fitted(rows, labels[order], label_names, folds)
        )
        figures = measure(probabilities, labels[order])
        back = np.empty_like(probabilities)
        back[order] = probabilities
        candidate = Candidate(
            name="+".join(sources), calibrator=calibrator, figures=figures, cross_fitted=enough
        )
        candidates.append(ValidatedCandidate(candidate=candidate, probabilities=back))
    return candidates


def select(
    candidates: Sequence[ValidatedCandidate],
    truth: ArrayLike,
    sample_ids: Sequence[str],
    by: Measure = "nll",
) -> Selection:
    """The best candidate by a measure on val; of equal ones the simpler: fewer sources, then the
    cheaper ones."""
    if not candidates:
        raise DataError("no candidates to select from; fit at least one")
    ranked = sorted(candidates, key=lambda one: (_loss(one.candidate, by), *_simplicity(one)))
    best = ranked[0]
    differences = tuple(
        _difference(best, other, np.asarray(truth, np.int64), sample_ids) for other in ranked[1:]
    )
    return Selection(
        by=by,
        num_samples=best.candidate.figures.num_samples,
        chosen=best.candidate.name,
        candidates=tuple(one.candidate for one in ranked),
        differences=differences,
        explanation=_explanation([one.candidate for one in ranked], differences, by),
    )


def stable_folds(labels: Ints, sample_ids: Sequence[str], num_folds: int = NUM_FOLDS) -> Ints:
    """Fold [N] of each clip: within a label dealt round by the hash of the sample id."""
    hashes = [hashlib.sha256(name.encode()).hexdigest() for name in sample_ids]
    folds, dealt = np.zeros(len(labels), np.int64), 0
    for label in np.unique(labels):
        rows = sorted(np.flatnonzero(labels == label), key=lambda row: hashes[row])
        folds[rows] = (np.arange(len(rows)) + dealt) % num_folds
        dealt += len(rows)
    return folds


def _fit(rows: Mapping[Source, ArrayLike], truth: Ints, label_names: Sequence[str]) -> Calibrator:
    if len(rows) == 1:
        ((source, values),) = rows.items()
        return fit_temperature(values, truth, label_names, source)
    return fit_pool(rows, truth, label_names)


def _cross_fitted(
    rows: Mapping[Source, Floats], truth: Ints, label_names: Sequence[str], folds: Ints
) -> Floats:
    probabilities = np.empty((len(truth), len(label_names)))
    for fold in np.unique(folds):
        held, rest = folds == fold, folds != fold
        calibrator = _fit({n: v[rest] for n, v in rows.items()}, truth[rest], label_names)
        probabilities[held] = calibrator.probabilities({n: v[held] for n, v in rows.items()})
    return probabilities


def _loss(candidate: Candidate, by: Measure) -> float:
    value = float(getattr(candidate.figures, by))
    return round(-value if by in _HIGHER_IS_BETTER else value, 9)  # rounding is no difference


def _simplicity(one: ValidatedCandidate) -> tuple[int, list[int]]:
    sources = one.candidate.name.split("+")
    return len(sources), [_COST.index(name) for name in sources]


def _difference(
    best: ValidatedCandidate,
    other: ValidatedCandidate,
    truth: Ints,
    sample_ids: Sequence[str],
) -> Difference:
    names = best.candidate.calibrator.label_names
    labels = [names[label] for label in truth]
    before, after = (
        from_probabilities(sample_ids, labels, one.probabilities, names) for one in (best, other)
    )
    paired = compare(before, after)
    order = np.argsort(np.asarray(sample_ids))  # sums to the same bits in whatever order they come
    losses = (_losses(other.probabilities, truth) - _losses(best.probabilities, truth))[order]
    low, high = mean_interval(losses.tolist()) or (-math.inf, math.inf)
    return Difference(
        name=other.candidate.name,
        accuracy=paired.difference,
        accuracy_low=paired.difference_low,
        accuracy_high=paired.difference_high,
        nll=float(losses.mean()),
        nll_low=max(low, -1e9),
        nll_high=min(high, 1e9),
    )


def _losses(probabilities: Floats, truth: Ints) -> Floats:
    """Each clip's NLL [N], clipped as in ``negative_log_likelihood``."""
    own = probabilities[np.arange(len(truth)), truth]
    return np.asarray(-np.log(np.clip(own, np.finfo(np.float64).eps, 1.0)))


def _explanation(
    ranked: Sequence[Candidate], differences: Sequence[Difference], by: Measure
) -> str:
    best = ranked[0]
    value = getattr(best.figures, by)
    text = f"{best.name} has the best {by} on {best.figures.num_samples} val clips ({value:.3f}"
    others = ", ".join(f"{one.name} {getattr(one.figures, by):.3f}" for one in ranked[1:])
    text += f"; {others})" if others else ", the only candidate)"
    if not best.cross_fitted:
        text += (
            f"; fewer than {MIN_CLIPS} val clips: figures are of the clips that the temperatures "
            "were fitted to, and no combination was tried"
        )
    equal = [one.name for one in ranked[1:] if _loss(one, by) == _loss(best, by)]
    if equal:
        text += f"; equal to {', '.join(equal)}, and simpler"
    unsure = [one.name for one in differences if one.name not in equal and _may_be_chance(one, by)]
    if unsure:
        text += f"; the difference to {', '.join(unsure)} may be chance (95% interval)"
    return text


def _may_be_chance(difference: Difference, by: Measure) -> bool:
    if by in _HIGHER_IS_BETTER:
        return difference.accuracy_low <= 0 <= difference.accuracy_high
    return difference.nll_low <= 0 <= difference.nll_high


@dataclass(frozen=True, slots=True, kw_only=True)
class Plateau:
    """Whether a training had stopped improving on val when it ended."""

    reached: bool | None
    """None: too few validations to say."""
    measure: str
    best_step: int | None
    last_step: int | None
    last_gain: float | None
    """Share of the whole improvement that came in the last quarter of the updates."""
    explanation: str


def plateau(
    steps: Sequence[int],
    values: Sequence[float],
    by: Measure = "nll",
    *,
    tolerance: float = 0.05,
) -> Plateau:
    """Plateau of a validation curve: reached if the last quarter of the updates brought at most
    ``tolerance`` of the improvement over the first validation.

    ``steps``: updates at each validation, rising; ``values``: the measure there.
    """
    if len(steps) != len(values) or list(steps) != sorted(set(steps)):
        raise DataError(
            f"{len(values)} values at steps {list(steps)}; expected one at each, rising"
        )
    losses = [-v if by in _HIGHER_IS_BETTER else v for v in values]
    border = steps[0] + 0.75 * (steps[-1] - steps[0]) if steps else 0
    early = [loss for step, loss in zip(steps, losses, strict=True) if step <= border]
    if len(steps) < 4 or len(early) < 2 or not all(map(math.isfinite, values)):
        text = f"{len(steps)} validations of {by} are too few to say whether it still improves"
        last = steps[-1] if steps else None
        return _plateau(None, by, None, last, None, text)
    best = min(losses)
    best_step, total = steps[losses.index(best)], losses[0] - best
    if total <= 0:
        text = f"val {by} never improved on its first value, in {steps[-1]} updates"
        return _plateau(False, by, best_step, steps[-1], None, text)
    share = (min(early) - best) / total
    moved = f"from {values[0]:.3f} to {values[losses.index(best)]:.3f}"
    if share <= tolerance:
        text = (
            f"val {by} has stopped improving ({moved}, best at update {best_step} of {steps[-1]})"
        )
        return _plateau(True, by, best_step, steps[-1], share, text)
    text = (
        f"val {by} was still improving when training ended ({moved}, {100 * share:.0f}% of it in "
        f"the last quarter of {steps[-1]} updates): more updates, or a higher rate, would help"
    )
    return _plateau(False, by, best_step, steps[-1], share, text)


def _plateau(
    reached: bool | None,
    by: Measure,
    best_step: int | None,
    last_step: int | None,
    last_gain: float | None,
    explanation: str,
) -> Plateau:
    return Plateau(
        reached=reached,
        measure=by,
        best_step=best_step,
        last_step=last_step,
        last_gain=last_gain,
        explanation=explanation,
    )
