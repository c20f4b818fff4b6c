from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from calibrate.splitting.benchmark import read_side
from tests.calibrate.splitting.layouts import SCHEME, clip_names, write_layout
from wire.errors import DataError


def test_a_side_has_its_targets_with_their_clips(tmp_path: Path):
    side = read_side(write_layout(tmp_path / "SSv2-Split"), "A")
    assert side.labels == ("push", "drop", "pull left", "pull right", "pull twice", "lift left",
                           "lift right", "hold")  # fmt: skip
    push, drop = side.targets
    assert (push.name, push.index, push.fine) == ("push", 0, tuple(SCHEME["push"]))
    assert [side.val.names[place] for place in push.equivalent] == [
        name for label in SCHEME["push"] for name in clip_names(label, "val")
    ]
    assert push.equivalent_labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [side.train.names[place] for place in drop.train] == [
        name for label in SCHEME["drop"] for name in clip_names(label, "train")
    ]
    assert drop.train_labels.tolist() == [0, 0, 1, 1]


def test_equivalent_and_unrelated_clips_are_all_val_clips(tmp_path: Path):
    directory = write_layout(tmp_path / "data")
    for side in (read_side(directory, "A"), read_side(directory, "B")):
        for target in side.targets:
            both = np.concatenate([target.equivalent, target.unrelated])
            assert sorted(both) == list(range(len(side.val)))
            assert not len(target.shared)


def test_kept_groups_are_those_that_the_side_does_not_split(tmp_path: Path):
    directory = write_layout(tmp_path / "data")
    assert list(read_side(directory, "A").kept) == ["pull", "lift", "hold"]
    assert list(read_side(directory, "B").kept) == ["push", "drop", "hold"]


def test_clips_of_a_fine_label_with_a_targets_name_are_in_neither_set_and_its_row_is_no_modifier(
    tmp_path: Path,
):
    scheme = {**SCHEME, "lift": ["lift left", "drop"]}  # as in FineGym-A
    side = read_side(write_layout(tmp_path / "data", scheme), "A")
    push, drop = side.targets
    assert [side.val.names[place] for place in drop.shared] == clip_names("drop", "val")
    assert not len(push.shared)
    assert side.kept["lift"] == ("lift left",)


def test_a_directory_that_is_no_data_set_says_what_was_expected(tmp_path: Path):
    with pytest.raises(DataError, match=r"has no group_scheme\.json; expected SSv2-Split or"):
        read_side(tmp_path, "A")


def test_a_side_that_is_not_there_is_named_with_those_that_are(tmp_path: Path):
    with pytest.raises(DataError, match=r"no side 'C', but \['A', 'B'\]; give --side A or B"):
        read_side(write_layout(tmp_path / "data"), "C")


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        ("A/val.csv", lambda t: t.replace(",0", ",99", 1), "with an index from 0 to 7"),
        ("A/val.csv", lambda t: t.replace(",0", ",-1", 1), "expected FILE,INDEX"),
        ("A/val.csv", lambda t: t.replace(",0", "", 1), "line 1: 'val-push_left-0.mp4'"),
        ("A/val.csv", lambda t: t + t.splitlines()[0] + "\n", "val-push_left-0.mp4 twice"),
        ("A/push/ft_set.csv", lambda t: t.replace("train-push", "train-pusk", 1), "not in train"),
        ("A/push/ft_set.csv", lambda t: t.split("\n", 1)[1], "has 5 clips, but train.csv has 6"),
        ("A/push/equivalent_set.csv", lambda t: t.replace(",8", ",11"), "from 8 to 10"),
        ("A/push/equivalent_set.csv", lambda t: t.split("\n", 1)[1], "lack 1 of val.csv"),
        ("A/push/equivalent_set.csv", lambda t: t.replace("push_left", "drop_left", 1), "line 1"),
        ("A/push/unrelated_set.csv", lambda t: t.replace(",1", ",2", 1), "another base label"),
        ("A/push/unrelated_set.csv", lambda t: t + "val-push_left-0.mp4,0\n", "1 clips in common"),
        ("A/labels.json", lambda t: t.replace("7", "8"), "are not 0 to 7, each once"),
        ("A/labels.json", lambda t: t.replace('"hold"', '"held"'), "'held', which is in no group"),
        ("A/labels.json", lambda t: t.replace('"drop"', '"dropp"'), "target 'drop' is no group"),
        ("A/labels.json", lambda t: "[]", "is no table"),
        ("A/labels.json", lambda t: "{", "is no JSON"),
        ("group_scheme.json", lambda t: t.replace('["push", ', "["), "'push' is a folder or a"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_named(
    tmp_path: Path, file: str, edit: Callable[[str], str], message: str
):
    directory = write_layout(tmp_path / "data")
    text = (directory / file).read_text()
    assert edit(text) != text
    (directory / file).write_text(edit(text))
    with pytest.raises(DataError, match=message) as error:
        read_side(directory, "A")
    assert str(directory) in str(error.value)


def test_a_file_that_is_missing_is_named(tmp_path: Path):
    directory = write_layout(tmp_path / "data")
    (directory / "A/push/ft_set.csv").unlink()
    with pytest.raises(DataError, match=r"cannot read .*A/push/ft_set\.csv: No such file"):
        read_side(directory, "A")
