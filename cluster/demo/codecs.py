"""Writes tiny clips in each common codec, for the doctor and tests."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

ENCODERS = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1", "vp9": "libvpx-vp9"}
"""Codec -> encoder of FFmpeg."""
NUM_FRAMES = 16
_SIDE = 128


def write_clip(path: Path, codec: str) -> None:
    """16 frames of 128x128 pixels with a moving square, as mp4.

    Raises ValueError if this FFmpeg has no such encoder.
    """
    import av

    try:
        with av.open(str(path), "w", format="mp4") as container:
            stream: Any = container.add_stream(ENCODERS[codec], rate=Fraction(8))
            stream.height = stream.width = _SIDE
            stream.pix_fmt = "yuv420p"
            for index in range(NUM_FRAMES):
                pixels = np.full((_SIDE, _SIDE, 3), 40, np.uint8)
                pixels[32:64, 4 * index : 4 * index + 32] = 220
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"{ENCODERS[codec]}: {error}") from error


def count_frames(path: Path) -> int:
    """Frames that PyAV alone decodes. Raises ValueError if it cannot."""
    import av

    try:
        with av.open(str(path)) as container:
            return sum(1 for _ in container.decode(video=0))
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"PyAV: {error}") from error
