"""Builders of a classifier whose head is compositional: labels of a first and a last event. (No
test file.)"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibrate.calibration import Calibration
from calibrate.calibrator import Calibrator
from calibrate.classifier import Classifier, publish_classifier
from calibrate.conformal import fit_sets
from calibrate.head import Head
from calibrate.risk import fit_threshold
from tests.calibrate.classifiers import make_description, make_provenance, write_model
from wire.labels import Label

FIRST, LAST = ("down", "left", "up"), ("grow", "left", "up")
COARSE = "left"
PARTS = tuple(f"left then {last}" for last in LAST)
NAMES = tuple(sorted([COARSE, *(f"{a} then {b}" for a in FIRST if a != COARSE for b in LAST)]))
WIDTH = len(FIRST) + len(LAST)


class Words:
    """Text encoder: how often each word of the labels stands in a text."""

    name = "words"
    _known = sorted({*FIRST, *LAST, "then"})

    def encode(self, texts: Sequence[str]) -> Any:
        rows = [[text.split().count(word) for word in self._known] for text in texts]
        return np.array(rows, np.float32)


def features_of(first: str, last: str) -> np.ndarray:
    """Hidden state of a clip with these events."""
    row = np.zeros(WIDTH)
    row[FIRST.index(first)], row[len(FIRST) + LAST.index(last)] = 1.0, 1.0
    return row


def make_head(seed: int = 0) -> Head:
    """Rows that point at the features of their clips, with a little noise; the mean is not 0 and
    the scale not 1, which a split must take care of."""
    draw = np.random.default_rng(seed)
    rows = []
    for name in NAMES:
        first, _, last = (*name.split(), "", "")[:3]
        row = 4 * features_of(first, last or LAST[0])
        if not last:
            row[len(FIRST) :] = 4 / len(LAST)
        rows.append(row + draw.normal(0, 0.01, WIDTH))
    weight = np.array(rows)
    return Head(
        label_names=NAMES,
        mean=np.full(WIDTH, 0.25),
        scale=np.full(WIDTH, 0.5),
        weight=weight,
        bias=draw.normal(0, 0.01, len(NAMES)),
        c=1.0,
    )


def make_calibration() -> Calibration:
    """A temperature, sets and a threshold that were attainable."""
    draw = np.random.default_rng(1)
    probabilities = draw.dirichlet(np.full(len(NAMES), 0.1), 200)
    truth = probabilities.argmax(axis=1)
    return Calibration(
        calibrator=Calibrator(label_names=NAMES, weights={"head": 0.8}),
        sets=(fit_sets(probabilities, truth, NAMES, 0.9, "marginal"),),
        thresholds=(fit_threshold(probabilities.max(axis=1), np.ones(200, np.bool_), 0.1, 0.9),),
    )


def publish_head(root: Path, policy: Path | None = None, **changes: Any) -> Classifier:
    """Publish a classifier that reads such a head alone."""
    description = make_description(
        **{
            "sources": ("head",),
            "labels": tuple(Label(name=name) for name in NAMES),
            "label_codes": {},
            "head_features": "video",
            **changes,
        }
    )
    return publish_classifier(
        root / "parent",
        description,
        calibration=make_calibration(),
        provenance=make_provenance(),
        policy_dir=policy or write_model(root / "stages" / "grpo" / "model"),
        head=make_head(),
    )
