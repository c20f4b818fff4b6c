import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rollout.manifest import read_manifest, scan_manifest, select, unreadable_clips
from video.config import VideoConfig
from wire.errors import DataError
from wire.labels import Label, LabelSet
from wire.types import Sample, Split

LABELS = LabelSet(labels=(Label(name="abnormal"), Label(name="normal")))


def make_row(**changes: Any) -> dict[str, Any]:
    row = {"id": "s1", "video": "clips/a.mp4", "label": "normal", "split": "train", **changes}
    return {name: value for name, value in row.items() if value is not ...}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(b"not opened by read_manifest")
    return tmp_path


def write_json(folder: Path, *rows: dict[str, Any] | str) -> Path:
    path = folder / "manifest.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_parquet(folder: Path, *rows: dict[str, Any]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "manifest.parquet"
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


@pytest.mark.parametrize("write", [write_json, write_parquet])
def test_rows_become_samples(folder: Path, write: Any) -> None:
    rows = [
        make_row(trace="<think> a </think>", text="caption", camera=3),
        make_row(id="s2", label="abnormal", split="test", camera=4),
    ]
    first, second = read_manifest(write(folder, *rows), LABELS)
    assert first == Sample(
        id="s1",
        video=str(folder / "clips" / "a.mp4"),
        label="normal",
        split=Split.TRAIN,
        trace="<think> a </think>",
        text="caption",
        extra={"camera": 3},
    )
    assert (second.trace, second.text, second.extra) == (None, None, {"camera": 4})


def test_paths_start_at_the_media_root_if_there_is_one(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "manifests"
    elsewhere.mkdir()
    path = write_json(elsewhere, make_row(video="a.mp4"))
    (sample,) = read_manifest(path, LABELS, media_root=folder / "clips")
    assert sample.video == str(folder / "clips" / "a.mp4")


def test_an_absolute_path_stays(folder: Path) -> None:
    video = str(folder / "clips" / "a.mp4")
    (sample,) = read_manifest(write_json(folder, make_row(video=video)), LABELS, Path("/nowhere"))
    assert sample.video == video


@pytest.mark.parametrize("scheme", ["file://", "FILE://localhost"])
def test_a_file_url_is_its_path(folder: Path, scheme: str) -> None:
    (folder / "clips" / "b c.mp4").write_bytes(b"x")
    rows = [
        make_row(video=f"{scheme}{folder}/clips/a.mp4#view=blank"),
        make_row(id="s2", video=f"{scheme}{folder}/clips/b%20c.mp4", end_s=2),
    ]
    samples = read_manifest(write_json(folder, *rows), LABELS, Path("/nowhere"))
    assert [sample.video for sample in samples] == [
        f"{folder}/clips/a.mp4#view=blank",
        f"{folder}/clips/b c.mp4#t=0,2",
    ]


def test_a_video_of_another_machine_is_named_with_the_command_that_fetches_it(
    folder: Path,
) -> None:
    path = write_json(
        folder, make_row(video="https://h/a.mp4"), make_row(id="s2", video="s3://b/a")
    )
    samples, faults = scan_manifest(path, LABELS)
    assert samples == []
    assert [(fault.column, fault.what) for fault in faults] == [
        ("video", "https://h/a.mp4 is on another machine"),
        ("video", "s3://b/a is on another machine"),
    ]
    assert {fault.remedy for fault in faults} == {
        f"deepintuit import {path} LOCAL.jsonl fetches it and names the file"
    }
    with pytest.raises(DataError, match=r"another machine; deepintuit import .*manifest\.jsonl"):
        read_manifest(path, LABELS)


@pytest.mark.parametrize("root", [None, "clips"])
def test_a_path_may_ask_for_a_view(folder: Path, root: str | None) -> None:
    row = make_row(video="a.mp4#view=blank" if root else "clips/a.mp4#view=blank")
    media_root = folder / root if root else None
    (sample,) = read_manifest(write_json(folder, row), LABELS, media_root)
    assert sample.video == f"{folder}/clips/a.mp4#view=blank"


@pytest.mark.parametrize(
    ("times", "address"),
    [
        ({"start_s": 3.5, "end_s": 9.0}, "clips/a.mp4#t=3.5,9"),
        ({"start_s": 3, "end_s": None}, "clips/a.mp4#t=3"),
        ({"end_s": 9}, "clips/a.mp4#t=0,9"),
        ({"start_s": None, "end_s": None}, "clips/a.mp4"),
        ({"start_s": 1, "video": "clips/a.mp4#view=blank"}, "clips/a.mp4#t=1&view=blank"),
        ({"video": "clips/a.mp4#t=1,2"}, "clips/a.mp4#t=1,2"),
    ],
)
@pytest.mark.parametrize("write", [write_json, write_parquet])
def test_a_time_window_becomes_part_of_the_address(
    folder: Path, write: Any, times: dict[str, Any], address: str
) -> None:
    (sample,) = read_manifest(write(folder, make_row(**times)), LABELS)
    assert sample.video == f"{folder}/{address}"
    assert not sample.extra


def test_rows_without_a_window_may_stand_beside_rows_with_one(folder: Path) -> None:
    rows = [make_row(start_s=1.0, end_s=2.0), make_row(id="s2", start_s=float("nan"))]
    samples = read_manifest(write_parquet(folder, *rows), LABELS)
    assert [Path(sample.video).name for sample in samples] == ["a.mp4#t=1,2", "a.mp4"]


@pytest.mark.parametrize("name", ["caf\u00e9", "cafe\u0301"])
@pytest.mark.parametrize("label", ["caf\u00e9", "cafe\u0301"])
def test_a_label_is_the_recipe_s_however_its_accents_are_encoded(
    folder: Path, name: str, label: str
) -> None:
    labels = LabelSet(labels=(Label(name=name), Label(name="other")))
    (sample,) = read_manifest(write_json(folder, make_row(label=label)), labels)
    assert sample.label == name


def test_blank_lines_are_skipped_but_counted(folder: Path) -> None:
    path = write_json(folder, make_row(), "", make_row(id="s2", label="x"))
    with pytest.raises(DataError, match="line 3: unknown label"):
        read_manifest(path, LABELS)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{broken", "line 2: not valid JSON"),
        ('["a"]', "line 2: not a JSON object"),
        (
            make_row(id="s2", label=...),
            "line 2: no 'label'; every row needs id, video, label, split",
        ),
        (make_row(id="s2", label=None), "line 2: no 'label'"),
        (make_row(id=7), "line 2: 'id' is 7, expected text"),
        (make_row(label=10), r"line 2: 'label' is 10, expected text \(\"10\"\)"),
        (make_row(id=" "), "line 2: 'id' is empty"),
        (make_row(trace="<think>\ud83d</think>"), "line 2: 'trace' holds half a character"),
        (make_row(text="\ude00"), "line 2: 'text' holds half a character"),
        (make_row(id="s2", trace=["a"]), r"line 2: 'trace' is \['a'\], expected text"),
        (make_row(id="s2", label="Abnormal"), "unknown label 'Abnormal'; did you mean 'abnormal'"),
        (make_row(id="s2", label="zzz"), "unknown label 'zzz'; known: abnormal, normal"),
        (make_row(id="s2", split="tests"), "unknown split 'tests'; did you mean 'test'"),
        (make_row(), "line 2: id 's1' is already used in line 1"),
        (make_row(id="s2", video="b.mp4"), "line 2: video file .*b.mp4 does not exist"),
        (make_row(id="s2", video="b.mp4#view=blank"), "line 2: video file .*b.mp4 does not exist"),
        (
            make_row(id="s2", video="clips/a.mp4#view=blnk"),
            "line 2: .*asks for the view 'blnk'; known: blank, shuffled, reversed",
        ),
        (make_row(id="s2", start_s="3"), "line 2: 'start_s' is '3', expected seconds as a number"),
        (make_row(id="s2", end_s=True), "line 2: 'end_s' is True, expected seconds as a number"),
        (make_row(id="s2", start_s=9, end_s=3), "line 2: start_s=9, end_s=3: .*holds no frame"),
        (make_row(id="s2", start_s=-1), "line 2: start_s=-1, end_s=None: .*holds no frame"),
        (
            make_row(id="s2", video="clips/a.mp4#t=1,2", start_s=3),
            "line 2: start_s and end_s beside the time window of",
        ),
        (make_row(id="s2", video="clips/a.mp4#t=2,1"), "line 2: .*time window '2,1'"),
    ],
)
def test_each_fault_says_where_and_what(folder: Path, row: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_manifest(write_json(folder, make_row(), row), LABELS)


def test_five_faults_are_shown_and_the_rest_counted(folder: Path) -> None:
    rows = [make_row(id=f"s{i}", label="x") for i in range(9)]
    with pytest.raises(DataError) as caught:
        read_manifest(write_json(folder, *rows), LABELS)
    assert "line 5" in str(caught.value)
    assert "line 6" not in str(caught.value)
    assert str(caught.value).endswith("and 4 more")


def test_a_row_with_several_faults_names_them_all(folder: Path) -> None:
    with pytest.raises(DataError, match=r"unknown label.*unknown split.*does not exist"):
        read_manifest(write_json(folder, make_row(label="x", split="y", video="z")), LABELS)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    for name in ("none.jsonl", "none.parquet"):
        with pytest.raises(DataError, match=f"{name}.*give the path"):
            read_manifest(tmp_path / name, LABELS)


def test_an_empty_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no samples"):
        read_manifest(write_json(tmp_path), LABELS)


def test_a_parquet_file_without_a_column_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="no column label"):
        read_manifest(write_parquet(folder, make_row(label=...)), LABELS)


def test_a_file_that_is_no_parquet_is_refused(folder: Path) -> None:
    path = folder / "manifest.parquet"
    path.write_text("text")
    with pytest.raises(DataError, match=r"manifest\.parquet"):
        read_manifest(path, LABELS)


def test_parquet_faults_count_rows(folder: Path) -> None:
    with pytest.raises(DataError, match="row 2: id 's1' is already used in row 1"):
        read_manifest(write_parquet(folder, make_row(), make_row()), LABELS)


def test_select_keeps_one_split_in_order(folder: Path) -> None:
    rows = [make_row(id=f"s{i}", split=("train", "test")[i % 2]) for i in range(4)]
    samples = read_manifest(write_json(folder, *rows), LABELS)
    assert [sample.id for sample in select(samples, Split.TEST)] == ["s1", "s3"]


def write_clip(path: Path) -> None:
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        picture = np.zeros((32, 32, 3), np.uint8)
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def test_each_unreadable_clip_is_named_once(folder: Path) -> None:
    write_clip(folder / "clips" / "good.mp4")
    (folder / "clips" / "empty.mp4").write_bytes(b"")
    names = ["good.mp4", "a.mp4", "empty.mp4", "a.mp4"]
    rows = [make_row(id=f"s{i}", video=f"clips/{name}") for i, name in enumerate(names)]
    samples = read_manifest(write_json(folder, *rows), LABELS)
    found = unreadable_clips(samples, VideoConfig())
    assert [Path(video).name for video in found] == ["a.mp4", "empty.mp4"]


def test_unreadable_clips_are_found_by_their_address(folder: Path) -> None:
    write_clip(folder / "clips" / "good.mp4")  # half a second
    names = ["good.mp4", "good.mp4#t=0,1", "good.mp4#t=5&view=blank", "a.mp4#view=blank", "a.mp4"]
    rows = [make_row(id=f"s{i}", video=f"clips/{name}") for i, name in enumerate(names)]
    samples = read_manifest(write_json(folder, *rows), LABELS)
    found = unreadable_clips(samples, VideoConfig())
    assert [Path(video).name for video in found] == names[2:]
    assert "no frame in the time window 5 s" in found[samples[2].video]


def test_a_manifest_names_videos_and_no_narratives(folder: Path) -> None:
    write_clip(folder / "clips" / "good.mp4")
    row = make_row(id="s", video="clips/good.mp4#tokens=3f9c0a7b51de")
    samples = read_manifest(write_json(folder, row), LABELS)
    (fault,) = unreadable_clips(samples, VideoConfig()).values()
    assert "a manifest names videos; leave tokens=3f9c0a7b51de away" in fault


def test_importing_it_is_light() -> None:
    heavy = "{'torch', 'transformers', 'decord', 'av', 'pyarrow', 'vllm', 'pandas'}"
    script = f"import sys, rollout.manifest; assert not {heavy} & set(sys.modules)"
    subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2], timeout=60
    )
