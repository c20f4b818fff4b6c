from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from video.config import VideoConfig
from video.decode import decode, probe

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


def test_probe_accepts_a_whole_clip(make_clip: MakeClip) -> None:
    probe(make_clip())
