"""Edited linear head: the rows that it had, untouched, and one new row for each sub-class.

    row of sub-class s = row of the coarse label + vector of s;   its bias = the coarse label's

Logits of a sub-class are computed as the coarse logit plus the vector's share, so that a zero
vector gives the coarse logit to the last bit. At use the coarse label has probability 0 and the
others are renormalised, which is the softmax over all labels but the coarse one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wire.errors import DataError

Floats = NDArray[np.floating]


def linear_logits(features: Floats, weight: Floats, bias: Floats) -> Floats:
    """Logits [N, L] of ``features`` [N, D] under rows ``weight`` [L, D] and ``bias`` [L]."""
    logits: Floats = features @ weight.T + bias
    return logits


def softmax(logits: Floats) -> Floats:
    """Probabilities [N, C] of ``logits``."""
    shares: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def masked_probabilities(logits: Floats, coarse: int) -> Floats:
    """Probabilities [N, C]: the softmax of ``logits``, the ``coarse`` column set to 0 and the
    others renormalised."""
    masked = logits.copy()
    masked[:, coarse] = -np.inf
    return softmax(masked)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitHead:
    """A head with one label split.

    Columns of its logits: the L labels that it had (the coarse one among them), then the k parts.
    """

    names: tuple[str, ...]
    """[L] labels before the split."""
    weight: Floats
    """[L, D] rows before the split."""
    bias: Floats
    """[L]"""
    coarse: int
    """Number of the label that was split."""
    parts: tuple[str, ...]
    """[k] its sub-classes."""
    vectors: Floats
    """[k, D] row of each part - row of the coarse label."""
    bias_shifts: Floats
    """[k] bias of each part - bias of the coarse label: 0 but after low-shot training."""

    @property
    def rows(self) -> Floats:
        """[k, D] rows of the parts."""
        rows: Floats = self.weight[self.coarse] + self.vectors
        return rows

    @property
    def biases(self) -> Floats:
        """[k] biases of the parts."""
        biases: Floats = self.bias[self.coarse] + self.bias_shifts
        return biases

    def logits(self, features: Floats, old: Floats | None = None) -> Floats:
        """[N, L + k]. ``old``: logits [N, L] before the split, where they are known already."""
        if old is None:
            old = linear_logits(features, self.weight, self.bias)
        new = old[:, self.coarse, None] + linear_logits(features, self.vectors, self.bias_shifts)
        return np.concatenate([old, new], axis=1)

    def probabilities(self, features: Floats) -> Floats:
        """[N, L + k], rows summing to 1; exactly 0 for the coarse label."""
        return masked_probabilities(self.logits(features), self.coarse)

    def undo(self) -> tuple[tuple[str, ...], Floats, Floats]:
        """Names, weight and bias before the split: the arrays themselves."""
        return self.names, self.weight, self.bias

    def replaced(self) -> tuple[tuple[str, ...], Floats, Floats]:
        """Names, weight [L - 1 + k, D] and bias of a head in which the parts stand in the coarse
        label's stead, after the labels that stay. Its softmax is ``probabilities`` without the
        coarse column."""
        stays = np.arange(len(self.names)) != self.coarse
        names = tuple(name for name, kept in zip(self.names, stays, strict=True) if kept)
        weight = np.concatenate([self.weight[stays], self.rows])
        return names + self.parts, weight, np.concatenate([self.bias[stays], self.biases])


def split_head(
    names: Sequence[str],
    weight: Floats,
    bias: Floats,
    *,
    label: str,
    parts: Sequence[str],
    vectors: Floats,
) -> SplitHead:
    """Split ``label`` into ``parts``, whose rows are its own plus ``vectors`` [k, D].

    Raises DataError if the head lacks the label or has a part already, on fewer than two parts, or
    on vectors of another shape or not finite.
    """
    if label not in names:
        raise DataError(f"no label {label!r} to split; the classifier has {list(names)}")
    check_parts(names, label, parts)
    coarse = list(names).index(label)
    if not np.isfinite(bias[coarse]):
        raise DataError(f"{label!r} had no training clips: there is no row to split; fit it anew")
    expected = (len(parts), weight.shape[1])
    if vectors.shape != expected or not np.isfinite(vectors).all():
        raise DataError(
            f"vectors have shape {list(vectors.shape)}, expected {list(expected)} and all finite"
        )
    return SplitHead(
        names=tuple(names),
        weight=weight,
        bias=bias,
        coarse=coarse,
        parts=tuple(parts),
        vectors=vectors.astype(weight.dtype),
        bias_shifts=np.zeros(len(parts), bias.dtype),
    )


def check_parts(names: Sequence[str], label: str, parts: Sequence[str]) -> None:
    """Raises DataError unless ``parts`` are at least two new and different labels."""
    if len(parts) < 2:
        raise DataError(f"{label!r} into {list(parts)}: a split needs at least two parts")
    if repeated := sorted({part for part in parts if list(parts).count(part) > 1}):
        raise DataError(f"parts {repeated} are named twice; name each once")
    if known := sorted(set(parts) & set(names)):
        raise DataError(f"parts {known} are labels of the classifier already; name new ones")
