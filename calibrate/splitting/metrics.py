"""Measures of a split: generality on its sub-classes, locality on everything else.

    crops -> softmax without the coarse label -> mean over a clip's crops -> argmax

    generality  share of the split label's clips that get their own sub-class, among all labels
    locality    accuracy on other clips after / before the edit, both without the coarse label

Beside them the two lines of a model that always knows the coarse label: guessing among k
sub-classes (1/k), and always the most frequent one. What generality lacks is lost to labels outside
of the split or confused inside it; these are told apart.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from calibrate.splitting.dictionary import Floats
from calibrate.splitting.edit import SplitHead, linear_logits, masked_probabilities, softmax
from wire.errors import DataError

Indices = NDArray[np.integer]
_OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """Features of labelled clips, one row per crop."""

    features: Floats
    """[R, D]"""
    clips: Indices
    """[R] number of each row's clip, 0 to N - 1."""
    truth: Indices
    """[N] column of the true label: below L an old label, from L on a sub-class."""
    logits: Floats | None = None
    """[R, L] of the head before any edit, where they are known already."""

    def __post_init__(self) -> None:
        rows, num = len(self.features), len(self.truth)
        if len(self.clips) != rows or set(np.unique(self.clips).tolist()) != set(range(num)):
            raise DataError(
                f"{rows} rows of features name {len(np.unique(self.clips))} clips, and {num} clips "
                "have labels; expected at least one row for each"
            )


def one_crop_each(features: Floats, truth: Indices) -> Clips:
    """Clips with a single row of features each."""
    return Clips(features=features, clips=np.arange(len(features)), truth=truth)


def average_crops(probabilities: Floats, clips: Indices) -> Floats:
    """Mean probabilities [N, C] of each clip over its rows of [R, C]."""
    order = np.argsort(clips, kind="stable")
    starts = np.flatnonzero(np.diff(clips[order], prepend=-1))
    counts = np.diff(starts, append=len(clips))
    mean: Floats = np.add.reduceat(probabilities[order], starts, axis=0) / counts[:, None]
    return mean


@dataclass(frozen=True, slots=True, kw_only=True)
class PartScore:
    """Clips of one sub-class, and how many were given to it."""

    label: str
    right: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitScore:
    """Measures of one split; shares, not percentages."""

    generality: float
    locality: float | None
    """None: the classifier is right on no other clip to begin with."""
    chance: float
    """1/k"""
    majority: float
    """Share of the most frequent sub-class."""
    lost_outside: float
    """Share of the split label's clips that went to labels outside of the split."""
    confused_inside: float
    """Share of the split label's clips that went to another sub-class."""
    drawn_in: float
    """Share of the other clips that went to a sub-class."""
    parts: tuple[PartScore, ...]

    @property
    def mean(self) -> float | None:
        """Mean of generality and locality."""
        return None if self.locality is None else (self.generality + self.locality) / 2


class Evaluation:
    """Clips that splits of one label are measured on; the head before the edit is measured once."""

    def __init__(
        self,
        base: tuple[Floats, Floats],
        coarse: int,
        parts: Sequence[str],
        *,
        equivalent: Clips,
        unrelated: Clips,
    ) -> None:
        """``base``: weight [L, D] and bias [L] before the edit; ``equivalent``: clips of the label
        to be split, labelled L + number of the part; ``unrelated``: all others, labelled below
        L."""
        self._weight, self._bias = base
        self.coarse, self.num_old = coarse, len(self._bias)
        self._parts = tuple(parts)
        self._equivalent, self._unrelated = equivalent, unrelated
        _check_truth(self.num_old, coarse, len(parts), equivalent.truth, unrelated.truth)
        self._before = self._winners(self._base_logits(unrelated), unrelated.clips)

    def score(self, head: SplitHead) -> SplitScore:
        """Measures of an edited head."""
        own, others = (
            self._winners(self._edited(head, clips), clips.clips)
            for clips in (self._equivalent, self._unrelated)
        )
        return self.score_predictions(own, others)

    def score_predictions(self, own: Indices, others: Indices | None = None) -> SplitScore:
        """Measures of predicted columns [N]: ``own`` of the split label's clips, ``others`` of the
        other clips; without these, they are as before the edit."""
        others = self._before if others is None else others
        truth = self._equivalent.truth
        right, inside = own == truth, own >= self.num_old
        per_part = [
            PartScore(
                label=part,
                right=int(right[truth == self.num_old + number].sum()),
                total=int((truth == self.num_old + number).sum()),
            )
            for number, part in enumerate(self._parts)
        ]
        before = int((self._before == self._unrelated.truth).sum())
        after = int((others == self._unrelated.truth).sum())
        return SplitScore(
            generality=float(right.mean()),
            locality=after / before if before else None,
            chance=1 / len(self._parts),
            majority=max(part.total for part in per_part) / len(truth),
            lost_outside=float((~inside).mean()),
            confused_inside=float((inside & ~right).mean()),
            drawn_in=float((others >= self.num_old).mean()),
            parts=tuple(per_part),
        )

    def base_predictions(self) -> NDArray[np.int64]:
        """Predicted columns of the split label's clips before the edit, the coarse label among
        them."""
        clips = self._equivalent
        probabilities = softmax(self._base_logits(clips))
        return _winners(average_crops(probabilities, clips.clips))

    def _base_logits(self, clips: Clips) -> Floats:
        if clips.logits is not None:
            return clips.logits
        return linear_logits(clips.features, self._weight, self._bias)

    def _edited(self, head: SplitHead, clips: Clips) -> Floats:
        return head.logits(clips.features, clips.logits if head.weight is self._weight else None)

    def _winners(self, logits: Floats, clips: Indices) -> NDArray[np.int64]:
        return _winners(average_crops(masked_probabilities(logits, self.coarse), clips))


def _winners(probabilities: Floats) -> NDArray[np.int64]:
    winners: NDArray[np.int64] = probabilities.argmax(axis=1)
    return winners


def _check_truth(num_old: int, coarse: int, num_parts: int, own: Indices, others: Indices) -> None:
    if len(own) == 0 or own.min() < num_old or own.max() >= num_old + num_parts:
        raise DataError(
            f"clips of the split label have columns {sorted(set(own.tolist()))}; expected at "
            f"least one clip, and columns from {num_old} to {num_old + num_parts - 1}"
        )
    if len(others) == 0 or not set(others.tolist()) <= set(range(num_old)) - {coarse}:
        raise DataError(
            f"other clips have columns {sorted(set(others.tolist()))}; expected at least one clip, "
            f"columns from 0 and below {num_old}, and none of the split label ({coarse})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Means of splits over targets and seeds; shares."""

    generality: float
    locality: float | None
    mean: float | None
    chance: float
    majority: float
    lost_outside: float
    confused_inside: float
    drawn_in: float
    generality_deviation: float | None
    """Standard deviation of the seeds' means; None with one seed."""
    num_targets: int
    num_seeds: int


def summarise(scores: Mapping[int, Sequence[SplitScore]]) -> Summary:
    """Mean over targets and seeds; ``scores``: of each seed, one per target."""
    every = [score for of_seed in scores.values() for score in of_seed]
    per_seed = [fmean(score.generality for score in of_seed) for of_seed in scores.values()]
    generality = fmean(score.generality for score in every)
    localities = [score.locality for score in every if score.locality is not None]
    locality = fmean(localities) if localities else None
    return Summary(
        generality=generality,
        locality=locality,
        mean=None if locality is None else (generality + locality) / 2,
        chance=fmean(score.chance for score in every),
        majority=fmean(score.majority for score in every),
        lost_outside=fmean(score.lost_outside for score in every),
        confused_inside=fmean(score.confused_inside for score in every),
        drawn_in=fmean(score.drawn_in for score in every),
        generality_deviation=stdev(per_seed) if len(per_seed) > 1 else None,
        num_targets=len(next(iter(scores.values()))),
        num_seeds=len(scores),
    )


def by_modifier_type(
    scores: Iterable[SplitScore], types: Mapping[str, str]
) -> dict[str, tuple[float, int]]:
    """Share of right clips, and number of clips, of each modifier type; ``types``: of each
    sub-class by its label ("direction", "count"), *other* where it has none."""
    right: defaultdict[str, int] = defaultdict(int)
    total: defaultdict[str, int] = defaultdict(int)
    for part in (part for score in scores for part in score.parts):
        kind = types.get(part.label, _OTHER)
        right[kind] += part.right
        total[kind] += part.total
    return {kind: (right[kind] / total[kind], total[kind]) for kind in sorted(total) if total[kind]}
