import os
from pathlib import Path

import pytest

from video.address import Address, View, Window
from video.opened_clips import OpenedClips


def make_clips(folder: Path, count: int) -> list[Address]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.mp4" for number in range(count)]
    for path in paths:
        path.write_bytes(b"clip")
    return [Address(path=path) for path in paths]


def open_all(files: list[Path], clips: list[Address], decoder: str = "auto") -> int:
    """How many had to be opened."""
    opened = OpenedClips(files, decoder)
    unknown = opened.unknown(clips)
    for clip in unknown:
        opened.add(clip)
    opened.save()
    return len(unknown)


def test_a_clip_is_opened_once_until_it_changes_or_goes(tmp_path: Path):
    clips, files = make_clips(tmp_path / "clips", 5), [tmp_path / "opened.json"]
    assert [open_all(files, clips), open_all(files, clips)] == [5, 0]
    clips[1].path.write_bytes(b"another clip")
    os.utime(clips[2].path, (1, 1))
    clips[3].path.unlink()
    opened = OpenedClips(files, "auto")
    assert opened.unknown(clips) == clips[1:4]
    opened.add(clips[1])  # the others could not be opened
    opened.save()
    assert OpenedClips(files, "auto").unknown(clips) == clips[2:4]


def test_each_time_window_is_a_clip_and_no_view_is(tmp_path: Path):
    (clip,), files = make_clips(tmp_path, 1), [tmp_path / "opened.json"]
    part = Address(path=clip.path, window=Window(1.0, 2.0))
    assert open_all(files, [clip]) == 1
    assert open_all(files, [clip, part]) == 1
    assert open_all(files, [clip, part, Address(path=clip.path, view=View.BLANK)]) == 0


def test_another_decoder_opens_anew(tmp_path: Path):
    clips, files = make_clips(tmp_path, 2), [tmp_path / "opened.json"]
    assert open_all(files, clips) == 2
    assert open_all(files, clips, decoder="decord") == 2


@pytest.mark.parametrize("content", ["", "[1]", '{"spec": "1 auto"}', "x" * 100])
def test_one_of_the_files_may_be_lost_damaged_or_not_writable(tmp_path: Path, content: str):
    clips = make_clips(tmp_path / "clips", 3)
    one, other = tmp_path / "run/opened.json", tmp_path / "cache/opened.json"
    open_all([one, other], clips)
    one.write_text(content)
    assert open_all([one, other], clips) == 0
    other.unlink()
    assert open_all([one, other], clips) == 0
    (tmp_path / "file").touch()
    assert open_all([tmp_path / "file" / "no.json", one], clips) == 0
