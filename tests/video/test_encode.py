import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from video.config import VideoConfig
from video.decode import decode
from video.encode import write_mp4


def make_frames(count: int = 6, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Smooth pictures, each brighter than the one before."""
    ramp = np.linspace(0, 100, width, dtype=np.float32)
    return [
        np.broadcast_to((ramp + 20 * i)[None, :, None], (height, width, 3)).astype(np.uint8).copy()
        for i in range(count)
    ]


@pytest.mark.parametrize("fps", [Fraction(1), Fraction(2), Fraction(1, 2), Fraction(30000, 1001)])
def test_frames_come_back_nearly_unchanged_and_at_their_rate(tmp_path: Path, fps: Fraction) -> None:
    frames = make_frames()
    path = tmp_path / "a.mp4"
    with path.open("wb") as file:
        assert write_mp4(file, iter(frames), fps) == 6
    clip = decode(path, VideoConfig())
    assert clip.native_fps == pytest.approx(float(fps), rel=1e-4)
    assert clip.total_frames == 6
    error = np.abs(clip.frames.astype(int) - np.stack(frames).astype(int))
    assert error.mean() < 2
    assert error.max() < 12


def test_an_odd_size_loses_its_last_row_and_column(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with path.open("wb") as file:
        write_mp4(file, make_frames(height=49, width=65), Fraction(1))
    assert decode(path, VideoConfig()).frames.shape[1:] == (48, 64, 3)


def test_a_single_frame_is_a_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with path.open("wb") as file:
        write_mp4(file, make_frames(1), Fraction(1))
    assert decode(path, VideoConfig()).total_frames == 1


def test_the_same_frames_give_the_same_bytes() -> None:
    files = [io.BytesIO() for _ in range(2)]
    for file in files:
        write_mp4(file, make_frames(), Fraction(1))
    assert files[0].getvalue() == files[1].getvalue()


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([], "no frames"),
        ([*make_frames(1), *make_frames(1, height=50)], "frame 2 has 64x50.*first has 64x48"),
        (make_frames(1, height=1), "64x1 pixels"),
    ],
)
def test_frames_that_make_no_video_are_refused(frames: list[np.ndarray], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        write_mp4(io.BytesIO(), frames, Fraction(1))
