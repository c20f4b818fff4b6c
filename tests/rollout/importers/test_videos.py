"""Files made of the clips' videos, fetched or converted, and the clips that go without."""

from fractions import Fraction
from pathlib import Path

import pytest

from rollout.importers.fetch import MediaStore
from rollout.importers.join import Clip
from rollout.importers.report import Tally
from rollout.importers.videos import BROKEN_ZIP, CONFUSED, UNFETCHED, convert, fetch
from tests.rollout.importers.builders import Workspace
from wire.errors import DataError
from wire.types import Split

URL = "http://127.0.0.1:9/b.mp4"


def make_clips(*names: str) -> dict[str, Clip]:
    return {
        name: Clip(id=name, split=None, label="x", videos=(f"{name}.mp4",), sources=("s",))
        for name in names
    }


class Store(MediaStore):
    """Has one URL; of any other it says why it has none."""

    def fetch_all(self, urls, progress=None):  # type: ignore[no-untyped-def]
        wanted = set(urls)
        faults = {url: f"{url} does not exist" for url in wanted if url != URL}
        return {url: Path("/here/b.mp4") for url in wanted & {URL}}, faults


def test_files_of_this_machine_stay_and_urls_are_fetched(tmp_path: Path):
    clips, tally = make_clips("a", "b", "c"), Tally()
    places = {"a": "/x/a.mp4", "b": URL, "c": URL}
    files = fetch(clips, places, Store(tmp_path), False, tally, None)
    assert files == {"a": Path("/x/a.mp4"), "b": Path("/here/b.mp4"), "c": Path("/here/b.mp4")}
    assert tally.examples == {}


def test_clips_whose_video_cannot_be_fetched_are_an_error_or_left_out(tmp_path: Path):
    clips, tally = make_clips("a", "b"), Tally()
    places = {"a": "http://127.0.0.1:9/a.mp4", "b": URL}
    with pytest.raises(
        DataError, match=r"1 of 2 clips have a video that cannot be fetched.*a\.mp4"
    ):
        fetch(clips, places, Store(tmp_path), False, tally, None)
    assert fetch(clips, places, Store(tmp_path), True, tally, None) == {"b": Path("/here/b.mp4")}
    assert list(clips) == ["b"]
    assert tally.examples == {UNFETCHED: ["a"]}


def test_clips_whose_zip_cannot_be_read_are_an_error_or_left_out(tmp_path: Path):
    clips, tally = make_clips("a", "b"), Tally()
    (tmp_path / "a.zip").write_bytes(b"no zip")
    videos = {"a": tmp_path / "a.zip", "b": Path("/x/b.mp4")}
    with pytest.raises(DataError, match="1 of 2 clips have a zip of frames that cannot be read"):
        convert(clips, videos, tmp_path / "out", Fraction(4), False, tally)
    files = convert(clips, videos, tmp_path / "out", Fraction(4), True, tally)
    assert {name: files[name] for name in clips} == {"b": Path("/x/b.mp4")}
    assert tally.examples == {BROKEN_ZIP: ["a"]}


def test_a_video_is_not_taken_for_another_of_its_name(workspace: Workspace) -> None:
    workspace.files("v/x/001.mp4", "v/x/002.mp4")
    text = "path,label\nx/001.mp4,run\nx/002.mp4,walk\ny/001.mp4,run\n"
    source = workspace.write_text("t.csv", text)
    options = {"split": Split.TRAIN, "media_root": workspace.folder / "v"}
    workspace.files("v/001.mp4")
    workspace.read(source, **options)  # y/001 is 001 of a flat copy
    (workspace.folder / "v/001.mp4").unlink()
    with pytest.raises(DataError, match=r"1 of 3 clips have no video under"):
        workspace.read(source, overwrite=True, **options)


def test_two_videos_that_one_file_is_found_for_are_told(workspace: Workspace) -> None:
    workspace.files("v/001.mp4", "v/002.mp4")
    text = "path,label\nx/001.mp4,run\n/farm/y/001.mp4,run\nx/002.mp4,walk\nb/x/002.mp4,walk\n"
    source = workspace.write_text("t.csv", text)
    options = {"split": Split.TRAIN, "media_root": workspace.folder / "v"}
    with pytest.raises(
        DataError, match=r"2 of 4 clips would share .*x/001: x/001.mp4 led to .*v/0"
    ):
        workspace.read(source, **options)
    report = workspace.read(source, skip_missing=True, **options)
    assert report.tally.examples == {CONFUSED: ["x/001", "farm/y/001"]}


def test_relative_paths_may_start_in_the_working_folder(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.files("data/a.mp4", "data/b.mp4")
    source = workspace.write_text("lists/t.csv", "path,label\ndata/a.mp4,x\ndata/b.mp4,y\n")
    with pytest.raises(DataError, match="2 of 2 clips have no video under"):
        workspace.read(source, split=Split.TRAIN)
    monkeypatch.chdir(workspace.folder)
    workspace.read(source, split=Split.TRAIN)
    assert len(workspace.rows) == 2
