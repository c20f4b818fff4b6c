import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from video.encode import write_mp4
from video.jpeg_frames import read_frames
from wire.errors import ClipError


@pytest.mark.parametrize("count", [1, 2, 5])
def test_frames_are_spread_over_the_clip_in_order(tmp_path: Path, count: int) -> None:
    path = tmp_path / "brighter.mp4"
    greys = [np.full((64, 64, 3), 20 * i, np.uint8) for i in range(12)]
    with path.open("wb") as file:
        write_mp4(file, greys, Fraction(4))
    files = read_frames(f"{path}#view=reversed", count)
    means = [float(np.asarray(Image.open(io.BytesIO(file))).mean()) for file in files]
    assert means == sorted(means)
    assert len(set(means)) == count
    assert means[0] < 15


def test_a_clip_that_is_none_is_a_clip_error(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.write_bytes(b"")
    with pytest.raises(ClipError):
        read_frames(str(path), 2)


def test_only_the_samples_own_window_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "brighter.mp4"
    greys = [np.full((64, 64, 3), 20 * i, np.uint8) for i in range(12)]
    with path.open("wb") as file:
        write_mp4(file, greys, Fraction(4))
    (shown, _) = read_frames(f"{path}#t=2", 2)  # from the ninth frame on
    assert float(np.asarray(Image.open(io.BytesIO(shown))).mean()) == pytest.approx(160, abs=5)
