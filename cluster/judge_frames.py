"""A few frames of a clip as JPEG files, for a judge that looks (reward/builtins/judge.py)."""

import functools
import io

import numpy as np
from PIL import Image

from video.address import Address
from video.config import VideoConfig
from video.decode import Frames
from video.pool import DecodePool


def read_frames(video: str, count: int) -> list[bytes]:
    """``count`` frames spread over the clip or its time window, in order; a view
    (``#view=...``) is not applied: the judge sees what is there.

    Raises ClipError if the clip cannot be decoded.
    """
    address = Address.parse(video)
    clip = _decoders(count + count % 2).decode(address.path, address.window)
    places = np.linspace(0, len(clip.frames) - 1, count).round().astype(int)
    return [_jpeg(clip.frames[place]) for place in places]


@functools.cache
def _decoders(max_frames: int) -> DecodePool:
    """One process, killed when a clip hangs it; it ends when idle, and with this process."""
    return DecodePool(VideoConfig(max_frames=max_frames, decode_workers=1))


def _jpeg(frame: Frames) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=90)
    return file.getvalue()
