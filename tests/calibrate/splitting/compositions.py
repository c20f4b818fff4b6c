"""A classifier whose rows are compositions: base of the group + modifier + noise.

    group g, modifier m -> label "g m", row = base[g] + modifier[m] + noise
    coarse label of g   -> row = mean of the rows that its labels would have
    clip of a label     -> feature = its noiseless row + noise

Texts are sums of word vectors, so that equal modifiers have near texts.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibrate.splitting.dictionary import Dictionary, Grouping, SubClass, build_dictionary
from calibrate.splitting.edit import SplitHead, split_head
from calibrate.splitting.metrics import Clips, Evaluation, one_crop_each

Floats = NDArray[np.float64]


class WordVectors:
    """A text encoder: the sum of a random vector per word."""

    name = "sums of random word vectors"

    def __init__(self, width: int = 64) -> None:
        self._width = width

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = [sum(self._word(word) for word in text.split()) for text in texts]
        return np.array(rows, np.float32)

    def _word(self, word: str) -> Floats:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
        return np.random.default_rng(seed).normal(size=self._width)


@dataclass(frozen=True)
class Compositions:
    """A head, its groups, and the true rows of all labels."""

    names: tuple[str, ...]
    weight: Floats
    bias: Floats
    grouping: Grouping
    phrases: dict[str, str]
    truth: dict[str, Floats]
    targets: tuple[str, ...]
    """Coarse labels of the head."""
    width: int

    @property
    def dictionary(self) -> Dictionary:
        return build_dictionary(self.weight, self.names, self.grouping, self.phrases)

    def parts(self, target: str) -> list[SubClass]:
        return [SubClass(label=n, modifier=self.phrases[n]) for n in self.grouping.groups[target]]

    def split(self, target: str, vectors: NDArray[np.floating]) -> SplitHead:
        return split_head(
            self.names,
            self.weight,
            self.bias,
            label=target,
            parts=self.grouping.groups[target],
            vectors=vectors,
        )

    def clips(self, labels: Sequence[str], per_label: int, noise: float, seed: int) -> Floats:
        """Features [len(labels) * per_label, D], a label's clips in a row."""
        draw = np.random.default_rng(seed)
        rows = np.repeat(np.stack([self.truth[label] for label in labels]), per_label, axis=0)
        return rows + noise * draw.normal(size=rows.shape) / np.sqrt(self.width)

    def evaluation(self, target: str, per_label: int, noise: float, seed: int) -> Evaluation:
        """Clips of the target's parts, and of all other labels (of other coarse ones, of the
        labels that they stand for)."""
        parts = self.grouping.groups[target]
        coarse_of = {n: t for t in self.targets for n in self.grouping.groups[t]}
        others = [label for label in self.truth if coarse_of.get(label) != target]
        columns = [self.names.index(coarse_of.get(label, label)) for label in others]
        return Evaluation(
            (self.weight, self.bias),
            self.names.index(target),
            parts,
            equivalent=labelled(
                self.clips(parts, per_label, noise, seed),
                [len(self.names) + number for number in range(len(parts))],
                per_label,
            ),
            unrelated=labelled(self.clips(others, per_label, noise, seed + 1), columns, per_label),
        )


def labelled(features: Floats, columns: Sequence[int], per_label: int) -> Clips:
    return one_crop_each(features, np.repeat(columns, per_label))


def compositions(
    *,
    num_split: int = 3,
    num_kept: int = 6,
    num_modifiers: int = 4,
    singletons: int = 2,
    width: int = 96,
    noise: float = 0.0,
    seed: int = 0,
) -> Compositions:
    """Groups that each have all modifiers; ``noise``: length of a row's noise, where base and
    modifier have length 1."""
    draw = np.random.default_rng(seed)

    def units(count: int) -> Floats:
        return draw.normal(size=(count, width)) / np.sqrt(width)

    groups = {
        f"group{g}": [f"group{g} mod{m}" for m in range(num_modifiers)]
        for g in range(num_split + num_kept)
    }
    groups |= {f"alone{s}": [f"alone{s}"] for s in range(singletons)}
    bases, modifiers = units(num_split + num_kept), units(num_modifiers)
    truth = {
        f"group{g} mod{m}": bases[g] + modifiers[m]
        for g in range(num_split + num_kept)
        for m in range(num_modifiers)
    }
    truth |= dict(zip((f"alone{s}" for s in range(singletons)), 2 * units(singletons), strict=True))
    noisy = {label: row + noise * units(1)[0] for label, row in truth.items()}
    targets = tuple(f"group{g}" for g in range(num_split))
    rows = {name: np.mean([noisy[label] for label in groups[name]], axis=0) for name in targets}
    rows |= {label: row for label, row in noisy.items() if label.split()[0] not in targets}
    return Compositions(
        names=tuple(rows),
        weight=np.stack(list(rows.values())) * 8,
        bias=0.1 * draw.normal(size=len(rows)),
        grouping=Grouping(groups={name: tuple(labels) for name, labels in groups.items()}),
        phrases={label: label.split()[-1] for label in truth if " " in label},
        truth=truth,
        targets=targets,
        width=width,
    )
