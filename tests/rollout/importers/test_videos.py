"""Files made of the clips' videos, fetched or converted, and the clips that go without."""

from fractions import Fraction
from pathlib import Path

import pytest

from rollout.importers.fetch import MediaStore
from rollout.importers.join import Clip
from rollout.importers.report import Tally
from rollout.importers.videos import BROKEN_ZIP, UNFETCHED, convert, fetch
from wire.errors import DataError

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
