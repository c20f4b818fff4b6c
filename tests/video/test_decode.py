from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.video.boxes import with_matrix
from tests.video.formats import Format, write_video
from video import decode as module
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


def test_a_picture_that_turns_on_the_way_keeps_the_size_of_the_first(tmp_path: Path) -> None:
    plain = write_video(tmp_path / "a.mp4", Format("a.mp4"), range(4))
    turned = tmp_path / "b.mp4"
    turned.write_bytes(with_matrix(plain.read_bytes(), 0, 1, -1, 0))
    with av.open(str(plain)) as one, av.open(str(turned)) as other:
        met = [(0, next(one.decode(video=0))), (1, next(other.decode(video=0)))]
    pictures = module._pictures(iter(met), [0, 1])
    assert pictures.shape == (2, 48, 64, 3)
    assert np.ptp(pictures[0], axis=0).max() == 0  # upright stripes
    assert np.ptp(pictures[1], axis=1).max() == 0  # they lie


def test_damage_on_the_way_is_said_with_its_place(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", Format("a.mp4", options={"g": "60", "bf": "0"}))
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        entry = container.streams.video[0].index_entries[40]
    data[entry.pos : entry.pos + entry.size] = b"\xff" * entry.size
    path.write_bytes(data)
    words = r"it is damaged after 40 frames \(Invalid data .*\); download or copy it anew"
    with pytest.raises(ClipError, match=words):
        decode(path, CONFIG)


def test_probe_accepts_a_whole_clip(make_clip: MakeClip) -> None:
    probe(make_clip())
