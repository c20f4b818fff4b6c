import pickle
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from video import decode as module
from video.config import VideoConfig
from video.decode import decode, probe
from wire.errors import ClipError

CONFIG = VideoConfig(max_frames=8)
MakeClip = Callable[..., Path]


@pytest.mark.parametrize(
    ("name", "codec", "rate", "size"),
    [
        ("h264.mp4", "libx264", 8, (64, 48)),
        ("hevc.mp4", "libx265", 25, (96, 64)),
        ("vp9.webm", "libvpx-vp9", 30, (64, 64)),
        ("ntsc.mp4", "libx264", Fraction(30000, 1001), (128, 48)),
    ],
)
def test_both_decoders_see_the_same(
    make_clip: MakeClip, name: str, codec: str, rate: int | Fraction, size: tuple[int, int]
) -> None:
    path = make_clip(name, frames=20, codec=codec, rate=rate, size=size)
    clip = decode(path, CONFIG)
    second = module._decode_av(path, CONFIG)
    assert clip.frames.shape == (8, size[1], size[0], 3)
    assert np.array_equal(clip.frames, second.frames)
    assert clip.fps == second.fps == pytest.approx(7 / 19 * float(rate), rel=0.02)
    assert clip.timestamps_s == pytest.approx(second.timestamps_s, abs=1e-6)
    assert (clip.total_frames, second.total_frames) == (20, 20)
    assert clip.native_fps == pytest.approx(float(rate))


def test_the_right_frames_are_taken(make_clip: MakeClip) -> None:
    clip = decode(make_clip(frames=20), CONFIG)  # frame i has brightness 10 * i
    seen = clip.frames[:, 40, 40].mean(axis=1) / 10
    assert seen.round().astype(int).tolist() == [0, 2, 5, 8, 10, 13, 16, 19]


def test_fps_sampling_gives_that_fps(make_clip: MakeClip) -> None:
    clip = decode(make_clip(frames=40, rate=20), VideoConfig(fps=4))
    assert (len(clip.frames), clip.fps) == (8, 4.0)


def test_one_frame_is_doubled(make_clip: MakeClip) -> None:
    clip = decode(make_clip(frames=1), CONFIG)
    assert len(clip.frames) == 2
    assert np.array_equal(clip.frames[0], clip.frames[1])
    assert clip.fps > 0


def test_an_odd_count_is_made_even(make_clip: MakeClip) -> None:
    clip = decode(make_clip(frames=7), CONFIG)
    assert (len(clip.frames), clip.total_frames, clip.fps) == (6, 7, 8.0)


def rotate_display(path: Path) -> Path:
    """Set the display matrix of an mp4 track to a quarter turn."""
    one = (1 << 16).to_bytes(4, "big")
    minus_one = ((1 << 32) - (1 << 16)).to_bytes(4, "big")
    zero, last = bytes(4), (1 << 30).to_bytes(4, "big")
    data = path.read_bytes()
    place = data.index(b"tkhd") + 4 + 40
    upright = one + zero * 3 + one + zero * 3 + last
    assert data[place : place + 36] == upright
    turned = zero + one + zero + minus_one + zero * 4 + last
    path.write_bytes(data[:place] + turned + data[place + 36 :])
    return path


def test_a_turned_clip_is_shown_upright_by_both_decoders(make_clip: MakeClip) -> None:
    path = rotate_display(make_clip(size=(64, 32)))
    clip = decode(path, CONFIG)
    assert clip.frames.shape[1:3] == (64, 32)
    assert np.array_equal(clip.frames, module._decode_av(path, CONFIG).frames)


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_random(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def damage_text(path: Path) -> None:
    path.write_text("this is not a video\n" * 50)


def damage_missing(path: Path) -> None:
    path.unlink()


def damage_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_empty, "empty"),
        (damage_cut, "decord: .*PyAV: "),
        (damage_random, "decord: .*PyAV: "),
        (damage_text, "decord: .*PyAV: "),
        (damage_missing, "no such file"),
        (damage_folder, "not a file"),
    ],
)
def test_a_damaged_file_is_a_clip_error_that_names_it(
    make_clip: MakeClip, damage: Callable[[Path], None], words: str
) -> None:
    path = make_clip("broken.mp4")
    damage(path)
    for call in (decode, probe):
        with pytest.raises(ClipError, match=words) as caught:
            call(path, CONFIG)
        assert "broken.mp4" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_file_whose_end_is_cut_off_is_an_error_not_a_shorter_clip(make_clip: MakeClip) -> None:
    path = make_clip("end.mkv", frames=200, options={"g": "10"})  # mkv opens without its end
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    clip = decode(path, CONFIG)  # mkv does not say how many frames there were
    assert clip.total_frames < 200

    path = make_clip("end.mp4", frames=200, options={"g": "10", "movflags": "faststart"})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ClipError):
        decode(path, CONFIG)


def test_a_file_without_video_is_a_clip_error(tmp_path: Path) -> None:
    import av

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ClipError, match="no video stream"):
        decode(path, CONFIG)


@pytest.fixture
def stuck() -> Iterator[Callable[[Path, VideoConfig], None]]:
    """A decoder that hangs until the test ends."""
    end = threading.Event()
    yield lambda path, config: end.wait(30) and None
    end.set()


def test_a_decoder_that_hangs_is_reported_in_time(
    make_clip: MakeClip, stuck: Callable[[Path, VideoConfig], None]
) -> None:
    path = make_clip()
    start = time.monotonic()
    with pytest.raises(ClipError, match=r"clip.mp4: no result within decode_timeout_s=0.2"):
        module._first_that_works(path, VideoConfig(decode_timeout_s=0.2), stuck, stuck)
    assert time.monotonic() - start < 2


def test_pyav_decodes_what_decord_cannot(make_clip: MakeClip) -> None:
    def broken(path: Path, config: VideoConfig) -> module.DecodedClip:
        raise module._Undecodable("unknown codec")

    clip = module._first_that_works(make_clip(), CONFIG, broken, module._decode_av)
    assert len(clip.frames) == 8


def test_probe_accepts_a_whole_clip(make_clip: MakeClip) -> None:
    probe(make_clip(), CONFIG)
