"""Modifier dictionary of a linear head: vectors that tell the labels of one group apart.

    rows of a group kept fine -> prototype (their mean) -> row - prototype = modifier vector

A label is a coarse concept and a modifier: "pushing something | from left to right". The rows of a
head add up alike, so a modifier vector of one group serves a label of another group. Groups that
the head does not know label by label (among them the one to be split) give nothing, nor does a
group of a single label: it has nothing to be told apart from.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wire.errors import DataError

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubClass:
    """One of the labels that a coarse label is split into.

    Example:
        SubClass(label="Dropping something behind something", modifier="behind something")
    """

    label: str
    modifier: str
    """Phrase that tells it from the other parts of its group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """Coarse labels and the fine labels of each; a fine label belongs to exactly one group.

    Example:
        Grouping(groups={"pushing": ("pushing left", "pushing right"), "holding": ("holding",)})
    """

    groups: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        counts = Counter(label for labels in self.groups.values() for label in labels)
        if repeated := sorted(label for label, count in counts.items() if count > 1):
            raise DataError(f"{repeated} are in more than one group; each label belongs to one")
        if empty := sorted(name for name, labels in self.groups.items() if not labels):
            raise DataError(f"groups {empty} have no labels; leave them out or name their labels")

    def kept_fine(self, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Groups whose labels are all among a head's ``names``. Raises DataError for a group of
        which the head knows some labels only."""
        known = set(names)
        for group, labels in self.groups.items():
            missing = [label for label in labels if label not in known]
            if missing and len(missing) < len(labels):
                raise DataError(
                    f"group {group!r}: the classifier has {sorted(known & set(labels))} but not "
                    f"{missing}; a group has all of its labels in the classifier, or none"
                )
        return {group: labels for group, labels in self.groups.items() if known.issuperset(labels)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dictionary:
    """Modifier vectors with their texts, and the prototypes that they were taken from."""

    labels: tuple[str, ...]
    """[M] labels with a modifier, as the head names them."""
    texts: tuple[str, ...]
    """[M] their modifier phrases."""
    modifiers: Floats
    """[M, D] row - prototype; those of one group add up to 0."""
    weights: Floats
    """[M, D] their rows of the head."""
    group_of: tuple[int, ...]
    """[M] number of each label's group."""
    groups: tuple[str, ...]
    """[P] names of groups with at least two labels."""
    prototypes: Floats
    """[P, D] mean row of each."""
    singletons: tuple[str, ...]
    """[S] labels that are alone in their group."""
    singleton_weights: Floats
    """[S, D]"""


def build_dictionary(
    weight: Floats, names: Sequence[str], grouping: Grouping, modifiers: Mapping[str, str]
) -> Dictionary:
    """Take the modifier vectors out of ``weight`` [L, D], whose rows are ``names``.

    ``modifiers``: the phrase of each label of a group with at least two. Raises DataError if one
    has none, if a group is known in part, or if no group is kept fine.
    """
    kept = grouping.kept_fine(names)
    several = {group: labels for group, labels in kept.items() if len(labels) > 1}
    if not several:
        raise DataError(
            f"none of the {len(grouping.groups)} groups has two labels that the classifier knows: "
            "a split learns its modifiers from labels that stayed fine; name such a group"
        )
    lacking = [label for labels in several.values() for label in labels if label not in modifiers]
    if lacking:
        raise DataError(f"no modifier phrase for {lacking}; add one for each")
    row = {name: number for number, name in enumerate(names)}
    members = [np.array([row[label] for label in labels]) for labels in several.values()]
    prototypes = np.stack([weight[rows].mean(axis=0) for rows in members])
    group_of = np.repeat(np.arange(len(members)), [len(rows) for rows in members])
    weights = weight[np.concatenate(members)]
    labels = tuple(label for group in several.values() for label in group)
    alone = tuple(labels[0] for labels in kept.values() if len(labels) == 1)
    return Dictionary(
        labels=labels,
        texts=tuple(modifiers[label] for label in labels),
        modifiers=weights - prototypes[group_of],
        weights=weights,
        group_of=tuple(group_of.tolist()),
        groups=tuple(several),
        prototypes=prototypes,
        singletons=alone,
        singleton_weights=weight[[row[label] for label in alone]],
    )
