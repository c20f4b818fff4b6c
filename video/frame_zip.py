"""Reads a zip of frame images, in natural order of their names.

    zip -> names of images, sorted -> bytes, bounded -> one decoded frame at a time

Nothing is unpacked to disk, so that a name in the zip can reach no other folder. Number, bytes and
pixels are bounded, so that a small file cannot fill the memory.
"""

import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from video.orientation import orientation_of
from wire.errors import ClipError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.codeccontext import VideoCodecContext

Frame = npt.NDArray[np.uint8]

MAX_FRAMES = 4096
MAX_FRAME_BYTES = 32 * 2**20
MAX_TOTAL_BYTES = 2**30
MAX_PIXELS = 4096 * 4096
# By name, never by content: FFmpeg's probing also knows playlists that open other files.
_CODECS = {".jpg": "mjpeg", ".jpeg": "mjpeg", ".png": "png", ".bmp": "bmp", ".webp": "webp"}


def read_frames(path: Path) -> Iterator[Frame]:
    """Frames of a zip, [H, W, 3] RGB, one at a time. Raises ClipError naming the zip and the
    reason."""
    try:
        with zipfile.ZipFile(path) as archive:
            for info in _images(path, archive.infolist()):
                yield _decode(path, info.filename, _bytes(path, archive, info))
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ClipError(f"cannot read the frames in {path}: {error}") from error


def natural_key(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Sort key that reads runs of digits as numbers: frame2 before frame10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts)


def _images(path: Path, entries: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    images = [info for info in entries if _is_image(info)]
    if not images:
        raise ClipError(f"no frame in {path}; expected images named {', '.join(_CODECS)}")
    total = sum(info.file_size for info in images)
    if len(images) > MAX_FRAMES or total > MAX_TOTAL_BYTES:
        raise ClipError(
            f"{path} holds {len(images)} frames of {total / 2**20:.0f} MiB; at most {MAX_FRAMES} "
            f"frames of {MAX_TOTAL_BYTES // 2**20} MiB are read: make a video file of it yourself"
        )
    if any(info.flag_bits & 1 for info in images):
        raise ClipError(f"{path} is encrypted; give it without a password")
    return sorted(images, key=lambda info: natural_key(info.filename))


def _is_image(info: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(info.filename)
    hidden = any(part.startswith((".", "__MACOSX")) and part != ".." for part in path.parts)
    return not info.is_dir() and not hidden and path.suffix.lower() in _CODECS


def _bytes(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Bytes of an entry. The size in its header is not believed."""
    with archive.open(info) as file:
        data = file.read(MAX_FRAME_BYTES + 1)
    if len(data) > MAX_FRAME_BYTES:
        raise ClipError(
            f"{info.filename} in {path} is above {MAX_FRAME_BYTES // 2**20} MiB; "
            "make a video file of it yourself"
        )
    return data


def _decode(path: Path, name: str, data: bytes) -> Frame:
    import av

    codec = _CODECS[PurePosixPath(name).suffix.lower()]
    decoder = cast("VideoCodecContext", av.CodecContext.create(codec, "r"))
    decoder.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "explode"}
    decoder.thread_count = 1
    try:
        frames: list[VideoFrame] = decoder.decode(av.Packet(data)) or decoder.decode(None)
        if not frames:
            raise ClipError(f"cannot decode {name} in {path}: no picture in it")
        pixels = np.asarray(frames[0].to_ndarray(format="rgb24"), np.uint8)
        shown = orientation_of(frames[0]).applied_to(pixels)
    except (av.FFmpegError, ValueError) as error:
        raise ClipError(
            f"cannot decode {name} in {path}: {error}; "
            f"expected an image of at most {MAX_PIXELS} pixels"
        ) from error
    return np.ascontiguousarray(shown)
