import os
from pathlib import Path

import pytest

from rollout.importers.parsers.folder import NO_CLASS, NO_TEXT, NO_VIDEO
from tests.rollout.importers.builders import Workspace
from wire.errors import ConfigError, DataError
from wire.types import Split

RATIO = {Split.TRAIN: 0.5, Split.TEST: 0.5}


def found(workspace: Workspace) -> dict[str, tuple[str, str]]:
    return {name: (row["label"], row["split"]) for name, row in workspace.rows.items()}


def test_a_folder_per_class_gives_labels_and_the_ratio_splits(workspace: Workspace) -> None:
    names = [f"data/{label}/{n}.mp4" for label in ("pet dog", "cat") for n in range(4)]
    workspace.files(*names)
    report = workspace.read(str(workspace.folder / "data"), ratio=RATIO)
    rows = found(workspace)
    assert {rows[f"cat/{n}"][0] for n in range(4)} == {"cat"}
    assert report.rows == {(s, label): 2 for s in ("train", "test") for label in ("pet dog", "cat")}
    assert Path(workspace.rows["cat/1"]["video"]) == workspace.folder / "data/cat/1.mp4"


def test_split_folders_are_kept_by_all_their_names(workspace: Workspace) -> None:
    workspace.files(
        *(f"d/{split}/{c}/x.mp4" for split in ("train", "validation", "Test") for c in "ab")
    )
    workspace.read(str(workspace.folder / "d"))
    assert found(workspace)["validation/a/x"] == ("a", "val")
    assert found(workspace)["Test/b/x"] == ("b", "test")
    assert found(workspace)["train/b/x"] == ("b", "train")


def test_a_split_of_the_source_can_be_divided_further(workspace: Workspace) -> None:
    workspace.files(*(f"d/train/{c}/{n}.mp4" for c in "ab" for n in range(4)))
    workspace.files(*(f"d/test/{c}/{n}.mp4" for c in "ab" for n in range(3)))
    ratio = {Split.TRAIN: 0.5, Split.CAL: 0.5}
    report = workspace.read(str(workspace.folder / "d"), ratio=ratio, divide=Split.TRAIN)
    assert {split: report.rows[split, "a"] for split in ("train", "cal", "test")} == {
        "train": 2,
        "cal": 2,
        "test": 3,
    }


def test_a_ratio_with_nothing_to_divide_is_an_error(workspace: Workspace) -> None:
    workspace.files(*(f"d/{split}/{c}/1.mp4" for split in ("train", "test") for c in "ab"))
    with pytest.raises(ConfigError, match=r"nothing to divide.*--divide train"):
        workspace.read(str(workspace.folder / "d"), ratio=RATIO)


def test_what_is_no_video_or_in_no_class_is_counted(workspace: Workspace) -> None:
    workspace.files("d/a/1.mp4", "d/b/2.WEBM", "d/b/deep/3.mkv", "d/lost.mp4", "d/a/notes.txt")
    workspace.files("d/.DS_Store", "d/.cache/c/4.mp4")
    report = workspace.read(str(workspace.folder / "d"), split=Split.TRAIN)
    assert found(workspace) == {
        "a/1": ("a", "train"),
        "b/2": ("b", "train"),
        "b/deep/3": ("b", "train"),
    }
    assert report.tally.examples == {NO_CLASS: ["lost.mp4"], NO_VIDEO: ["a/notes.txt"]}


def test_splits_beside_classes_are_an_error(workspace: Workspace) -> None:
    workspace.files("d/train/a/1.mp4", "d/train/b/1.mp4", "d/extra/1.mp4")
    with pytest.raises(DataError, match=r"d has folders of splits \(train\) beside others \(extra"):
        workspace.read(str(workspace.folder / "d"))


def test_a_linked_class_is_followed_and_a_circle_is_not(workspace: Workspace) -> None:
    workspace.files("d/a/1.mp4", "elsewhere/2.mp4")
    (workspace.folder / "d/b").symlink_to(workspace.folder / "elsewhere")
    (workspace.folder / "d/a/up").symlink_to(workspace.folder / "d")
    workspace.read(str(workspace.folder / "d"), split=Split.TRAIN)
    assert found(workspace) == {"a/1": ("a", "train"), "b/2": ("b", "train")}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "holds no records"),
        (["a/1.txt"], "is in no known format: it has 1 files"),
        (["a/1.mp4"], "but not in the folders of two classes"),
    ],
)
def test_a_folder_that_is_none_is_named(workspace: Workspace, names: list[str], words: str) -> None:
    (workspace.folder / "d").mkdir()
    workspace.files(*(f"d/{name}" for name in names))
    with pytest.raises((DataError, ConfigError), match=words):
        workspace.read(str(workspace.folder / "d"), split=Split.TRAIN)


@pytest.mark.parametrize("names", [("d/cat/1.mp4", "d/cat/2.mp4"), ("d/1.mp4", "d/2.mp4")])
def test_videos_without_two_classes_are_told_what_a_folder_per_class_is(
    workspace: Workspace, names: tuple[str, ...]
) -> None:
    workspace.files(*names)
    with pytest.raises(ConfigError, match="2 of them, but not in the folders of two classes"):
        workspace.read(str(workspace.folder / "d"), ratio=RATIO)


def test_a_backslash_is_part_of_a_files_name(workspace: Workspace) -> None:
    workspace.files("d/a/x\\y.mp4", "d/b/x.mp4")
    workspace.read(str(workspace.folder / "d"), split=Split.TRAIN)
    assert Path(workspace.rows["a/x\\y"]["video"]) == workspace.folder / "d/a/x\\y.mp4"


def test_a_name_that_is_no_text_is_left_out_and_told(workspace: Workspace) -> None:
    workspace.files("d/a/x.mp4", "d/b/x.mp4")
    Path(os.fsdecode(bytes(workspace.folder / "d/b") + b"/\xff.mp4")).write_bytes(b"video")
    report = workspace.read(str(workspace.folder / "d"), split=Split.TRAIN)
    assert report.tally.examples == {NO_TEXT: ["'b/\\udcff.mp4'"]}
    assert len(workspace.rows) == 2
