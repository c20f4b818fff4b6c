"""A video file -> the sampled frames and their times. The only module that knows the decoders.

    path -> decord, or PyAV where decord fails -> DecodedClip

Both failing is a ClipError that gives both reasons. The deadline is kept by a thread: a decoder
that hangs is reported in time, but its thread lives on until the process ends (a helper process
could be killed; not built yet).
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from video.config import VideoConfig
from video.sampling import effective_fps, frame_indices
from wire.errors import ClipError

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream

Frames = npt.NDArray[np.uint8]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodedClip:
    """The sampled frames of one clip.

    Example:
        DecodedClip(frames=np.zeros((8, 56, 56, 3), np.uint8), timestamps_s=(0.0, 0.25, ...),
                    fps=4.0, total_frames=16, native_fps=8.0)
    """

    frames: Frames
    """[T, H, W, 3], RGB."""
    timestamps_s: tuple[float, ...]
    """Presentation time of each sampled frame."""
    fps: float
    """Sampled frames per second, from ``timestamps_s``."""
    total_frames: int
    """Frames in the file."""
    native_fps: float
    """Average frames per second of the file."""

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[3] != 3 or self.frames.dtype != np.uint8:
            raise ValueError(
                f"frames are {self.frames.dtype} {self.frames.shape}, expected uint8 [T, H, W, 3]"
            )
        if len(self.frames) != len(self.timestamps_s):
            raise ValueError(f"{len(self.frames)} frames but {len(self.timestamps_s)} timestamps")
        if len(self.frames) % 2:
            raise ValueError(
                f"{len(self.frames)} frames; two make a temporal patch: give an even count"
            )


def decode(path: str | Path, config: VideoConfig) -> DecodedClip:
    """Decode the frames that ``config`` samples. Raises ClipError naming the file and reason."""
    return _first_that_works(Path(path), config, _decode_decord, _decode_av)


def probe(path: str | Path, config: VideoConfig) -> None:
    """Open a clip and decode its first frame. Raises ClipError naming the file and the reason."""
    _first_that_works(Path(path), config, _probe_decord, _probe_av)


def _first_that_works(
    path: Path,
    config: VideoConfig,
    first: Callable[[Path, VideoConfig], T],
    second: Callable[[Path, VideoConfig], T],
) -> T:
    _check_file(path)

    def work() -> T:
        try:
            return first(path, config)
        except _Undecodable as error:
            reason = str(error)
        try:
            return second(path, config)
        except _Undecodable as error:
            raise ClipError(f"cannot decode {path}: decord: {reason}; PyAV: {error}") from error

    return _with_deadline(work, path, config.decode_timeout_s)


class _Undecodable(Exception):
    """One decoder's reason; never leaves this module."""


def _check_file(path: Path) -> None:
    try:
        if not path.exists():
            raise ClipError(f"cannot decode {path}: no such file")
        if not path.is_file():
            raise ClipError(f"cannot decode {path}: not a file")
        if path.stat().st_size == 0:
            raise ClipError(f"cannot decode {path}: the file is empty (0 bytes)")
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise ClipError(f"cannot decode {path}: {error.strerror}") from error


def _with_deadline(work: Callable[[], T], path: Path, seconds: float) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001
            errors.append(error)  # re-raised in the caller's thread

    thread = threading.Thread(target=target, name=f"decode {path.name}", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise ClipError(f"cannot decode {path}: no result within decode_timeout_s={seconds:g}")
    return results[0]


def _decode_decord(path: Path, config: VideoConfig) -> DecodedClip:
    with _open_decord(path) as reader:
        total = len(reader)
        native_fps = _native_fps(reader.get_avg_fps(), total)
        indices = frame_indices(total, native_fps, config)
        times = reader.get_frame_timestamp(indices)[:, 0].tolist()
        return _clip(reader.get_batch(indices).asnumpy(), indices, times, total, native_fps)


def _probe_decord(path: Path, config: VideoConfig) -> None:
    with _open_decord(path) as reader:
        reader.get_batch([0])


@contextmanager
def _open_decord(path: Path) -> Iterator[Any]:
    """A decord reader; whatever decord raises while it is open becomes a reason."""
    import decord

    decord.logging.set_level(decord.logging.FATAL)  # its reasons come with the exceptions
    errors = (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, AssertionError)
    try:
        # any frame that decord had to make up from a neighbour is an error (fault_tol is a share)
        yield decord.VideoReader(str(path), num_threads=1, fault_tol=1e-9)
    except (*errors, ValueError) as error:
        raise _Undecodable(_first_line(error)) from error


def _decode_av(path: Path, config: VideoConfig) -> DecodedClip:
    """Two passes, since headers may not tell the count: time all frames, then keep some."""
    with _frames_av(path) as (stream, frames):
        every = [frame.time for frame in frames]
        listed, rate = stream.frames, stream.average_rate
    if len(every) < listed:
        raise _Undecodable(f"it lists {listed} frames, only {len(every)} are there; is it cut?")
    native_fps = _native_fps(rate or 0, len(every))
    indices = frame_indices(len(every), native_fps, config)
    times = [time for index in indices if (time := every[index]) is not None]
    if len(times) < len(indices):
        raise _Undecodable("frames have no timestamps; write the file anew with ffmpeg")
    wanted = set(indices)
    with _frames_av(path) as (_, frames):
        kept = {i: _upright(frame) for i, frame in enumerate(frames) if i in wanted}
        pixels = np.stack([kept[index] for index in indices])
    return _clip(pixels, indices, times, len(every), native_fps)


def _probe_av(path: Path, config: VideoConfig) -> None:
    with _frames_av(path) as (_, frames):
        if next(frames, None) is None:
            raise _Undecodable("no frame in it")


@contextmanager
def _frames_av(path: Path) -> "Iterator[tuple[VideoStream, Iterator[VideoFrame]]]":
    """The video stream and its frames; whatever PyAV raises while it is open becomes a reason."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise _Undecodable("no video stream in it")
            stream = container.streams.video[0]
            yield stream, container.decode(stream)
    except (av.FFmpegError, ValueError) as error:
        raise _Undecodable(_first_line(error)) from error


def _upright(frame: "VideoFrame") -> Frames:
    """RGB pixels with the file's display rotation applied, as decord does."""
    pixels: Frames = np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90))
    return pixels


def _clip(
    pixels: Frames, indices: list[int], times: list[float], total: int, native_fps: float
) -> DecodedClip:
    return DecodedClip(
        frames=np.ascontiguousarray(pixels),
        timestamps_s=tuple(times),
        fps=effective_fps(indices, times, native_fps),
        total_frames=total,
        native_fps=native_fps,
    )


def _native_fps(header: Any, total_frames: int) -> float:
    fps = float(header)
    if math.isfinite(fps) and fps > 0:
        return fps
    if total_frames == 1:
        return 1.0  # a still picture has no rate, and one temporal patch needs none
    raise _Undecodable(f"its header gives {fps:g} frames per second; write it anew with ffmpeg")


def _first_line(error: Exception) -> str:
    """decord's messages hold a C++ stack trace; the first line with text says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
