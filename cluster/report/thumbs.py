"""Draws strips for the report: small pictures of a clip's sampled frames.

    video address -> decode (as sampled for the model) -> frames side by side, WebP -> Strip

A clip that is gone or cannot be decoded is a Strip without a picture that says why.
"""

import base64
import io
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from PIL import Image

from video.address import Address
from video.config import VideoConfig
from video.decode import DecodedClip
from video.pool import DecodePool
from wire.errors import ClipError

_SIDE_PX = 96
"""Longer side of a frame; smaller frames stay as they are."""
_MAX_FRAMES = 16
_MAX_SAMPLED = 64
"""Most frames to decode, if the recipe samples more."""
_QUALITY = 62
_DECODE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Strip of a clip: its sampled frames in one picture, from left to right."""

    picture: str
    """Data URI; empty without a picture, see ``missing``."""
    width: int
    """Width of one frame, in pixels."""
    height: int
    times_s: tuple[float, ...]
    """Time of each frame in the clip."""
    num_sampled: int
    """Frames that the model is shown; the strip may have fewer of them."""
    missing: str


def strips(
    videos: Sequence[str], config: VideoConfig, seconds: float
) -> Iterator[tuple[str, Strip]]:
    """Draw the strip of each video, in order; after ``seconds``, strips without a picture."""
    end = time.monotonic() + seconds
    short = _short(config)

    def work(video: str) -> Strip:
        if time.monotonic() > end:
            return _missing(f"not decoded: the time for pictures, {seconds:.0f} s, was over")
        return strip(video, decoders)

    with (
        closing(DecodePool(short)) as decoders,
        ThreadPoolExecutor(short.decode_workers, thread_name_prefix="strips") as pool,
    ):
        for start in range(0, len(videos), 16):  # the caller may stop: little is done in vain
            some = videos[start : start + 16]
            yield from zip(some, pool.map(work, some), strict=True)


def strip(video: str, decoders: DecodePool) -> Strip:
    """Draw the strip of one clip; never raises for a clip that cannot be shown."""
    try:
        address = Address.parse(video)
        if not address.path.is_file():
            return _missing(f"clip not found: {address.path}")
        return _draw(decoders.decode(address.path, address.window))
    except ClipError as error:
        return _missing(str(error))


def _short(config: VideoConfig) -> VideoConfig:
    return config.model_copy(
        update={
            "max_frames": min(config.max_frames, _MAX_SAMPLED),
            "min_frames": min(config.min_frames, _MAX_SAMPLED),
            "decode_timeout_s": min(config.decode_timeout_s, _DECODE_TIMEOUT_S),
        }
    )


def _draw(clip: DecodedClip) -> Strip:
    count = len(clip.frames)
    kept = np.unique(np.linspace(0, count - 1, min(count, _MAX_FRAMES)).round().astype(int))
    height, width = clip.frames.shape[1:3]
    scale = min(1.0, _SIDE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    sheet = Image.new("RGB", (size[0] * len(kept), size[1]))
    for place, index in enumerate(kept):
        frame = Image.fromarray(clip.frames[index])
        sheet.paste(frame.resize(size, Image.Resampling.LANCZOS), (place * size[0], 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=_QUALITY, method=4)
    return Strip(
        picture="data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode(),
        width=size[0],
        height=size[1],
        times_s=tuple(round(clip.timestamps_s[index], 3) for index in kept),
        num_sampled=count,
        missing="",
    )


def _missing(reason: str) -> Strip:
    return Strip(picture="", width=0, height=0, times_s=(), num_sampled=0, missing=reason)
