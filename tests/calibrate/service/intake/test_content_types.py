"""A clip's content type is read from its bytes; nothing becomes a page or a script."""

from pathlib import Path

import pytest

from calibrate.service.intake.content_types import UNKNOWN, content_type_of
from tests.video.formats import FORMATS, write_video

TYPES = {
    "mp4": "video/mp4",
    "mov": "video/quicktime",
    "webm": "video/webm",
    "mkv": "video/x-matroska",
    "gif": "image/gif",
}


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mov", "vp9.webm", "h264.mkv", "gif.gif"])
def test_a_clip_that_browsers_play_has_its_type(name: str, tmp_path: Path) -> None:
    (form,) = [form for form in FORMATS if form.name == name]
    path = write_video(tmp_path / name, form, range(3)).rename(tmp_path / "no-ending")
    assert content_type_of(path) == TYPES[name.rpartition(".")[2]]


@pytest.mark.parametrize("start", [b"", b"<html>", b"<svg>", b"%PDF-1.7", b"GIF8", b"\0\0\1\xba"])
def test_everything_else_is_bytes_to_be_saved(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_bytes(start)
    assert content_type_of(tmp_path / "page.html") == UNKNOWN
