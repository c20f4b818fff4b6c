"""Writes frames of a clip as JPEG files, for the judge reward (reward/builtins/judge.py)."""

import functools
import io

import numpy as np
from PIL import Image

from video.address import Address
from video.config import VideoConfig
from video.decode import Frames
from video.pool import DecodePool


def read_frames(video: str, count: int) -> list[bytes]:
    """Read ``count`` frames spread over the clip or its time window, in order. A view
    (``#view=...``) is not applied: the judge sees the original frames.

    Raises ClipError if the clip cannot be decoded.
    """
    address = Address.parse(video)
    clip = _decoders(count + count % 2).decode(address.path, address.window)
    places = np.linspace(0, len(clip.frames) - 1, count).round().astype(int)
    return [_jpeg(clip.frames[place]) for place in places]


@functools.cache
def _decoders(max_frames: int) -> DecodePool:
    """Pool of one decoder process, which is killed if a clip hangs it, and ends when idle or with
    this process."""
    return DecodePool(VideoConfig(max_frames=max_frames, decode_workers=1))


def _jpeg(frame: Frames) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=90)
    return file.getvalue()
