"""Files that are no video are named as what they are, with the remedy; cut ones as cut."""

import gzip
import io
import json
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.architecture.product import ROOT
from tests.video.boxes import box, remove
from tests.video.formats import B_FRAMES, FORMATS, Format, write_video
from video.config import VideoConfig
from video.decode import decode, probe
from video.file_kind import starts_as_video, text_in, why_no_video
from video.quarantine import Quarantine
from wire.errors import ClipError

CONFIG = VideoConfig(max_frames=8)
LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
S3 = "<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code><Message>No</Message></Error>"
PAGE = "\n<!-- proxy -->\n<!DOCTYPE html><html><head><title>Sign\x1b[31m in</title></html>"


def archive(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as pack:
            pack.writestr("a.mp4", b"0" * 999)
    elif kind == "tar":
        with tarfile.open(fileobj=file, mode="w") as pack:
            pack.addfile(tarfile.TarInfo("a.mp4"))
    else:
        return gzip.compress(b"0" * 999, mtime=0)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LFS.encode(), "a git-lfs pointer to a file of 12345 bytes, .*; run `git lfs pull`"),
        (b"/annex/objects/SHA256E-s123--0b1f.mp4\n", "a git-annex pointer.*`git annex get`"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(4000), r"AppleDouble, \._NAME"),
        (PAGE.encode(), r'a web page \("Sign\?\[31m in"\), not a video: a server refused'),
        (b"\xef\xbb\xbf<HTML><body>Not Found</body></HTML>" * 200, "a web page, not a video"),
        (S3.encode(), r'an XML document \("AccessDenied"\), not a video'),
        (b"<Error><Message>Gone</Message></Error>", r'an XML document \("Gone"\)'),
        (json.dumps({"error": "rate limit"}).encode(), r'JSON \({"error": "rate limit"}\)'),
        (json.dumps([{"a": "b" * 100}] * 99).encode(), r'JSON \(\[{"a": "bbb.*\.\.\.\)'),
        (archive("zip"), "a zip archive, not a video; unpack it"),
        (archive("tar"), "a tar archive, not a video; unpack it"),
        (archive("gzip"), "a gzip archive, not a video; unpack it"),
        (b"#EXTM3U\n#EXTINF:4,\n/etc/passwd\n", "a playlist, not a video; give the video itself"),
        (b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash">', "a playlist"),
        (b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n", "a playlist"),
        (b"ffconcat version 1.0\nfile a.mp4\n", "a playlist"),
        (b"this is not a video\n" * 500, r"a text file \(this is not a video this.*\.\.\.\), not"),
    ],
)
def test_what_is_no_video_is_named_with_the_remedy(
    content: bytes, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    for call in (lambda: decode(path, CONFIG), lambda: probe(path)):
        with pytest.raises(ClipError, match=words) as caught:
            call()
        assert str(caught.value).isprintable()
    quarantine.add(str(path), "train-1", str(caught.value))
    assert "not" in quarantine.reason(str(path)) or "give" in quarantine.reason(str(path))


@pytest.mark.parametrize(
    "start",
    [
        *(b"", b"left then left", PAGE.encode(), b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WAVE"),
        *(b"\0\0\0\x18ftypheic", b"\0\0\0\x18ftypM4A ", b"G" + b"\0" * 187),
    ],
)
def test_texts_pictures_and_music_do_not_begin_as_videos(start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(start)
    assert not starts_as_video(path)


def test_an_animated_webp_is_named_and_the_documented_way_converts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(6)]
    first, *others = map(Image.fromarray, pictures)
    options = {"duration": [100, 200, 100, 300, 100, 100], "lossless": True}
    first.save(tmp_path / "clip.webp", save_all=True, append_images=others, **options)
    for call in (decode, lambda path, _: probe(path)):
        with pytest.raises(ClipError, match=r"an animated WebP, .* docs/video\.md shows how"):
            call(tmp_path / "clip.webp", CONFIG)
    documented = re.search(
        r"```python\n(from PIL import .*?)```", (ROOT / "docs/video.md").read_text(), re.DOTALL
    )
    assert documented is not None
    monkeypatch.chdir(tmp_path)
    exec(documented[1], {})
    clip = decode(tmp_path / "clip.png", CONFIG)
    assert np.array_equal(clip.frames, np.stack(pictures))
    assert clip.timestamps_s == pytest.approx([0, 0.1, 0.3, 0.4, 0.7, 0.8])


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_video_is_none_of_these(form: Format, tmp_path: Path) -> None:
    path = write_video(tmp_path / form.name, form, range(12))
    assert why_no_video(path) is None
    assert starts_as_video(path) == (path.suffix != ".gif")
    assert text_in(path) is None


def cut(path: Path, share: float = 0.6) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def fragmented(path: Path) -> Path:
    options = {**B_FRAMES, "movflags": "frag_keyframe+empty_moov"}
    return write_video(path, Format(path.name, options=options))


def faststart(path: Path) -> Path:
    return write_video(path, Format(path.name, options={"g": "10", "movflags": "faststart"}))


def plain(path: Path) -> Path:
    return write_video(path, Format(path.name, options={"g": "10"}))


def mpeg4(path: Path) -> Path:
    return write_video(path, Format(path.name, "mpeg4", options={"g": "10"}))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (plain, "a.mp4"),
        (faststart, "a.mp4"),
        (fragmented, "a.mp4"),
        (plain, "a.mkv"),
        (plain, "a.mov"),
        (mpeg4, "a.avi"),
    ],
)
def test_a_file_whose_end_is_cut_off_is_named_as_cut(
    make: Callable[[Path], Path], name: str, tmp_path: Path
) -> None:
    path = cut(make(tmp_path / name))
    words = r"it is cut: only \d+ of its \d+ (bytes|frames) are there; download or copy it anew"
    for call in (lambda: decode(path, CONFIG), lambda: probe(path)):
        with pytest.raises(ClipError, match=words):
            call()


def test_a_container_that_does_not_say_its_length_ends_where_it_ends(tmp_path: Path) -> None:
    path = cut(plain(tmp_path / "a.ts"))
    clip = decode(path, CONFIG)
    assert 12 < clip.total_frames < 60

    live = plain(tmp_path / "live.mkv")
    data = live.read_bytes()
    place = data.index(b"\x18\x53\x80\x67") + 4
    live.write_bytes(data[:place] + b"\x01" + b"\xff" * 7 + data[place + 8 :])
    assert decode(live, CONFIG).total_frames == 60


def test_a_recording_that_was_broken_off_has_no_index(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    with pytest.raises(ClipError, match=r"its index \(the moov box\) is missing"):
        probe(path)


def test_a_segment_of_a_stream_is_not_a_video(tmp_path: Path) -> None:
    data = fragmented(tmp_path / "a.mp4").read_bytes()
    path = tmp_path / "segment.mp4"
    path.write_bytes(box(b"styp", b"msdh") + data[data.index(b"moof") - 4 :])
    with pytest.raises(ClipError, match="a segment of a stream without its beginning"):
        probe(path)
    beginning = data[: data.index(b"moof") - 4]
    path.write_bytes(beginning)
    with pytest.raises(ClipError, match="no frame in it"):
        probe(path)
    path.write_bytes(beginning + data[data.index(b"moof") - 4 :])
    assert decode(path, CONFIG).total_frames == 60


@pytest.mark.parametrize(
    ("name", "start", "stop"), [("a.mp4", 0.7, 1), ("a.mov", 0.45, 0.55), ("a.mkv", 0.7, 1)]
)
def test_zeros_in_place_of_frames_are_half_a_download(
    name: str, start: float, stop: float, tmp_path: Path
) -> None:
    """A downloader may make the file as long as it will be, and fetch its parts in any order."""
    options = {"movflags": "faststart"} if name != "a.mkv" else {}
    form = Format(name, "mjpeg", "yuvj420p", options, size=(1280, 960))
    path = write_video(tmp_path / name, form, range(40))
    data = path.read_bytes()
    first, last = int(start * len(data)), int(stop * len(data))
    path.write_bytes(data[:first] + bytes(last - first) + data[last:])
    for call in (lambda: decode(path, CONFIG), lambda: probe(path)):
        with pytest.raises(ClipError, match=r"zeros.*half a download\? download or copy it anew"):
            call()


def test_black_frames_that_are_stored_as_zeros_are_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mov", Format("a.mov", "rawvideo", "rgb24"), [0] * 1)
    assert not decode(path, CONFIG).frames.any()  # frame 0 has no white stripe


def test_bytes_after_the_frames_and_wrong_lengths_of_other_boxes_are_nothing(
    tmp_path: Path,
) -> None:
    path = faststart(tmp_path / "a.mp4")
    whole = decode(path, CONFIG)
    path.write_bytes(path.read_bytes() + b"\0\0\xff\xfffree")  # a recorder's unfinished box
    assert np.array_equal(decode(path, CONFIG).frames, whole.frames)
    shutil.copy(path, tmp_path / "b.mp4")
    data = remove(plain(tmp_path / "c.mp4").read_bytes(), (b"moov", b"udta"))
    (tmp_path / "c.mp4").write_bytes(data + b"\0" * 100)
    assert decode(tmp_path / "c.mp4", CONFIG).total_frames == 60
