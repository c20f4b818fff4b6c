import pickle
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from video.config import VideoConfig
from video.decode import decode, probe
from wire.errors import ClipError

CONFIG = VideoConfig(max_frames=8)
MakeClip = Callable[..., Path]


@pytest.mark.parametrize("rate", [8, 25, Fraction(30000, 1001)])
def test_the_fps_are_those_of_the_frames(make_clip: MakeClip, rate: int | Fraction) -> None:
    clip = decode(make_clip(frames=20, rate=rate), CONFIG)
    assert clip.fps == pytest.approx(7 / 19 * float(rate), rel=0.02)
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


def test_a_turned_clip_is_shown_upright(make_clip: MakeClip) -> None:
    plain, turned = make_clip("a.mp4", size=(64, 32)), rotate_display(make_clip(size=(64, 32)))
    clip = decode(turned, CONFIG)
    assert clip.frames.shape[1:3] == (64, 32)
    assert np.array_equal(clip.frames, np.rot90(decode(plain, CONFIG).frames, k=-1, axes=(1, 2)))


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_random(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def damage_text(path: Path) -> None:
    path.write_text("this is not a video\n" * 50)


def damage_playlist(path: Path) -> None:
    path.write_text("#EXTM3U\n#EXTINF:4,\n/etc/passwd\n")


def damage_missing(path: Path) -> None:
    path.unlink()


def damage_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_empty, "empty"),
        (damage_cut, "Invalid data"),
        (damage_random, "Invalid data"),
        (damage_text, "Invalid data"),
        (damage_playlist, "a playlist"),
        (damage_missing, "no such file"),
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


def test_probe_accepts_a_whole_clip(make_clip: MakeClip) -> None:
    probe(make_clip())
