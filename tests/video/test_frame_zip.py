import io
import subprocess
import sys
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import video.frame_zip
from video.frame_zip import natural_key, read_frames
from wire.errors import ClipError


def picture(brightness: int, suffix: str = ".png", size: tuple[int, int] = (32, 24)) -> bytes:
    """An image file of one grey."""
    codec, pixels = {
        ".png": ("png", "rgb24"),
        ".jpg": ("mjpeg", "yuvj420p"),
        ".bmp": ("bmp", "bgr24"),
    }[suffix]
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height = size
    encoder.pix_fmt, encoder.time_base = pixels, Fraction(1)
    plain = np.full((size[1], size[0], 3), brightness, np.uint8)
    frame = av.VideoFrame.from_ndarray(plain, format="rgb24").reformat(format=pixels)
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def greys(path: Path) -> list[int]:
    return [int(frame.mean().round()) for frame in read_frames(path)]


def test_frames_come_in_natural_order_of_their_names(tmp_path: Path) -> None:
    files = {f"frame_{n}.png": picture(20 * n) for n in (10, 2, 1, 9)}
    assert greys(make_zip(tmp_path / "a.zip", files)) == [20, 40, 180, 200]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_common_image_formats_are_read(tmp_path: Path, suffix: str) -> None:
    path = make_zip(tmp_path / "a.zip", {f"f/1{suffix.upper()}": picture(120, suffix)})
    (frame,) = read_frames(path)
    assert (frame.shape, frame.dtype) == ((24, 32, 3), np.uint8)
    assert abs(frame.astype(int) - 120).max() <= 3


@pytest.mark.parametrize("number", range(1, 9))
def test_frames_are_turned_as_their_exif_says(number: int, tmp_path: Path) -> None:
    from PIL import Image, ImageOps

    exif, orientation = Image.Exif(), 0x112
    exif[orientation] = number
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG", exif=exif)
    frames = list(read_frames(make_zip(tmp_path / "a.zip", {"0.png": file.getvalue()})))
    assert np.array_equal(frames[0], np.asarray(ImageOps.exif_transpose(Image.open(file))))


def test_what_is_no_frame_is_passed_over(tmp_path: Path) -> None:
    files = {
        "1.png": picture(50),
        "notes.txt": b"x",
        "__MACOSX/1.png": b"x",
        "._1.png": b"x",
        "folder/": b"",
    }
    assert greys(make_zip(tmp_path / "a.zip", files)) == [50]


def test_a_name_that_climbs_out_writes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path = make_zip(folder / "a.zip", {"../../evil.png": picture(50), "/abs.png": picture(60)})
    assert sorted(greys(path)) == [50, 60]
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "a.zip"]


def test_a_playlist_named_as_an_image_opens_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture(50))
    playlist = b"ffconcat version 1.0\nfile secret.png\n"
    with pytest.raises(ClipError, match=r"cannot decode 1\.png in .*a\.zip"):
        list(read_frames(make_zip(tmp_path / "a.zip", {"1.png": playlist})))


@pytest.mark.parametrize("name", ["1.png", "1.jpg"])
@pytest.mark.parametrize("damage", ["empty", "cut", "garbage"])
def test_a_broken_image_is_named(tmp_path: Path, name: str, damage: str) -> None:
    whole = picture(50, Path(name).suffix)
    data = {"empty": b"", "cut": whole[: len(whole) // 2], "garbage": b"garbage" * 40}[damage]
    with pytest.raises(ClipError, match=f"{name} in .*a.zip"):
        list(read_frames(make_zip(tmp_path / "a.zip", {name: data})))


def test_a_cut_jpeg_is_not_filled_up_with_grey(tmp_path: Path) -> None:
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 128, 128, "yuvj420p"
    encoder.time_base = Fraction(1)
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format="yuvj420p")
    (packet,) = encoder.encode(frame)
    path = make_zip(tmp_path / "a.zip", {"1.jpg": bytes(packet)[: packet.size * 2 // 3]})
    with pytest.raises(ClipError, match=r"cannot decode 1\.jpg"):
        list(read_frames(path))


def test_a_zip_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="no frame in"):
        list(read_frames(make_zip(tmp_path / "a.zip", {"a.txt": b"x"})))


@pytest.mark.parametrize("data", [b"", b"no zip at all", b"PK\x03\x04broken"])
def test_a_file_that_is_no_zip_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    with pytest.raises(ClipError, match=r"cannot read the frames in .*a\.zip"):
        list(read_frames(path))


def test_a_zip_with_damaged_bytes_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"1.png": np.random.default_rng(0).bytes(4000)})
    data = bytearray(path.read_bytes())
    data[2000] ^= 255
    path.write_bytes(data)
    with pytest.raises(ClipError):
        list(read_frames(path))


def test_too_many_frames_are_refused_before_any_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video.frame_zip, "MAX_FRAMES", 3)
    files = {f"{n}.png": b"never read" for n in range(4)}
    with pytest.raises(ClipError, match=r"holds 4 frames.*at most 3"):
        list(read_frames(make_zip(tmp_path / "a.zip", files)))


def test_a_frame_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"1.png": bytes(33 * 2**20)})
    assert path.stat().st_size < 100_000
    with pytest.raises(ClipError, match=r"1\.png in .* is above 32 MiB"):
        list(read_frames(path))


def test_too_much_in_sum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video.frame_zip, "MAX_TOTAL_BYTES", 2 * 2**20)
    files = {f"{n}.png": bytes(2**20) for n in range(3)}
    with pytest.raises(ClipError, match="3 frames of 3 MiB"):
        list(read_frames(make_zip(tmp_path / "a.zip", files)))


def test_a_small_image_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    data = picture(0, size=(8000, 4000))
    assert len(data) < 2**20
    with pytest.raises(ClipError, match="at most 16777216 pixels"):
        list(read_frames(make_zip(tmp_path / "a.zip", {"1.png": data})))


def test_a_size_in_the_header_is_not_believed(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"1.png": bytes(40 * 2**20)})
    data = bytearray(path.read_bytes())
    size = (40 * 2**20).to_bytes(4, "little")
    position = data.rfind(size)  # in the central directory
    data[position : position + 4] = (10).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ClipError):
        list(read_frames(path))


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_numbers_in_names_sort_as_numbers(numbers: list[int]) -> None:
    names = [f"a/f{n}.jpg" for n in numbers]
    assert sorted(names, key=natural_key) == [f"a/f{n}.jpg" for n in sorted(numbers)]


@given(st.lists(st.text(max_size=6)))
def test_any_names_can_be_sorted(names: list[str]) -> None:
    assert sorted(sorted(names, key=natural_key)) == sorted(names)


def test_importing_it_loads_no_decoder() -> None:
    script = "import sys, video.frame_zip, video.encode; assert 'av' not in sys.modules"
    folder = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], check=True, cwd=folder, timeout=60)


def test_frames_are_decoded_one_at_a_time(tmp_path: Path) -> None:
    frames = read_frames(make_zip(tmp_path / "a.zip", {"1.png": picture(10), "2.png": b"broken"}))
    assert next(frames).mean() == 10
    with pytest.raises(ClipError, match=r"2\.png"):
        next(frames)
