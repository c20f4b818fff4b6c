"""What a command line names, as clips: files, windows, folders, manifests; and what is refused."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.classify.inputs import ClipInputs, truth_of
from tests.cluster.classify.answering_fakes import LABELS
from wire.errors import DataError
from wire.types import Sample

MP4 = b"\0\0\0\x18ftypisom\0\0\0\0"


def clips(*named: Path | str) -> list[Sample]:
    inputs = ClipInputs([str(name) for name in named], LABELS)
    found = list(inputs)
    assert inputs.total == len(found)
    return found


def refused(*named: Path | str) -> str:
    with pytest.raises(DataError) as caught:
        clips(*named)
    return str(caught.value)


def test_a_file_and_a_part_of_it_are_clips_by_their_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    whole, part, again = clips("a.mp4", "a.mp4#t=1,2.5", "a.mp4")
    assert (whole.id, whole.video) == ("a.mp4", f"{tmp_path}/a.mp4")
    assert (part.id, part.video) == ("a.mp4#t=1,2.5", f"{tmp_path}/a.mp4#t=1,2.5")
    assert again == whole, "a clip twice is asked for twice"
    assert truth_of(whole) is None


def test_a_folder_gives_its_videos_in_order_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b/2.mp4", "b/1.webm", "a.MP4", "empty.mp4", ".hidden/x.mp4", "c/._a.mp4"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "without-suffix").write_bytes(MP4)
    (tmp_path / "picture").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    (tmp_path / "notes.txt").write_text("left then left")
    found = [str(Path(one.video).relative_to(tmp_path)) for one in clips(tmp_path)]
    assert found == ["a.MP4", "empty.mp4", "without-suffix", "b/1.webm", "b/2.mp4"]


def test_a_folder_of_many_files_is_walked_and_not_kept(tmp_path: Path) -> None:
    for number in range(10_000):
        (tmp_path / f"{number:05}.mp4").touch()
    inputs = ClipInputs([str(tmp_path)], LABELS)
    assert inputs.total == 10_000
    first = iter(inputs)
    assert next(first).id.endswith("00000.mp4")
    (tmp_path / "00001.mp4").unlink()  # seen when it was counted, named when it is asked for
    assert sum(1 for _ in inputs) == 9_999


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    assert [one.id for one in clips(tmp_path)] == [f"{tmp_path}/a.mp4", str(closed)]


def test_rows_of_a_manifest_need_no_more_than_a_video(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    rows = [
        {"video": "a.mp4"},
        {"video": "b.mp4", "id": "b", "label": "Undo", "start_s": 1, "text": "night", "site": 3},
        {"video": "/gone.mp4", "split": "test", "label": None},
    ]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second, third = clips(manifest)
    assert (first.id, first.video, truth_of(first)) == ("a.mp4", f"{tmp_path}/a.mp4", None)
    assert (second.id, second.video) == ("b", f"{tmp_path}/b.mp4#t=1")
    assert (truth_of(second), second.text, second.extra) == ("undo", "night", {"site": 3})
    assert third.video == "/gone.mp4", "a file that is not there is a row with a failure"


def test_manifests_are_parquet_and_csv_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"video": ["a.mp4"], "start_s": [2.0]}), tmp_path / "m.parquet")
    (tmp_path / "m.csv").write_text("video,label,end_s\na.mp4,undo,3\nb.mp4,,\n")
    (tmp_path / "list.csv").write_text("a.mp4 undo\nb c.mp4 repeat\n")
    assert [one.video for one in clips(tmp_path / "m.parquet")] == [f"{tmp_path}/a.mp4#t=2"]
    found = [(Path(one.video).name, truth_of(one)) for one in clips(tmp_path / "m.csv")]
    assert found == [("a.mp4#t=0,3", "undo"), ("b.mp4", None)]
    found = [(Path(one.video).name, truth_of(one)) for one in clips(tmp_path / "list.csv")]
    assert found == [("a.mp4", "undo"), ("b c.mp4", "repeat")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"video": "a.mp4", "label": "undoo"}, "line 2: unknown label 'undoo'; did you mean"),
        ({"video": ""}, "line 2: no 'video'"),
        ({"video": "a.mp4", "start_s": 3, "end_s": 2}, "line 2: .*give 0 <= start < end"),
        ({"video": "a.mp4", "start_s": "soon"}, "line 2: "),
        ({"video": "https://a.b/c.mp4"}, "is on another machine"),
    ],
)
def test_faults_of_a_manifest_are_refused(
    tmp_path: Path, row: dict[str, object], message: str
) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"video": "a.mp4"}\n' + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=message):
        clips(manifest)


def test_what_names_no_clip_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "m.json").write_text("[]")
    (tmp_path / "m.jsonl").write_text("")
    assert "there is no video in the folder" in refused(tmp_path / "empty")
    assert "does not exist; give video files" in refused(tmp_path / "gone.mp4")
    assert "a manifest is .jsonl" in refused(tmp_path / "m.json")
    assert "names no clip" in refused(tmp_path / "m.jsonl")
    assert "is on another machine" in refused("https://a.b/c.mp4")
    assert "asks for the time window" in refused(f"{tmp_path}/m.json2#t=later")


def test_a_link_to_nothing_in_a_folder_is_a_clip_whose_row_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "b.mp4").symlink_to("gone.mp4")
    assert [Path(one.video).name for one in clips(tmp_path)] == ["a.mp4", "b.mp4"]


def test_clips_without_a_column_that_prompts_show_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    without, some, whole = (tmp_path / f"{name}.jsonl" for name in ("without", "some", "whole"))
    without.write_text('{"video": "a.mp4", "cite": "x"}\n')
    some.write_text('{"video": "a.mp4", "site": "x"}\n{"video": "a.mp4", "id": "b"}\n')
    whole.write_text('{"video": "a.mp4", "site": "x"}\n')

    def named(name: Path | str) -> list[Sample]:
        return list(ClipInputs([str(name)], LABELS, {"site": ("trace",)}))

    assert [one.extra for one in named(whole)] == [{"site": "x"}]
    for name, message in (
        (without, "no column 'site' for {site}; did you mean 'cite'?"),
        (some, "1 of 2 rows have no value in column 'site'"),
        (tmp_path, "prompts show site of each clip"),
        (tmp_path / "a.mp4", "give a manifest"),
        (f"{tmp_path}/a.mp4#t=0,1", "give a manifest"),
        (tmp_path / "gone.mp4", "does not exist"),
    ):
        with pytest.raises(DataError) as caught:
            named(name)
        assert message in str(caught.value)
