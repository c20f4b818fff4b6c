"""Counts of a side of SSv2-Split or FineGym-Split, beside those of the published files.

    Side -> count -> SideCounts -> differences -> sentences, none where all agree

``PUBLISHED`` was counted in the files of the authors' repository (KaitingLiu/Category-Splitting,
Datasets/); the paper has no such table.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from calibrate.splitting.benchmark import Side, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class SideCounts:
    """Sizes of one side, and the two reference lines of generality."""

    groups: int
    """Of the data set: both sides' targets, and labels that are alone."""
    single_groups: int
    """Groups of one label."""
    fine_labels: int
    """Of the data set."""
    targets: int
    base_labels: int
    kept_labels: int
    """Base labels that are no targets."""
    new_labels: int
    """Sub-classes of all targets, by the grouping file."""
    new_labels_with_clips: int
    """Those with val clips."""
    train_clips: int
    val_clips: int
    mean_train_clips: float
    """Per target."""
    mean_val_clips: float
    """Per target."""
    chance: float
    """Percent: mean over targets of 1/k, for a target recognised perfectly."""
    majority: float
    """Percent: mean over targets of the largest sub-class's share of its val clips."""
    modifiers: int
    """Labels in kept groups of two or more: the dictionary's entries."""
    alignment_pairs: int
    """Prototypes + labels + modifiers of those groups, and labels that are alone."""
    shared_clips: int
    """Val clips in neither set of a target, as their fine label has its name."""


def count(side: Side) -> SideCounts:
    """Counts of a side."""
    sizes = [len(labels) for labels in side.groups.values()]
    kept = [len(labels) for labels in side.kept.values()]
    grouped = [size for size in kept if size > 1]
    return SideCounts(
        groups=len(sizes),
        single_groups=sizes.count(1),
        fine_labels=sum(sizes),
        targets=len(side.targets),
        base_labels=len(side.labels),
        kept_labels=len(side.labels) - len(side.targets),
        new_labels=sum(len(target.fine) for target in side.targets),
        new_labels_with_clips=sum(len(set(t.equivalent_labels)) for t in side.targets),
        train_clips=len(side.train),
        val_clips=len(side.val),
        mean_train_clips=_mean(len(target.train) for target in side.targets),
        mean_val_clips=_mean(len(target.equivalent) for target in side.targets),
        chance=100 * _mean(chance(target) for target in side.targets),
        majority=100 * _mean(majority(target) for target in side.targets),
        modifiers=sum(grouped),
        alignment_pairs=len(grouped) + 2 * sum(grouped) + kept.count(1),
        shared_clips=sum(len(target.shared) for target in side.targets),
    )


def chance(target: Target) -> float:
    """1/k of a target: generality of guessing among its sub-classes."""
    return 1 / len(target.fine)


def majority(target: Target) -> float:
    """Share of a target's largest sub-class among its val clips."""
    return float(np.bincount(target.equivalent_labels).max() / len(target.equivalent_labels))


def differences(side: Side, counts: SideCounts) -> list[str]:
    """Sentences on counts that are not the published ones; none for a data set of another name."""
    published = PUBLISHED.get((side.dataset, side.side), {})
    return [
        f"{name.replace('_', ' ')}: {value:g}, published {published[name]:g}"
        for name, value in asdict(counts).items()
        if name in published and round(value, 1) != published[name]
    ]


_SSV2 = {
    "groups": 66, "single_groups": 12, "fine_labels": 174,
    "train_clips": 168_913, "val_clips": 24_777, "shared_clips": 0,
}  # fmt: skip
_FINEGYM = {
    "groups": 56, "single_groups": 14, "fine_labels": 285,
    "train_clips": 23_171, "val_clips": 8_162,
}  # fmt: skip
PUBLISHED: Mapping[tuple[str, str], Mapping[str, float]] = {
    ("SSv2-Split", "A"): {
        **_SSV2, "targets": 27, "base_labels": 119, "kept_labels": 92,
        "new_labels": 82, "new_labels_with_clips": 82,
        "mean_train_clips": 2834.9, "mean_val_clips": 429.4, "chance": 38.9, "majority": 52.1,
        "modifiers": 80, "alignment_pairs": 199,
    },
    ("SSv2-Split", "B"): {
        **_SSV2, "targets": 27, "base_labels": 121, "kept_labels": 94,
        "new_labels": 80, "new_labels_with_clips": 80,
        "mean_train_clips": 2898.0, "mean_val_clips": 403.6, "chance": 40.2, "majority": 55.1,
        "modifiers": 82, "alignment_pairs": 203,
    },
    ("FineGym-Split", "A"): {
        **_FINEGYM, "targets": 23, "base_labels": 178, "kept_labels": 155,
        "new_labels": 129, "new_labels_with_clips": 126,
        "mean_train_clips": 513.0, "mean_val_clips": 173.8, "chance": 24.3, "majority": 53.9,
        "modifiers": 141, "alignment_pairs": 315, "shared_clips": 4,
    },
    ("FineGym-Split", "B"): {
        **_FINEGYM, "targets": 19, "base_labels": 162, "kept_labels": 143,
        "new_labels": 142, "new_labels_with_clips": 140,
        "mean_train_clips": 553.2, "mean_val_clips": 204.3, "chance": 18.9, "majority": 53.1,
        "modifiers": 129, "alignment_pairs": 295, "shared_clips": 0,
    },
}  # fmt: skip
"""Counts per data set and side; means and percentages to one decimal."""


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
