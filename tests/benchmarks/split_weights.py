"""Synthetic weights file for SSv2-Split or FineGym-Split, for ``deepintuit split-benchmark``.

    python -m tests.benchmarks.split_weights DIR SIDE OUT.safetensors [--noise 5] [--crops 2]

    row of a fine label   = vector of its group + unit sum of its phrase's words + 0.2 of its own
    row of a coarse label = mean of its fine labels' rows
    crop of a clip        = 8 * (row of its fine label + noise)

The data set's files are real, and so are its texts; only rows and features are made up.
"""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibrate.splitting.benchmark import Clips, Side, read_side
from calibrate.splitting.benchmark_weights import BenchmarkWeights, ClipFeatures, write_weights
from calibrate.splitting.label_texts import LabelTexts

WIDTH = 384  # of ViT-Small, the paper's backbone
_OWN_SHARE = 0.2
_FEATURE_LENGTH = 8

Floats = NDArray[np.float64]


def word_vector(word: str) -> Floats:
    """The same vector every time, of a length of about 1."""
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).normal(size=WIDTH) / np.sqrt(WIDTH)


def fine_rows(side: Side) -> dict[str, Floats]:
    """Row of each fine label of the data set."""
    phrases = LabelTexts(groups=side.groups).completed().modifiers
    rows = {}
    for coarse, labels in side.groups.items():
        for label in labels:
            rows[label] = word_vector(f"base:{coarse}") + _OWN_SHARE * word_vector(f"own:{label}")
            if label in phrases:
                words = np.sum(
                    [word_vector(word) for word in phrases[label].lower().split()], axis=0
                )
                rows[label] += words / np.linalg.norm(words)
    return rows


def synthetic_weights(side: Side, *, noise: float, crops: int) -> BenchmarkWeights:
    """Head of a side, features of all val clips and of the targets' train clips."""
    rows = fine_rows(side)
    split = {target.name for target in side.targets}
    base = {
        label: np.mean([rows[fine] for fine in side.groups[label]], axis=0)
        if label in split
        else rows[label]
        for label in side.labels
    }
    rng = np.random.default_rng(0)

    def features(clips: Clips, truth: dict[int, str], places: Sequence[int]) -> ClipFeatures:
        clean = np.stack([
            rows[truth[place]] if place in truth else base[side.labels[clips.labels[place]]]
            for place in places
        ])  # fmt: skip
        drawn = rng.normal(size=(len(places), crops, WIDTH)) / np.sqrt(WIDTH)
        values = _FEATURE_LENGTH * (clean[:, None] + noise * drawn)
        names = tuple(clips.names[place] for place in places)
        return ClipFeatures(names=names, values=values.astype(np.float16))

    val = {
        int(place): target.fine[part]
        for target in side.targets
        for place, part in zip(target.equivalent, target.equivalent_labels, strict=True)
    }
    train = {
        int(place): target.fine[part]
        for target in side.targets
        for place, part in zip(target.train, target.train_labels, strict=True)
    }
    return BenchmarkWeights(
        weight=np.stack(list(base.values())).astype(np.float32),
        bias=np.zeros(len(base), np.float32),
        val=features(side.val, val, range(len(side.val))),
        train=features(side.train, train, sorted(train)),
        labels=side.labels,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description="synthetic weights of a split benchmark")
    parser.add_argument("dataset", type=Path)
    parser.add_argument("side", choices=("A", "B"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--noise", type=float, default=5.0, help="length of a crop's noise")
    parser.add_argument("--crops", type=int, default=2)
    options = parser.parse_args(arguments)
    side = read_side(options.dataset, options.side)
    weights = synthetic_weights(side, noise=options.noise, crops=options.crops)
    write_weights(options.out, weights)


if __name__ == "__main__":
    main()
