import json
from pathlib import Path

import numpy as np
import pytest

from calibrate.classifier import load_classifier
from calibrate.thresholds.held_out import HELD_OUT_FILE, HeldOut, ScoredPart
from tests.calibrate.classifiers import publish
from wire.errors import DataError


def scored(num: int = 50) -> HeldOut:
    draw = np.random.default_rng(1)
    rows = draw.dirichlet((1, 1), size=num)
    part = ScoredPart.of(draw.integers(2, size=num), rows, draw.random(num) < 0.9)
    none = ScoredPart.of([], np.empty((0, 2)))
    return HeldOut(label_names=("abnormal", "normal"), held_out=part, val=none)


def test_what_is_read_is_what_was_written_to_the_bit(tmp_path: Path):
    written = scored()
    written.save(tmp_path)
    read = HeldOut.load(tmp_path)
    assert read is not None
    assert read.label_names == written.label_names
    for one, other in ((read.held_out, written.held_out), (read.val, written.val)):
        assert one.truth.tobytes() == other.truth.tobytes()
        assert one.probabilities.tobytes() == other.probabilities.tobytes()
        assert one.probabilities.shape == other.probabilities.shape
        assert one.read.tobytes() == other.read.tobytes()


def test_a_classifier_is_published_with_them_and_their_bytes_count(tmp_path: Path):
    without = publish(tmp_path)
    published = publish(tmp_path, out=tmp_path / "b", held_out=scored())
    assert HELD_OUT_FILE in published.files
    assert published.version != without.version
    read = HeldOut.load(load_classifier(tmp_path / "b").path)
    assert read is not None
    assert len(read.held_out) == 50
    assert HeldOut.load(without.path) is None


def test_they_hold_no_name_of_a_clip(tmp_path: Path):
    scored().save(tmp_path)
    content = json.loads((tmp_path / HELD_OUT_FILE).read_text())
    assert set(content) == {"format", "label_names", "held_out", "val"}
    assert set(content["held_out"]) == {"truth", "probabilities", "read"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": 2}, "format 2, expected 1"),
        ({"label_names": ["a", "b", "c"]}, r"\[2\] numbers for 3 labels"),
        ({"held_out": {"truth": [2], "probabilities": [[0.5, 0.5]], "read": [True]}}, "below 2"),
        ({"held_out": {"truth": [], "probabilities": [[0.5, 0.5]], "read": [True]}}, "0 labels, 1"),
        ({"more": 1}, "unknown key"),
    ],
)
def test_a_damaged_file_is_refused_with_what_is_wrong(tmp_path: Path, change, why):
    scored().save(tmp_path)
    file = tmp_path / HELD_OUT_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DataError, match=why):
        HeldOut.load(tmp_path)
    file.write_text(file.read_text()[:-9])
    with pytest.raises(DataError, match="publish the classifier anew"):
        HeldOut.load(tmp_path)
