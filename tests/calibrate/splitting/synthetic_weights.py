"""A weights file for the small data set: rows and features are sums of words. (No test file.)"""

import numpy as np
from numpy.typing import NDArray

from calibrate.splitting.benchmark import Side
from calibrate.splitting.benchmark_weights import BenchmarkWeights, ClipFeatures
from tests.calibrate.splitting.layouts import SCHEME, clip_names, fine_labels

WIDTH, CROPS = 48, 2


def vector(word: str) -> NDArray[np.float32]:
    """A long vector of one word, much the same from every other's: 8 at its own place."""
    words = sorted({word for label in fine_labels() for word in label.split()})
    return 8 * np.eye(len(words), WIDTH, dtype=np.float32)[words.index(word)]


def row(label: str) -> NDArray[np.float32]:
    """The sum of a label's words; of a coarse label, the mean of its fine ones."""
    if label in fine_labels():
        return np.sum([vector(word) for word in label.split()], axis=0)
    return np.mean([row(fine) for fine in SCHEME[label]], axis=0)


def features(split: str, noise: float) -> ClipFeatures:
    rng = np.random.default_rng(len(split))
    names = [(name, fine) for fine in fine_labels() for name in clip_names(fine, split)]
    values = np.stack([[row(fine) / 8] * CROPS for _, fine in names])
    values = (values + noise * rng.normal(size=values.shape)).astype(np.float32)
    return ClipFeatures(names=tuple(name for name, _ in names), values=values)


def weights_of(side: Side, noise: float = 0.0) -> BenchmarkWeights:
    return BenchmarkWeights(
        weight=np.stack([row(label) for label in side.labels]).astype(np.float32),
        bias=np.zeros(len(side.labels), np.float32),
        val=features("val", noise),
        train=features("train", noise),
        labels=side.labels,
    )
