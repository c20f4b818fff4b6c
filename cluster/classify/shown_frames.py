"""Shown frames: the pixels of a clip as the model saw them, for people.

    ProcessedClip -> patches put together again, not normalised -> [T, H, W, 3] -> PNG

To the byte what the processor made of the decoded frames, at the size that it scaled them to.
"""

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from video.decode import Frames
from video.pixel_codes import encode
from video.processor import ProcessedClip
from wire.errors import ClipError

_MERGE = 2
"""Patches come in squares of this side, those that the model merges."""
_FRAMES = 2
"""Frames of a temporal patch."""


def shown_frames(clip: ProcessedClip) -> Frames:
    """Frames in the order in which the model sees them. Raises ClipError where the processor did
    not say how it normalises."""
    scale = clip.pixel_scale
    codes = None if scale is None else encode(clip.pixel_values, scale)
    if codes is None:
        raise ClipError("the frames that the model saw cannot be shown: its processor is unknown")
    t, h, w = clip.grid_thw
    side = math.isqrt(codes.shape[1] // (3 * _FRAMES))
    rows, columns = h // _MERGE, w // _MERGE
    patches = codes.reshape(t, rows, columns, _MERGE, _MERGE, 3, _FRAMES, side, side)
    frames = patches.transpose(0, 6, 1, 3, 7, 2, 4, 8, 5)
    return np.ascontiguousarray(frames.reshape(t * _FRAMES, h * side, w * side, 3))


def png_frames(clip: ProcessedClip, numbers: Sequence[int]) -> list[bytes]:
    """Frames as PNG, by their numbers in the video. Raises ClipError for one that was not shown."""
    places = {number: place for place, number in enumerate(clip.frame_indices)}
    if unknown := [number for number in numbers if number not in places]:
        raise ClipError(
            f"the model was not shown frame {unknown[0]}; it was shown {sorted(places)}"
        )
    frames = shown_frames(clip)
    return [_png(frames[places[number]]) for number in numbers]


def _png(frame: Frames) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG")
    return file.getvalue()
