"""File of one processed clip: safetensors, whole or absent.

    ProcessedClip -> <key>.partial -> fsync -> rename -> <key>.safetensors -> mapped ProcessedClip

Writing by hand instead of with ``safetensors.numpy.save_file`` saves a copy of the pixels and
writes into the very file that the writer has locked; any safetensors reader can open the result.
"""

import json
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from video.processor import Pixels, ProcessedClip, fingerprint_of

_TENSOR = "pixel_values"


class Damaged(Exception):
    """The file is not a whole clip; the cache makes it anew."""


def write(clip: ProcessedClip, file: BinaryIO) -> None:
    """Write and flush to disk; the caller renames the file into place."""
    pixels = np.ascontiguousarray(clip.pixel_values, dtype="<f4")
    described = {
        "clip_key": clip.clip_key,
        "fingerprint": clip.fingerprint,
        "grid_thw": list(clip.grid_thw),
        "seconds_per_grid": clip.seconds_per_grid.hex(),
        "placeholder_ids": list(clip.placeholder_ids),
    }
    tensor = {"dtype": "F32", "shape": list(pixels.shape), "data_offsets": [0, pixels.nbytes]}
    metadata = {"clip": json.dumps(described)}
    header = json.dumps({"__metadata__": metadata, _TENSOR: tensor}).encode()
    header += b" " * (-len(header) % 8)  # aligns the pixels, as the format asks
    file.write(len(header).to_bytes(8, "little"))
    file.write(header)
    file.write(pixels.data)
    file.flush()
    os.fsync(file.fileno())


def read(path: Path) -> ProcessedClip:
    """Map a clip; it is checked against its fingerprint, so bits lost after the rename are seen.

    Raises Damaged, and FileNotFoundError if there is none.
    """
    with path.open("rb") as file:
        try:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= path.stat().st_size - 8:
                raise Damaged(f"{path}: its header is cut")
            header = json.loads(file.read(length))
            described = json.loads(header["__metadata__"]["clip"])
            rows, columns = header[_TENSOR]["shape"]
            # copy-on-write: torch takes the array without a warning, and the file stays as it is
            pixels: Pixels = np.memmap(file, "<f4", "c", offset=8 + length, shape=(rows, columns))
            t, h, w = described["grid_thw"]
            clip = ProcessedClip(
                pixel_values=pixels,
                grid_thw=(t, h, w),
                seconds_per_grid=float.fromhex(described["seconds_per_grid"]),
                placeholder_ids=tuple(described["placeholder_ids"]),
                fingerprint=described["fingerprint"],
                clip_key=described["clip_key"],
            )
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise Damaged(f"{path}: {error}") from error
    seen = fingerprint_of(pixels, clip.grid_thw, clip.seconds_per_grid, clip.placeholder_ids)
    if seen != clip.fingerprint:
        raise Damaged(f"{path}: its content does not have its fingerprint")
    if clip.clip_key != path.stem:
        raise Damaged(f"{path}: it holds clip {clip.clip_key}")
    return clip
