"""Modifier Retrieval: each sub-class takes the vector of the dictionary entry whose texts are
nearest to its own.

    S = alpha * cos(modifier, modifier') + beta * cos(label, label')        [k, M]

Entries are handed out greedily, the largest similarity first, each to at most one sub-class of a
split. Taking the best for each sub-class (``argmax``) may give two of them the same row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibrate.splitting.config import RetrievalConfig
from calibrate.splitting.dictionary import Dictionary, Floats, SubClass
from calibrate.splitting.protocols import TextEncoder
from wire.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Dictionary entry that a sub-class was given."""

    part: str
    label: str
    """Label that the entry belongs to."""
    modifier: str
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """Vectors of the sub-classes, and the entries that they are from."""

    vectors: Floats
    """[k, D]"""
    choices: tuple[Choice, ...]


def retrieve(
    parts: Sequence[SubClass],
    dictionary: Dictionary,
    encoder: TextEncoder,
    config: RetrievalConfig | None = None,
) -> Retrieved:
    """Choose an entry for each part. Raises DataError if a dictionary has fewer entries than a
    one-to-one assignment needs."""
    config = config or RetrievalConfig()
    scores = similarities(parts, dictionary, encoder, config)
    assign = {"greedy": assign_greedy, "argmax": assign_argmax}[config.assignment]
    chosen = assign(scores)
    choices = tuple(
        Choice(
            part=part.label,
            label=dictionary.labels[entry],
            modifier=dictionary.texts[entry],
            similarity=float(scores[number, entry]),
        )
        for number, (part, entry) in enumerate(zip(parts, chosen.tolist(), strict=True))
    )
    return Retrieved(vectors=dictionary.modifiers[chosen], choices=choices)


def similarities(
    parts: Sequence[SubClass],
    dictionary: Dictionary,
    encoder: TextEncoder,
    config: RetrievalConfig,
) -> Floats:
    """Similarity [k, M] of parts and entries."""
    modifiers = cosines(
        encoder.encode([part.modifier for part in parts]), encoder.encode(dictionary.texts)
    )
    labels = cosines(
        encoder.encode([part.label for part in parts]), encoder.encode(dictionary.labels)
    )
    total: Floats = config.alpha * modifiers + config.beta * labels
    return total


def cosines(one: Floats, other: Floats) -> Floats:
    """Cosine similarities [A, B] of rows; 0 where a row is all zeros."""
    similarity: Floats = _unit(one) @ _unit(other).T
    return similarity


def assign_greedy(scores: Floats) -> NDArray[np.int64]:
    """Entry of each part [k]: the largest score of [k, M] first, each entry once. Of equal scores
    the first part's, then the first entry's."""
    num_parts, num_entries = scores.shape
    if num_parts > num_entries:
        raise DataError(
            f"{num_parts} parts but only {num_entries} modifiers in the dictionary: no one-to-one "
            "assignment; use alignment, or argmax"
        )
    left = scores.astype(np.float64)
    chosen = np.empty(num_parts, np.int64)
    for _ in range(num_parts):
        part, entry = np.unravel_index(left.argmax(), left.shape)
        chosen[part] = entry
        left[part, :] = -np.inf
        left[:, entry] = -np.inf
    return chosen


def assign_argmax(scores: Floats) -> NDArray[np.int64]:
    """Entry of each part [k]: its largest score, whatever the others have."""
    chosen: NDArray[np.int64] = scores.argmax(axis=1)
    return chosen


def _unit(rows: Floats) -> Floats:
    wide = rows.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: Floats = wide / np.where(length > 0, length, 1)
    return unit
