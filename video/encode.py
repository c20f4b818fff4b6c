"""Writes frames as an H.264 mp4. The only module beside the demo that writes videos."""

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

Frame = npt.NDArray[np.uint8]

# Visually lossless. The vision processor scales frames down anyway.
_CRF = 10
# One thread: with more, the bytes depend on the machine.
_OPTIONS = {"crf": str(_CRF), "preset": "fast", "threads": "1", "x264-params": "mbtree=0"}


def write_mp4(file: BinaryIO, frames: Iterable[Frame], fps: Fraction) -> int:
    """Write [H, W, 3] RGB frames of one size; returns their number.

    An odd width or height loses its last column or row: 4:2:0 video has none. Raises ValueError
    on no frames, on a frame of another size than the first, or on one below 2x2 pixels.
    """
    import av

    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise ValueError("no frames; a video needs at least one")
    height, width = first.shape[0] // 2 * 2, first.shape[1] // 2 * 2
    if not height or not width:
        raise ValueError(f"frames of {_size(first)} pixels; at least 2x2 are needed")
    count = 0
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=fps, options=_OPTIONS)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.thread_count = 1
        for count, frame in enumerate(chain([first], rest), start=1):
            if frame.shape != first.shape:
                raise ValueError(
                    f"frame {count} has {_size(frame)} pixels, the first has {_size(first)}; "
                    "all frames of a clip need one size"
                )
            pixels = np.ascontiguousarray(frame[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return count


def _size(frame: Frame) -> str:
    return f"{frame.shape[1]}x{frame.shape[0]}"
