import json
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from calibrate import head as linear_head
from calibrate.label_error_file import label_errors_of_fit, write_label_errors
from tests.groups import make_sample
from wire.types import Sample

NAMES = ("fall", "run", "walk")
PLANTED = {"clip-7": "walk", "clip-40": "fall", "clip-60": "run"}
"""Clip -> the wrong label that it is given."""


def clips() -> tuple[NDArray[np.float32], list[Sample]]:
    """Hidden states of two traces per clip, in three clouds that nearly touch; some clips bear the
    label of another cloud."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(3, 16)) * 1.5
    rows, samples = [], []
    for number in range(90):
        name, label = f"clip-{number}", NAMES[number % 3]
        sample = make_sample(PLANTED.get(name, label), id=name)
        for _ in range(2):
            rows.append(centres[number % 3] + rng.normal(size=16))
            samples.append(sample)
    return np.array(rows, np.float32), samples


def fitted(features: NDArray[np.float32], samples: list[Sample]) -> linear_head.Head:
    labels, ids = [one.label for one in samples], [one.id for one in samples]
    return linear_head.fit(features, labels, NAMES, ids)


def test_planted_label_errors_are_in_front_with_the_label_that_they_should_have(tmp_path: Path):
    features, samples = clips()
    for name, wrong in PLANTED.items():
        right = NAMES[int(name.partition("-")[2]) % 3]
        assert right != wrong
    errors = label_errors_of_fit(fitted(features, samples), features, samples)
    assert errors is not None
    write_label_errors(tmp_path / "label_errors.jsonl", errors)
    lines = [json.loads(line) for line in (tmp_path / "label_errors.jsonl").open()]
    front = lines[: len(PLANTED)]
    assert {line["sample_id"]: line["label"] for line in front} == PLANTED
    marked = [line["marked"] for line in lines]
    assert marked == sorted(marked, reverse=True)
    assert 1 <= sum(marked) <= len(PLANTED)  # confident learning marks no clip that is right
    for line in front:
        assert line["suggested"] == NAMES[int(line["sample_id"].partition("-")[2]) % 3]
        assert line["self_confidence"] < 0.2 < line["suggested_probability"]
    assert [line["rank"] for line in lines] == list(range(1, len(lines) + 1))
    assert errors.num_clips == 90


def test_without_cleanlab_nothing_is_ranked(monkeypatch: pytest.MonkeyPatch):
    features, samples = clips()
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "cleanlab", raising=False)
    assert label_errors_of_fit(fitted(features, samples), features, samples) is None


def test_with_too_few_clips_for_folds_nothing_is_ranked_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
):
    features, samples = clips()
    few = [row for row, one in enumerate(samples) if one.label != "walk" or one.id == "clip-2"]
    head = fitted(features[few], [samples[row] for row in few])
    assert label_errors_of_fit(head, features[few], [samples[row] for row in few]) is None
    assert "not ranked: a label has one clip only" in caplog.text
