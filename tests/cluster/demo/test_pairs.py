"""Labels made of two events, over the demo's clips."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.demo.pairs import FILES, base_labels, fine_labels, write_pairs
from wire.errors import ConfigError, DataError

EVENTS_OF_CLIPS = ("left-up-grow", "up-up-left", "left-grow-up", "left-down-grow")


def write_data(folder: Path) -> Path:
    folder.mkdir()
    rows = [
        {"id": f"{split}-{n}", "video": f"clips/{n}.mp4", "split": split, "combination": events}
        for split in ("train", "cal", "test")
        for n, events in enumerate(EVENTS_OF_CLIPS)
    ]
    text = "".join(json.dumps({**row, "label": "undo"}) + "\n" for row in rows)
    (folder / "manifest.jsonl").write_text(text)
    return folder


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_one_first_event_is_one_label_where_a_head_learns_and_six_where_it_is_measured(
    tmp_path: Path,
) -> None:
    manifest = write_pairs(write_data(tmp_path / "data"), tmp_path / "pairs")
    labels = [row["label"] for row in rows_of(manifest) if row["split"] == "cal"]
    assert labels == ["left", "up then left", "left", "left"]
    measured = rows_of(tmp_path / "pairs/measure.jsonl")
    assert [row["label"] for row in measured] == [
        *("left then grow", "up then left", "left then up", "left then grow")
    ]
    assert {row["split"] for row in measured} == {"test"}
    shots = [row["label"] for row in rows_of(tmp_path / "pairs/shots.jsonl")]
    assert shots == ["left then up", "left then grow"], "one clip of each part that has one"
    assert (manifest.parent / rows_of(manifest)[0]["video"]).resolve() == (
        tmp_path / "data/clips/0.mp4"
    )


def test_the_label_that_is_split_stands_for_its_parts() -> None:
    assert len(base_labels()) == 31
    assert not set(base_labels()) & set(fine_labels("left"))


def test_manifests_are_never_overwritten_and_other_data_is_refused(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    write_pairs(data, tmp_path / "pairs")
    with pytest.raises(ConfigError, match="holds manifests already"):
        write_pairs(data, tmp_path / "pairs")
    (data / FILES[0]).write_text('{"id": "a", "video": "a.mp4", "label": "x", "split": "cal"}\n')
    with pytest.raises(DataError, match="names no combination"):
        write_pairs(data, tmp_path / "more")
