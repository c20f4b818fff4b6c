"""What fitting the head classifier takes, beside scikit-learn's regressions one by one.

    python -m tests.benchmarks.head_fit [--rows 4000] [--width 3584] [--alone] [--json FILE]

Features like a language model's hidden states: correlated, of falling variance, classes that
overlap. The reference is what the head was fitted with before: in float64, 5 folds of 6 strengths,
then all rows. One fold of it is fitted and counted five times; ``--alone`` leaves it out. Processor
time of all cores.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from calibrate.head import C_GRID, Head, fit
from tests.benchmarks.figures import Figure, report

LABELS = ("a", "b", "c", "d")
TRACES = 4  # of a clip


def features(rows: int, width: int, seed: int = 0) -> tuple[NDArray[np.float32], list[str]]:
    """Features and labels of ``rows`` traces."""
    draw = np.random.default_rng(seed)
    rank = min(width, 256)
    basis = draw.normal(size=(rank, width)) * (np.arange(1, rank + 1) ** -0.7)[:, None]
    truth = np.repeat(draw.integers(0, len(LABELS), -(-rows // TRACES)), TRACES)[:rows]
    clip = np.repeat(draw.normal(size=(-(-rows // TRACES), rank)), TRACES, axis=0)[:rows]
    hidden = 0.8 * draw.normal(size=(len(LABELS), rank))[truth] + 4 * clip
    values = np.empty((rows, width), np.float32)
    for start in range(0, rows, 4_096):
        block = slice(start, start + 4_096)
        noisy = hidden[block] + draw.normal(size=hidden[block].shape)
        values[block] = noisy @ basis + 0.1 * draw.normal(size=(len(noisy), width))
    return values, [LABELS[label] for label in truth]


def reference_s(rows: NDArray[np.float32], labels: list[str]) -> float:
    """Seconds of all fits by scikit-learn: those of one fold five times, and one of all rows."""
    own = rows.astype(np.float64)
    taken = 0.0
    for c in C_GRID:
        start = time.process_time()
        train = own[np.arange(len(own)) % 5 != 0]
        scaled = (train - train.mean(axis=0)) / train.std(axis=0)
        kept = [label for n, label in enumerate(labels) if n % 5 != 0]
        LogisticRegression(C=c, max_iter=2000).fit(scaled, kept)
        taken += time.process_time() - start
    return taken * 5 + taken / len(C_GRID) * 5 / 4


def figures(rows: int, width: int, alone: bool) -> Iterator[Figure]:
    """All rows."""
    values, labels = features(rows, width)
    clips = [str(number // TRACES) for number in range(rows)]
    start = time.process_time()
    head: Head = fit(values, labels, LABELS, clips)
    ours = time.process_time() - start
    yield Figure(f"head of {rows} x {width}", ours, "s")
    yield Figure("chosen C", head.c, "")
    right = [LABELS[i] for i in head.probabilities(values).argmax(axis=1)]
    share = sum(a == b for a, b in zip(right, labels, strict=True)) / rows
    yield Figure("right of its own rows", share, "")
    if not alone:
        reference = reference_s(values, labels)
        yield Figure("scikit-learn, float64", reference, "s")
        yield Figure("times as fast", reference / ours, "", limit=10.0)


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4_000)
    parser.add_argument("--width", type=int, default=3_584)
    parser.add_argument("--alone", action="store_true", help="without the reference")
    parser.add_argument("--json", type=Path, help="where the rows are written")
    given = parser.parse_args()
    return report(figures(given.rows, given.width, given.alone), given.json)


if __name__ == "__main__":
    raise SystemExit(main())
