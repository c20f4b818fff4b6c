"""File of one processed clip; its pixels are kept as bytes where that loses no bit.

ProcessedClip -> parts of the file (video/disk_cache/entry_file.py) -> Content -> ProcessedClip

A file of before 2026-12 does not say which frames of which video it shows: its clip is made anew.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from video import pixel_codes
from video.address import Window
from video.disk_cache.entry_file import Damaged, Outdated, Stored, pack, unpack
from video.disk_cache.file_system import Content
from video.pixel_codes import PixelScale
from video.processor import Pixels, ProcessedClip

_CODES = "pixel_codes"
_PIXELS = "pixel_values"


def parts_of(clip: ProcessedClip) -> Sequence[bytes | memoryview]:
    """The parts of a clip's file, in order."""
    described: dict[str, Any] = {
        "fingerprint": clip.fingerprint,
        "grid_thw": list(clip.grid_thw),
        "seconds_per_grid": clip.seconds_per_grid.hex(),
        "placeholder_ids": list(clip.placeholder_ids),
        "video_hash": clip.video_hash,
        "window": None if clip.window is None else [clip.window.start_s, clip.window.end_s],
        "frame_indices": list(clip.frame_indices),
    }
    name, stored = _PIXELS, np.ascontiguousarray(clip.pixel_values, dtype="<f4")
    if (scale := clip.pixel_scale) is not None:
        described["scale"] = [[value.hex() for value in v] for v in (scale.mean, scale.std)]
        codes = pixel_codes.encode(clip.pixel_values, scale)
        if codes is not None:
            name, stored = _CODES, codes
    dtype = "U8" if name == _CODES else "F32"
    tensor = Stored(dtype, stored.shape, stored.reshape(-1).view(np.uint8).data)
    return pack(clip.clip_key, described, {name: tensor})


def parse(key: str, content: Content) -> ProcessedClip:
    """The clip in a file. Raises Damaged or Outdated."""
    described, tensors = unpack(key, content)
    if "video_hash" not in described:
        raise Outdated
    try:
        t, h, w = described["grid_thw"]
        scale = None
        if "scale" in described:
            mean, std = (tuple(map(float.fromhex, values)) for values in described["scale"])
            scale = PixelScale(mean, std)
        return ProcessedClip(
            pixel_values=_pixels(tensors, scale),
            grid_thw=(t, h, w),
            seconds_per_grid=float.fromhex(described["seconds_per_grid"]),
            placeholder_ids=tuple(described["placeholder_ids"]),
            fingerprint=described["fingerprint"],
            clip_key=key,
            video_hash=described["video_hash"],
            window=None if described["window"] is None else Window(*described["window"]),
            frame_indices=tuple(described["frame_indices"]),
            pixel_scale=scale,
        )
    except (ValueError, KeyError, TypeError) as error:  # whole, but of another version of us
        raise Damaged(str(error)) from error


def _pixels(tensors: dict[str, Stored], scale: PixelScale | None) -> Pixels:
    if scale is not None and (codes := tensors.get(_CODES)) is not None:
        return pixel_codes.decode(codes.data.reshape(codes.shape), scale)
    stored = tensors[_PIXELS]
    pixels: Pixels = stored.data.view("<f4").reshape(stored.shape)
    return pixels
