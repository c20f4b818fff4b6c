"""A classifier whose rows are compositions: base of the group + modifier + noise.

    group g, modifier m -> label "g m", row = base[g] + modifier[m] + noise
    coarse label of g   -> row = mean of the rows that its labels would have
    clip of a label     -> feature = 8 * (its row + what all clips share + noise)

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
    """A head, its groups, and the rows of all fine labels, those of split groups among them."""

    names: tuple[str, ...]
    weight: Floats
    bias: Floats
    grouping: Grouping
    phrases: dict[str, str]
    truth: dict[str, Floats]
    targets: tuple[str, ...]
    """Coarse labels of the head."""
    common: Floats
    """[D] what all clips share."""

    @property
    def width(self) -> int:
        return self.weight.shape[1]

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
        """Features [len(labels) * per_label, D], a label's clips one after another; ``noise``:
        its length beside that of a base."""
        draw = np.random.default_rng(seed)
        rows = np.repeat(np.stack([self.truth[label] for label in labels]), per_label, axis=0)
        return 8 * (self.common + rows + noise * draw.normal(size=rows.shape) / np.sqrt(self.width))

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
    """Groups that each have all of the modifiers."""
    phrases = [f"mod{number}" for number in range(num_modifiers)]
    return composed(
        [phrases] * num_split, [phrases] * num_kept, singletons, width=width, noise=noise, seed=seed
    )


def composed(
    split: Sequence[Sequence[str]],
    kept: Sequence[Sequence[str]],
    singletons: int,
    *,
    width: int,
    noise: float,
    seed: int,
    modifier: float = 1.0,
    common: float = 0.0,
) -> Compositions:
    """Groups with given modifier phrases, those of ``split`` known by their coarse labels alone.
    The vector of a phrase is that of its words, of length ``modifier``, and ``noise`` that of a
    row's own share, where a base has length 1; ``common``: of what all clips share."""
    draw = np.random.default_rng(seed)

    def units(count: int) -> Floats:
        return draw.normal(size=(count, width)) / np.sqrt(width)

    phrases = {
        f"group{g} {phrase}": phrase for g, own in enumerate([*split, *kept]) for phrase in own
    }
    words = sorted({word for phrase in phrases.values() for word in phrase.split()})
    share = dict(zip(words, units(len(words)), strict=True))
    base = dict(
        zip(
            (f"group{g}" for g in range(len(split) + len(kept))),
            units(len(split) + len(kept)),
            strict=True,
        )
    )
    truth = {
        label: base[label.split()[0]]
        + modifier * sum(share[word] for word in phrase.split()) / np.sqrt(len(phrase.split()))
        + noise * units(1)[0]
        for label, phrase in phrases.items()
    }
    truth |= dict(zip((f"alone{s}" for s in range(singletons)), 2 * units(singletons), strict=True))
    groups: dict[str, list[str]] = {}
    for label in truth:
        groups.setdefault(label.split()[0], []).append(label)
    targets = tuple(f"group{g}" for g in range(len(split)))
    rows = {name: np.mean([truth[label] for label in groups[name]], axis=0) for name in targets}
    rows |= {label: row for label, row in truth.items() if label.split()[0] not in targets}
    return Compositions(
        names=tuple(rows),
        weight=np.stack(list(rows.values())),
        bias=0.1 * draw.normal(size=len(rows)),
        grouping=Grouping(groups={name: tuple(labels) for name, labels in groups.items()}),
        phrases=phrases,
        truth=truth,
        targets=targets,
        common=common * units(1)[0],
    )
