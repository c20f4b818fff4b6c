"""Hugging Face directories, written by ``datasets`` itself."""

from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from rollout.importers.parsers.table import SEVERAL
from rollout.manifest import read_manifest, unreadable_clips
from tests.rollout.importers.builders import Workspace
from video.config import VideoConfig
from video.encode import write_mp4
from wire.errors import ConfigError, DataError
from wire.labels import Label, LabelSet
from wire.types import Split

NAMED = Features({"video": Value("string"), "label": ClassLabel(names=["run", "walk"])})
LABELS = LabelSet(labels=(Label(name="run"), Label(name="walk")))


def make_mp4(shade: int) -> bytes:
    file = BytesIO()
    write_mp4(file, [np.full((32, 32, 3), shade, np.uint8)] * 4, Fraction(8))
    return file.getvalue()


def make_dataset(*names: str) -> Any:
    columns = {"video": [f"{n}.mp4" for n in names], "label": [i % 2 for i in range(len(names))]}
    return Dataset.from_dict(columns, features=NAMED)


def test_a_saved_dataset_gives_the_names_of_its_classes(workspace: Workspace) -> None:
    workspace.files("a.mp4", "b.mp4")
    make_dataset("a", "b").save_to_disk(str(workspace.folder / "ds"))
    source = str(workspace.folder / "ds")
    report = workspace.read(source, split=Split.TRAIN, media_root=workspace.folder)
    assert report.recognised == ("ds read as table (a table with video and label)",)
    assert {n: row["label"] for n, row in workspace.rows.items()} == {"a": "run", "b": "walk"}


def test_the_splits_of_a_saved_dictionary_are_kept(workspace: Workspace) -> None:
    workspace.files("a.mp4", "b.mp4", "c.mp4", "d.mp4")
    parts = {"train": make_dataset("a", "b"), "validation": make_dataset("c", "d")}
    DatasetDict(parts).save_to_disk(str(workspace.folder / "ds"))
    workspace.read(str(workspace.folder / "ds"), media_root=workspace.folder)
    splits = {name: row["split"] for name, row in workspace.rows.items()}
    assert splits == {"a": "train", "b": "train", "c": "val", "d": "val"}


def test_videos_inside_a_parquet_file_become_files_that_open(workspace: Workspace) -> None:
    rows = [
        {"video": {"bytes": make_mp4(shade), "path": f"{label}.mp4"}, "label": label, "id": label}
        for shade, label in ((40, "run"), (90, "walk"))
    ]
    path = workspace.folder / "t.parquet"
    Dataset.from_list(rows).to_parquet(str(path))
    workspace.read(str(path), split=Split.TRAIN)
    samples = read_manifest(workspace.manifest, LABELS)
    assert unreadable_clips(samples, VideoConfig()) == {}
    assert [Path(sample.video).parent.name for sample in samples] == ["manifest-media"] * 2
    assert len({sample.video for sample in samples}) == 2


def test_shards_of_the_hub_give_splits_by_their_names(workspace: Workspace) -> None:
    workspace.files("ds/a.mp4", "ds/b.mp4")
    (workspace.folder / "ds/data").mkdir()
    for name, split in (("a", "train"), ("b", "test")):
        rows = [{"video": f"{name}.mp4", "label": f"label {name}"}]
        Dataset.from_list(rows).to_parquet(
            str(workspace.folder / f"ds/data/{split}-00000-of-00001.parquet")
        )
    workspace.read(str(workspace.folder / "ds"))
    assert {name: row["split"] for name, row in workspace.rows.items()} == {
        "a": "train",
        "b": "test",
    }


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_videofolder_is_read_by_its_metadata(workspace: Workspace, kind: str) -> None:
    for split in ("train", "test"):
        workspace.files(f"vf/{split}/clips/x.mp4", f"vf/{split}/y.mp4")
        lines = {
            "csv": "file_name,label,who\nclips/x.mp4,run,al\ny.mp4,walk,bo\n",
            "jsonl": '{"file_name": "clips/x.mp4", "label": "run", "who": "al"}\n'
            '{"file_name": "y.mp4", "label": "walk", "who": "bo"}\n',
        }
        workspace.write_text(f"vf/{split}/metadata.{kind}", lines[kind])
    workspace.read(str(workspace.folder / "vf"))
    rows = workspace.rows
    assert set(rows) == {f"{s}/{n}" for s in ("train", "test") for n in ("clips/x", "y")}
    assert rows["test/clips/x"]["split"] == "test"
    assert rows["train/y"]["who"] == "bo"


def test_metadata_beside_class_folders_is_ambiguous(workspace: Workspace) -> None:
    workspace.files("vf/run/x.mp4", "vf/walk/y.mp4")
    workspace.write_text("vf/metadata.csv", "file_name,label\nrun/x.mp4,jog\nwalk/y.mp4,stroll\n")
    source = str(workspace.folder / "vf")
    with pytest.raises(ConfigError, match=r"vf can be folder .* or table .*; say which with --fo"):
        workspace.read(source, split=Split.TRAIN)
    workspace.read(source, split=Split.TRAIN, format="folder")
    assert {row["label"] for row in workspace.rows.values()} == {"run", "walk"}
    workspace.read(source, split=Split.TRAIN, format="table", overwrite=True)
    assert {row["label"] for row in workspace.rows.values()} == {"jog", "stroll"}


def test_a_broken_dataset_or_parquet_file_is_named(workspace: Workspace) -> None:
    workspace.write_text("ds/dataset_info.json", "{}")
    with pytest.raises(DataError, match=r"cannot read the dataset .*ds"):
        workspace.read(str(workspace.folder / "ds"), split=Split.TRAIN)
    path = workspace.write_text("t.parquet", "no parquet")
    with pytest.raises(DataError, match=r"cannot read .*t\.parquet.*give a Parquet file"):
        workspace.read(path, split=Split.TRAIN)


def test_the_manifest_as_parquet_is_one_table(workspace: Workspace) -> None:
    workspace.files("a.mp4", "b.mp4")
    make_dataset("a", "b").save_to_disk(str(workspace.folder / "ds"))
    manifest = workspace.folder / "m.parquet"
    workspace.read(
        str(workspace.folder / "ds"),
        split=Split.TRAIN,
        media_root=workspace.folder,
        manifest=manifest,
    )
    assert pq.read_table(manifest).column_names[:4] == ["id", "video", "label", "split"]
    assert len(read_manifest(manifest, LABELS)) == 2


def test_shards_of_a_split_beside_others_are_refused(workspace: Workspace) -> None:
    (workspace.folder / "ds").mkdir()
    for name in ("train", "testmini"):
        rows = [{"video": f"{name}.mp4", "label": name}]
        Dataset.from_list(rows).to_parquet(str(workspace.folder / f"ds/{name}-0.parquet"))
    with pytest.raises(DataError, match=r"files of splits beside others \(testmini\)"):
        workspace.read(str(workspace.folder / "ds"), split=Split.TRAIN)


@pytest.mark.parametrize("column", ["video", "clip", "recording"])
def test_videos_in_other_columns_become_files_that_open(workspace: Workspace, column: str) -> None:
    rows = [
        {column: {"bytes": make_mp4(shade), "path": f"{label}.mp4"}, "label": label}
        for shade, label in ((40, "run"), (90, "walk"))
    ]
    path = workspace.folder / "t.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    workspace.read(str(path), split=Split.TRAIN, columns={"video": column, "label": "label"})
    assert unreadable_clips(read_manifest(workspace.manifest, LABELS), VideoConfig()) == {}


def test_bare_bytes_of_videos_become_files_and_lists_of_pictures_do_not(
    workspace: Workspace,
) -> None:
    messages = [{"role": "user", "content": "<video>What?"}]
    jpeg = b"\xff\xd8\xff\xe0 a picture"
    rows = [
        {"messages": messages, "videos": [make_mp4(40)], "solution": "run"},
        {"messages": messages, "videos": [make_mp4(90)], "solution": "walk"},
        {"messages": messages, "videos": [jpeg, jpeg], "solution": "run"},
    ]
    path = workspace.folder / "t.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    report = workspace.read(str(path), split=Split.TRAIN)
    assert report.tally.count(SEVERAL) == 1
    assert len(list((workspace.manifest.parent / "manifest-media").iterdir())) == 2
    assert unreadable_clips(read_manifest(workspace.manifest, LABELS), VideoConfig()) == {}
