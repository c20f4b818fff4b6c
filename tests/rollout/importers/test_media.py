from pathlib import Path

import pytest

from rollout.importers.fetch import MediaStore
from rollout.importers.media import Root, find_video


def find(written: str, folder: Path) -> str | None:
    return find_video(written, Root(folder, MediaStore(folder / "fetched")))


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@pytest.mark.parametrize(
    ("written", "files", "found"),
    [
        ("a.mp4", ["a.mp4"], "a.mp4"),
        ("sub/a.mp4", ["sub/a.mp4", "a.mp4"], "sub/a.mp4"),
        ("/farm/kim/sub/a.mp4", ["a.mp4"], "a.mp4"),
        ("/farm/kim/sub/a.mp4", ["a.mp4", "sub/a.mp4"], "sub/a.mp4"),
        ("/farm/kim/sub/a.mp4", ["kim/sub/a.mp4", "sub/a.mp4"], "kim/sub/a.mp4"),
        ("C:\\kim\\a.mp4", ["a.mp4"], "a.mp4"),
        ("../../a.mp4", ["a.mp4"], "a.mp4"),
        ("/farm/a.zip", ["a.zip"], "a.zip"),
        ("/farm/a.zip", ["a.zip", "a.mp4"], "a.mp4"),
        ("/farm/a.zip", ["a.mkv"], "a.mkv"),
        ("/farm/a.mp4", ["a.mkv"], None),
        ("/farm/a.mp4", ["b.mp4"], None),
        ("/farm/sub", ["sub/a.mp4"], None),
        ("train/1.2", ["1.2.webm"], "1.2.webm"),
        ("file:///farm/sub/a.mp4", ["sub/a.mp4"], "sub/a.mp4"),
    ],
)
def test_a_video_is_found_by_the_longest_end_of_its_path(
    tmp_path: Path, written: str, files: list[str], found: str | None
) -> None:
    touch(tmp_path, *files)
    assert find(written, tmp_path) == (str(tmp_path / found) if found else None)


def test_a_path_that_is_right_as_it_stands_is_taken(tmp_path: Path) -> None:
    touch(tmp_path, "here/a.mp4", "root/a.mp4")
    here = str(tmp_path / "here/a.mp4")
    assert find(here, tmp_path / "root") == here
    assert find(f"file://{here}", tmp_path / "root") == here


@pytest.mark.parametrize("written", ["/" + "x" * 5000 + ".mp4", "\0.mp4", "/", ".", "..", ".zip"])
def test_a_path_that_can_be_no_file_finds_none(tmp_path: Path, written: str) -> None:
    assert find(written, tmp_path) is None
