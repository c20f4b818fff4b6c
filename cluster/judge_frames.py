"""A few frames of a clip as JPEG files, for a judge that looks (reward/builtins/judge.py)."""

import io

import numpy as np
from PIL import Image

from video.config import VideoConfig
from video.decode import Frames, decode
from video.view import split_view


def read_frames(video: str, count: int) -> list[bytes]:
    """``count`` frames spread over the clip, in order; a view (``#view=...``) is not applied.

    Raises ClipError if the clip cannot be decoded.
    """
    clip = decode(split_view(video)[0], VideoConfig(max_frames=count + count % 2))
    places = np.linspace(0, len(clip.frames) - 1, count).round().astype(int)
    return [_jpeg(clip.frames[place]) for place in places]


def _jpeg(frame: Frames) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=90)
    return file.getvalue()
