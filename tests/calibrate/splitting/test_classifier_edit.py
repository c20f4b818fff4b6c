"""A split classifier is a classifier of its own, and becomes the one before it to the bit."""

from pathlib import Path

import numpy as np
import pytest

from calibrate.choice import lacks
from calibrate.classifier import Classifier, load_classifier
from calibrate.head import Head
from calibrate.splitting.classifier_edit import (
    SplitRecord,
    read_record,
    split_classifier,
    splittable_head,
    undo_split,
)
from calibrate.splitting.edit import SplitHead, split_head
from tests.calibrate.splitting.head_classifiers import (
    COARSE,
    NAMES,
    PARTS,
    WIDTH,
    features_of,
    publish_head,
)
from wire.errors import ConfigError, DataError

VECTORS = np.random.default_rng(3).normal(size=(3, WIDTH))


def head_of(classifier: Classifier) -> Head:
    assert classifier.head_dir is not None
    return Head.load(classifier.head_dir)


def edit(head: Head, label: str = COARSE, parts: tuple[str, ...] = PARTS) -> SplitHead:
    rows = VECTORS[: len(parts)]
    return split_head(
        head.label_names, head.weight, head.bias, label=label, parts=parts, vectors=rows
    )


def record(parent: Classifier, label: str = COARSE, parts: tuple[str, ...] = PARTS) -> SplitRecord:
    return SplitRecord(
        parent=parent.version,
        label=label,
        modifiers={part: part.split()[-1] for part in parts},
        method="retrieval",
        encoder="words",
        seed=0,
    )


def split(parent: Classifier, out: Path) -> Classifier:
    return split_classifier(parent, out, edit(head_of(parent)), record(parent))


def contents(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_rows_that_stay_are_the_same_bits_and_the_parts_stand_in_the_labels_stead(
    tmp_path: Path,
) -> None:
    parent = publish_head(tmp_path)
    edited = split(parent, tmp_path / "edited")
    before, after = head_of(parent), head_of(edited)
    assert after.label_names == tuple(sorted({*NAMES, *PARTS} - {COARSE}))
    assert edited.description.label_names == after.label_names
    for name in set(NAMES) - {COARSE}:
        old, new = NAMES.index(name), after.label_names.index(name)
        assert before.weight[old].tobytes() == after.weight[new].tobytes()
        assert before.bias[old].tobytes() == after.bias[new].tobytes()
    coarse = NAMES.index(COARSE)
    for part, vector in zip(PARTS, VECTORS, strict=True):
        place = after.label_names.index(part)
        np.testing.assert_array_equal(after.weight[place], before.weight[coarse] + vector)
        assert after.bias[place] == before.bias[coarse]
    names = [n for n in before.label_names if n != COARSE]
    clips = np.stack([features_of("up", "up"), features_of("left", "grow")])
    masked = edit(before).probabilities((clips - before.mean) / before.scale)
    kept = [n for n in (*before.label_names, *PARTS) if n != COARSE]
    columns = [after.label_names.index(n) for n in kept]
    np.testing.assert_allclose(
        after.probabilities(clips)[:, columns], np.delete(masked, coarse, axis=1), rtol=1e-12
    )
    assert set(names) < set(after.label_names)


def test_undo_gives_the_classifier_before_to_the_bit(tmp_path: Path) -> None:
    parent = publish_head(tmp_path)
    edited = split(parent, tmp_path / "edited")
    before = contents(parent.path)
    assert edited.version != parent.version
    # the parent may be gone: all that it was is in the edited one
    parent.path.rename(tmp_path / "away")
    undone = undo_split(load_classifier(edited.path), tmp_path / "undone")
    assert undone.version == parent.version
    assert contents(undone.path) == before
    weights = [folder / "policy/model.safetensors" for folder in (edited.path, undone.path)]
    assert weights[0].samefile(weights[1]), "a published classifier's weights are linked"


def test_a_split_one_can_be_split_again_and_undone_step_by_step(tmp_path: Path) -> None:
    parent = publish_head(tmp_path)
    once = split(parent, tmp_path / "once")
    more = ("up to the top", "up to the edge")
    again = edit(head_of(once), "up then up", more)
    twice = split_classifier(once, tmp_path / "twice", again, record(once, "up then up", more))
    assert twice.description.shown_labels == parent.description.labels, "prompts show what they did"
    back = undo_split(twice, tmp_path / "back")
    assert back.version == once.version
    assert undo_split(back, tmp_path / "first").version == parent.version


def test_what_was_promised_of_the_label_is_not_promised_of_its_parts(tmp_path: Path) -> None:
    parent = publish_head(tmp_path)
    edited = split(parent, tmp_path / "edited")
    calibration, before = edited.calibration, parent.calibration
    assert all(sets.attainable for sets in before.sets[:1])
    assert not any(sets.attainable for sets in calibration.sets)
    assert not any(one.attainable for one in calibration.thresholds)
    assert calibration.sets[0].coverage == before.sets[0].coverage
    assert calibration.thresholds[0].max_error == before.thresholds[0].max_error
    assert calibration.calibrator.weights == before.calibrator.weights, "the temperature stays"
    assert any("not attainable" in line for line in lacks(calibration))
    assert "not attainable" in (edited.path / "README.md").read_text()


def test_the_card_of_a_split_promises_nothing_that_was_not_measured(tmp_path: Path) -> None:
    parent = publish_head(tmp_path)
    edited = split(parent, tmp_path / "edited")
    text = (edited.path / "README.md").read_text()
    assert f"`{COARSE}` was split into {', '.join(PARTS)} by retrieval" in text
    assert parent.version[:12] in text
    assert "no temperature was fitted" not in text, "the one of the classifier before is kept"
    assert "with calibrated probabilities" not in text
    assert "after clip and label prompt, without a trace" in text
    before = (parent.path / "README.md").read_text()
    assert "## Split of a label" not in before
    assert "with calibrated probabilities" in before


def test_the_directory_says_how_it_was_made(tmp_path: Path) -> None:
    parent = publish_head(tmp_path)
    edited = split(parent, tmp_path / "edited")
    assert read_record(edited) == record(parent)
    assert edited.provenance.settings["split.parent"] == parent.version
    assert edited.provenance.settings["split.method"] == "retrieval"
    assert edited.description.head_features == "video"
    changed = edited.path / "split/split.json"
    changed.write_text(changed.read_text().replace("retrieval", "alignments"))
    with pytest.raises(DataError, match=r"split\.json"):
        load_classifier(edited.path)


@pytest.mark.parametrize(
    ("label", "into", "says"),
    [
        ("lefft", PARTS, "did you mean 'left'"),
        (COARSE, ("left then up",), "at least two parts"),
        (COARSE, ("left then up", "up then up"), "labels of the classifier already"),
    ],
)
def test_what_cannot_be_split_is_said(
    tmp_path: Path, label: str, into: tuple[str, ...], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        splittable_head(publish_head(tmp_path), label, into)


def test_a_part_that_is_spelled_as_a_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises((DataError, ConfigError), match="Up then  up"):
        splittable_head(publish_head(tmp_path), COARSE, ("left then up", "Up then  up"))


def test_a_head_that_reads_traces_is_refused_with_the_command_that_fits_another(
    tmp_path: Path,
) -> None:
    parent = publish_head(tmp_path, head_features="trace")
    with pytest.raises(DataError, match=r"fit .* --set calibrate\.head_features=video"):
        splittable_head(parent, COARSE, PARTS)


def test_one_that_was_not_split_cannot_be_undone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not the result of a split"):
        undo_split(publish_head(tmp_path), tmp_path / "out")


def test_nothing_is_left_where_a_directory_is_taken(tmp_path: Path) -> None:
    parent, out = publish_head(tmp_path), tmp_path / "taken"
    out.mkdir()
    (out / "file").write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        split(parent, out)
    assert contents(out) == {"file": b"mine"}
    assert not (tmp_path / "taken.partial").exists()
