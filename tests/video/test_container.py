import io
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from tests.video.boxes import box, change, find
from tests.video.formats import AV1, Format, frame_numbers, write_video
from tests.video.openings import openings
from tests.video.playlists import playlists
from video.config import VideoConfig
from video.container import Undecodable, frames_of, naming, open_video, packets_of, video_stream
from video.decode import Decoder, decode, probe
from wire.errors import ClipError

CONFIG = VideoConfig(max_frames=8)
EVENLY = [0, 8, 16, 25, 33, 42, 50, 59]
MakeClip = Callable[..., Path]
DEFAULT, NONE = Disposition.default, Disposition(0)


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_random(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def damage_missing(path: Path) -> None:
    path.unlink()


def damage_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("../.git/annex/objects/0b1f.mp4")


def damage_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_empty, "empty"),
        (damage_random, "Invalid data"),
        (damage_missing, "no such file"),
        (damage_link, r"a link to .*0b1f\.mp4, which is not there; fetch what it links to"),
        (damage_folder, "not a file"),
    ],
)
def test_a_damaged_file_is_a_clip_error_that_names_it(
    make_clip: MakeClip, damage: Callable[[Path], None], words: str
) -> None:
    path = make_clip("broken.mp4")
    damage(path)
    for call in (lambda: decode(path, CONFIG), lambda: probe(path)):
        with pytest.raises(ClipError, match=words) as caught:
            call()
        assert "broken.mp4" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_reason_of_a_block_names_the_file(make_clip: MakeClip) -> None:
    path = make_clip()
    with pytest.raises(ClipError, match=rf"cannot decode {path}: dull"), naming(path):
        raise Undecodable("dull")


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize(
    "name",
    ["12:30.mp4", "concat:b.mp4", "http:c.mp4", "data:,d.mp4", "file:e.mp4", "-i.mp4", "%d.mp4"],
)
def test_a_name_that_ffmpeg_would_take_for_an_address_is_a_file(
    name: str, decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_video(tmp_path / "plain.mp4", Format("plain.mp4")).rename(name)
    probe(path.name)
    assert frame_numbers(decode(path.name, CONFIG, decoder=decoder).frames) == EVENLY


def write_sound(path: Path, codec: str = "aac") -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=44_100)
        for index in range(20):
            silence = np.zeros((2, stream.codec_context.frame_size or 1152), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, "fltp", "stereo")
            frame.sample_rate, frame.pts = 44_100, index * silence.shape[1]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def jpeg() -> bytes:
    """A grey picture, larger than the clips here."""
    out = io.BytesIO()
    with av.open(out, "w", format="image2pipe") as container:
        stream: Any = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 160, 160, "yuvj420p"
        grey = np.full((160, 160, 3), 200, np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def cover() -> bytes:
    """The box of a cover picture, as music shops write it."""
    handler = box(b"hdlr", bytes(8), b"mdir", b"appl", bytes(9))
    item = box(b"ilst", box(b"covr", box(b"data", struct.pack(">II", 13, 0), jpeg())))
    return box(b"udta", box(b"meta", bytes(4), handler, item))


def test_a_sound_file_has_no_video(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "sound.mp4")
    for call in (lambda: decode(path, CONFIG), lambda: probe(path)):
        with pytest.raises(ClipError, match="no video stream"):
            call()


@pytest.mark.parametrize("name", ["talk.m4a", "talk.mp4"])
def test_the_cover_of_a_sound_is_no_video(name: str, tmp_path: Path) -> None:
    path = write_sound(tmp_path / "sound.mp4")
    data = change(path.read_bytes(), (b"moov",), lambda inner: inner + cover())
    covered = tmp_path / name
    covered.write_bytes(data)
    for call in (lambda: decode(covered, CONFIG), lambda: probe(covered)):
        with pytest.raises(ClipError, match="no video in it, only a cover picture"):
            call()


def test_the_cover_of_an_mp3_is_no_video(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "song.mp3", "libmp3lame")
    picture = b"\0image/jpeg\0\3\0" + jpeg()
    frame = b"APIC" + struct.pack(">IH", len(picture), 0) + picture
    size = bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\3\0\0" + size + frame + path.read_bytes())
    with pytest.raises(ClipError, match="only a cover picture"):
        decode(path, CONFIG)


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_cover_beside_a_video_is_not_the_clip(place: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "plain.mp4", Format("plain.mp4"))
    plain = decode(path, CONFIG)

    def covered(inner: bytes) -> bytes:
        return cover() + inner if place == "first" else inner + cover()

    path.write_bytes(change(path.read_bytes(), (b"moov",), covered))
    with av.open(str(path)) as container:
        first = place == "first"
        assert bool(container.streams[0].disposition & Disposition.attached_pic) == first
    clip = decode(path, CONFIG)
    assert np.array_equal(clip.frames, plain.frames)
    assert clip.timestamps_s == plain.timestamps_s


def test_an_attachment_of_matroska_is_not_the_clip(tmp_path: Path) -> None:
    path = tmp_path / "attached.mkv"
    with av.open(str(path), "w") as container:
        container.add_attachment("cover.jpg", "image/jpeg", jpeg())
        stream: Any = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        mux_numbered(container, stream, 12)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 2
    assert frame_numbers(decode(path, VideoConfig(max_frames=12)).frames) == list(range(12))


def mux_numbered(container: Any, stream: Any, frames: int, first: int = 0) -> None:
    for index in range(frames):
        bits = [255 * (index + first >> bit & 1) for bit in range(8)]
        row = np.resize(np.repeat(bits, stream.width // 8), stream.width).astype(np.uint8)
        picture = np.broadcast_to(row[None, :, None], (stream.height, stream.width, 3))
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, 30)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def write_streams(path: Path, *streams: tuple[tuple[int, int], int, Disposition, str]) -> Path:
    """Streams of (size, number of frames, disposition, codec); the numbers in those of the n-th
    begin at 100 n."""
    with av.open(str(path), "w") as container:
        made: list[Any] = []
        for (width, height), _, disposition, codec in streams:
            stream: Any = container.add_stream(codec, rate=30)
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = disposition
            made.append(stream)
        for number, (stream, (_, frames, _, _)) in enumerate(zip(made, streams, strict=True)):
            mux_numbered(container, stream, frames, 100 * number)
    return path


SMALL, LARGE = (64, 48), (128, 96)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_the_default_video_is_the_clip(name: str, tmp_path: Path) -> None:
    path = write_streams(
        tmp_path / name, (LARGE, 10, NONE, "libx264"), (SMALL, 10, DEFAULT, "libx264")
    )
    assert frame_numbers(decode(path, CONFIG).frames)[0] == 100


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.avi"])
def test_without_a_default_the_largest_video_is_the_clip(name: str, tmp_path: Path) -> None:
    path = write_streams(
        tmp_path / name, (SMALL, 10, NONE, "libx264"), (LARGE, 10, NONE, "libx264")
    )
    assert frame_numbers(decode(path, CONFIG).frames)[0] == 100


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_a_track_of_one_picture_is_not_the_clip(name: str, tmp_path: Path) -> None:
    path = write_streams(
        tmp_path / name, (LARGE, 1, DEFAULT, "mjpeg"), (SMALL, 10, NONE, "libx264")
    )
    assert frame_numbers(decode(path, CONFIG).frames)[0] == 100


def test_an_animated_avif_is_its_frames_not_its_still_picture(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avif", Format("a.avif", "libsvtav1", options=AV1))
    with av.open(str(path)) as container:
        assert [stream.frames for stream in container.streams.video] == [1, 60]
    assert frame_numbers(decode(path, CONFIG).frames) == EVENLY


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.avif", "a.webp", "a.gif"])
def test_a_picture_is_a_clip_of_one_frame_shown_twice(name: str, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / name
    Image.fromarray(np.full((48, 64, 3), 200, np.uint8)).save(path)
    probe(path)
    clip = decode(path, CONFIG)
    assert (clip.total_frames, clip.frames.shape) == (1, (2, 48, 64, 3))
    assert np.abs(clip.frames.astype(int) - 200).max() < 4


def streams_of(*dispositions: Disposition, frames: Sequence[int] = ()) -> Any:
    codec = SimpleNamespace(width=64, height=48)
    streams = [
        SimpleNamespace(
            index=i, disposition=one, frames=[*frames, *[0] * 9][i], codec_context=codec
        )
        for i, one in enumerate(dispositions)
    ]
    return SimpleNamespace(streams=SimpleNamespace(video=streams))


@pytest.mark.parametrize(
    ("dispositions", "best"),
    [
        ((Disposition.timed_thumbnails, NONE), 1),
        ((Disposition.still_image | DEFAULT, NONE), 1),
        ((Disposition.dependent, DEFAULT), 1),
        ((DEFAULT, DEFAULT), 0),
    ],
)
def test_kinds_of_pictures_that_no_writer_here_makes_are_not_the_clip(
    dispositions: tuple[Disposition, ...], best: int
) -> None:
    assert video_stream(streams_of(*dispositions)).index == best


def test_a_picture_in_tiles_is_refused_rather_than_shown_in_part(tmp_path: Path) -> None:
    """As phones write it: two tiles beside each other, and an item that puts them together."""
    from PIL import Image

    path, one = tmp_path / "grid.avif", io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(one, "AVIF")
    data = one.getvalue()
    place, (start, end) = data.index(b"av1C") - 4, find(data, b"mdat")
    tile = data[start + 8 : end]
    codec = data[place : place + int.from_bytes(data[place : place + 4])]
    grid = struct.pack(">BBBBHH", 0, 0, 0, 1, 128, 64)

    def item(number: int, kind: bytes, flags: int = 0) -> bytes:
        return box(b"infe", struct.pack(">IHH", 2 << 24 | flags, number, 0), kind, b"\0")

    def size(width: int, height: int) -> bytes:
        return box(b"ispe", struct.pack(">III", 0, width, height))

    def meta(at: int) -> bytes:
        places = ((1, at, len(tile)), (2, at, len(tile)), (3, at + len(tile), len(grid)))
        entries = [struct.pack(">HHHHII", number, 0, 0, 1, *where) for number, *where in places]
        properties = box(b"ipco", size(64, 64), codec, size(128, 64))
        uses = b"\0\1\2\1\x82", b"\0\2\2\1\x82", b"\0\3\1\3"
        items = item(1, b"av01", 1), item(2, b"av01", 1), item(3, b"grid")
        return box(
            b"meta",
            bytes(4),
            box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", struct.pack(">IH", 0, 3)),
            box(b"iloc", b"\1\0\0\0\x44\0", struct.pack(">H", 3), *entries),
            box(b"iinf", struct.pack(">IH", 0, 3), *items),
            box(b"iref", bytes(4), box(b"dimg", struct.pack(">HHHH", 3, 2, 1, 2))),
            box(b"iprp", properties, box(b"ipma", struct.pack(">II", 0, 3), *uses)),
        )

    kind = box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")
    path.write_bytes(kind + meta(len(kind) + len(meta(0)) + 8) + box(b"mdat", tile, grid))
    assert Image.open(path).size == (128, 64)
    for call in (lambda: decode(path, CONFIG), lambda: probe(path)):
        with pytest.raises(ClipError, match="a picture in tiles"):
            call()


def test_a_protected_video_is_named_as_that(tmp_path: Path) -> None:
    path = tmp_path / "protected.mp4"
    options = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "00112233445566778899aabbccddeeff",
        "encryption_kid": "112233445566778899aabbccddeeff00",
    }
    with av.open(str(path), "w", options=options) as container:
        stream: Any = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        mux_numbered(container, stream, 12)
    for call in (lambda: decode(path, CONFIG), lambda: probe(path)):
        with pytest.raises(ClipError, match=r"it is encrypted \(DRM\)"):
            call()


LITTLE_MEMORY = """
import os, resource, sys
import av
from pathlib import Path
from video.decode import decode
from video.sampling import FrameSpec
from wire.errors import ClipError

spec = FrameSpec(fps=None, min_frames=2, max_frames=8)
for room_mb in range(4, 64, 6):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        continue
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    limit = used + room_mb * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        decode(sys.argv[1], spec, decoder="pyav")
    except ClipError as error:
        os.write(1, f"{error}\\n".encode())
    os._exit(0)
"""


def test_too_little_memory_is_never_called_damage(tmp_path: Path):
    """H.264's decoder calls a frame that it has no memory for invalid data."""
    path = tmp_path / "large.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for level in range(0, 240, 20):
            picture = np.full((1080, 1920, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    told = subprocess.run(
        [sys.executable, "-c", LITTLE_MEMORY, str(path)], capture_output=True, text=True, check=True
    )
    lines = told.stdout.splitlines()
    assert lines
    assert all("need more memory than decode_memory_gb; raise it" in line for line in lines), lines


URL = "http://127.0.0.1:9/canary.ts"
HOSTILE = playlists("canary.mp4", URL)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_names_another_one_opens_no_other(
    name: str, tmp_path: Path, make_clip: MakeClip
) -> None:
    make_clip("canary.mp4")
    make_clip("part.M00.mp4").rename(tmp_path / "part.M00")
    path = tmp_path / name
    path.write_bytes(HOSTILE[name])
    with openings(tmp_path) as opened:
        # also past the check of what kind of file it is, which knows only how playlists begin
        with pytest.raises(Undecodable), open_video(path) as (container, stream):
            list(frames_of(packets_of(container, stream), stream))
        with pytest.raises(ClipError):
            probe(path)
    assert set(opened) == {name}


def test_a_picture_whose_name_is_a_pattern_is_that_one_picture(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        _write_png(tmp_path / f"frame00{number}.png")
    (tmp_path / "frame%03d.png").write_bytes(b"no picture")
    with openings(tmp_path) as opened, pytest.raises(ClipError):
        probe(tmp_path / "frame%03d.png")
    assert set(opened) == {"frame%03d.png"}
    _write_png(tmp_path / "frame%03d.png")
    probe(tmp_path / "frame%03d.png")


def _write_png(path: Path) -> None:
    Image.new("RGB", (64, 48)).save(path)
