"""Decodes videos: a file -> the sampled frames and their times. The only user of the decoder.

    packets, not decoded -> times of all frames -> indices -> jumps to key frames -> DecodedClip

The times are exact: they come from the file's own time stamps, as fractions. A frame counts as
found only if it carries the time it was looked for. decord does not tell, and after jumps it gives
neighbours of the frames asked for (docs/video.md). Nothing here keeps a deadline: video/pool.py
calls it in processes that it can kill.
"""

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from video.address import Window
from video.sampling import FrameChoice, effective_fps, frame_indices
from wire.errors import ClipError

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer

Frames = npt.NDArray[np.uint8]

# FFmpeg would follow these into other files and onto the network.
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD")
_VARIABLE_RATE = 0.05
"""If a header's frame rate is off by a larger share, it is not believed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodedClip:
    """The sampled frames of one clip, or of a time window of it.

    Example:
        DecodedClip(frames=np.zeros((8, 56, 56, 3), np.uint8), timestamps_s=(0.0, 0.25, ...),
                    fps=4.0, total_frames=16, native_fps=8.0)
    """

    frames: Frames
    """[T, H, W, 3], RGB."""
    timestamps_s: tuple[float, ...]
    """Presentation time of each sampled frame, from the clip's first frame or the window's start;
    a frame that is repeated has the same time again."""
    fps: float
    """Sampled frames per second, from ``timestamps_s``."""
    total_frames: int
    """Frames in the file, or in the window."""
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


def decode(path: str | Path, config: FrameChoice, window: Window | None = None) -> DecodedClip:
    """Decode the frames that ``config`` samples. Raises ClipError naming the file and reason."""
    file = Path(path)
    with _named(file):
        try:
            choice = _choose(index := _index(file), config, window)
            return _clip(_jump(file, index, choice.indices), choice)
        except _Lost:
            choice = _choose(_index_by_decoding(file), config, window)
            return _clip(_read_through(file, choice.indices), choice)


def probe(path: str | Path, window: Window | None = None) -> None:
    """Open a clip, decode its first frame, look for frames in the window. Raises ClipError naming
    the file and the reason."""
    file = Path(path)
    with _named(file):
        with _open(file) as (container, stream):
            if next(container.decode(stream), None) is None:
                raise _Undecodable("no frame in it")
        if window is not None:
            _inside(_index_of_any(file), window)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn the reasons of the block into errors that name the file."""
    try:
        _check_file(path)
        yield
    except _Undecodable as error:
        raise ClipError(f"cannot decode {path}: {error}") from error
    except OSError as error:
        raise ClipError(f"cannot decode {path}: {error.strerror}") from error


class _Undecodable(Exception):
    """Reason why there is no clip; never leaves this module."""


class _Lost(Exception):
    """Frames are not where the packets say; never leaves this module."""


def _check_file(path: Path) -> None:
    if not path.exists():
        raise _Undecodable("no such file")
    if not path.is_file():
        raise _Undecodable("not a file")
    if path.stat().st_size == 0:
        raise _Undecodable("the file is empty (0 bytes)")
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(_PLAYLISTS):
        raise _Undecodable("a playlist, not a video; give the video itself")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Index:
    """Index of a file: the times of its frames, and where decoding can start. Times are in
    ticks."""

    pts: list[int]
    """Times of all frames, in order."""
    keys: list[tuple[int, int]]
    """(shown, decoded) times of the key frames, in order."""
    tick: Fraction
    """Length of a tick, in seconds."""
    native_fps: float

    def seconds(self, frame: int) -> float:
        """Seconds of a frame from the first frame."""
        return float((self.pts[frame] - self.pts[0]) * self.tick)


def _index(path: Path) -> _Index:
    """Build the index from all packets, decoding none: a second for hours of video. Raises _Lost if
    packets do not tell when frames are shown (AVI and MPEG program streams with B-frames)."""
    with _open(path) as (container, stream):
        pts, keys, count = [], [], 0
        for packet in container.demux(stream):
            count += packet.size > 0
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.pts is None:
                raise _Lost
            pts.append(packet.pts)
            if packet.is_keyframe:
                keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
        if count < stream.frames:
            raise _Undecodable(
                f"it lists {stream.frames} frames, only {count} are there; is it cut?"
            )
        if len(set(pts)) < len(pts):
            raise _Lost
        return _make_index(stream, pts, keys)


def _index_by_decoding(path: Path) -> _Index:
    """Build the index of a file whose packets do not tell the times. Decoders give frames in the
    order in which they are shown, also where they give them each other's times (H.264 in AVI);
    frames without times of their own (raw streams) are taken to be shown at the stream's rate."""
    with _open(path) as (container, stream):
        pts = [frame.pts for frame in container.decode(stream)]
        if len(pts) < stream.frames:
            raise _Undecodable(
                f"it lists {stream.frames} frames, only {len(pts)} can be decoded; is it cut?"
            )
        known = {one for one in pts if one is not None}
        if len(known) == len(pts):
            return _make_index(stream, list(known), [])
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise _Undecodable("frames have no timestamps; write the file anew with ffmpeg")
        return _Index(
            pts=list(range(len(pts))), keys=[], tick=1 / Fraction(rate), native_fps=float(rate)
        )


def _index_of_any(path: Path) -> _Index:
    try:
        return _index(path)
    except _Lost:
        return _index_by_decoding(path)


def _make_index(stream: "VideoStream", pts: list[int], keys: list[tuple[int, int]]) -> _Index:
    if not pts:
        raise _Undecodable("no frame in it")
    assert stream.time_base is not None, "FFmpeg gives every stream one"
    ordered = sorted(pts)
    seconds = float((ordered[-1] - ordered[0]) * stream.time_base)
    return _Index(
        pts=ordered,
        keys=sorted(keys),
        tick=stream.time_base,
        native_fps=_native_fps(stream.average_rate or 0, len(ordered), seconds),
    )


def _native_fps(header: Any, total_frames: int, seconds: float) -> float:
    """Frame rate of the header, unless the time stamps say otherwise (a variable rate)."""
    fps = float(header)
    believed = math.isfinite(fps) and fps > 0
    if total_frames == 1 or seconds == 0:
        return fps if believed else 1.0  # a still picture needs none
    measured = (total_frames - 1) / seconds
    return fps if believed and abs(fps / measured - 1) <= _VARIABLE_RATE else measured


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """The frames to decode."""

    indices: list[int]
    times_s: list[float]
    total: int
    native_fps: float


def _choose(index: _Index, config: FrameChoice, window: Window | None) -> _Choice:
    inside = _inside(index, window)
    start = 0.0 if window is None else window.start_s
    indices = [inside.start + i for i in frame_indices(len(inside), index.native_fps, config)]
    return _Choice(
        indices=indices,
        times_s=[index.seconds(i) - start for i in indices],
        total=len(inside),
        native_fps=index.native_fps,
    )


def _inside(index: _Index, window: Window | None) -> range:
    """Frames inside a window."""
    if window is None:
        return range(len(index.pts))
    first = bisect.bisect_left(range(len(index.pts)), window.start_s, key=index.seconds)
    end = len(index.pts)
    if window.end_s is not None:
        end = bisect.bisect_left(range(len(index.pts)), window.end_s, key=index.seconds)
    if first >= end:
        raise _Undecodable(
            f"no frame in the time window {window} s; its frames are from 0 to "
            f"{index.seconds(len(index.pts) - 1):g} s"
        )
    return range(first, end)


def _clip(pixels: Frames, choice: _Choice) -> DecodedClip:
    try:
        fps = effective_fps(choice.indices, choice.times_s, choice.native_fps)
    except ValueError as error:
        raise _Undecodable(str(error)) from error
    return DecodedClip(
        frames=np.ascontiguousarray(pixels),
        timestamps_s=tuple(choice.times_s),
        fps=fps,
        total_frames=choice.total,
        native_fps=choice.native_fps,
    )


def _jump(path: Path, index: _Index, indices: Sequence[int]) -> Frames:
    """Decode frames by seeking, [T, H, W, 3]. Raises _Lost if a frame is not met where the index
    says."""
    wanted = [index.pts[i] for i in indices]
    with _open(path) as (container, stream):
        return _pictures(_met_by_jumps(container, stream, index, wanted), wanted)


def _met_by_jumps(
    container: "InputContainer", stream: "VideoStream", index: _Index, wanted: Sequence[int]
) -> "Iterator[tuple[int, VideoFrame]]":
    frames, at = container.decode(stream), index.pts[0] - 1
    for pts in sorted(set(wanted)):
        key = bisect.bisect_right(index.keys, pts, key=lambda times: times[0]) - 1
        if key > 0 and index.keys[key][0] > at:
            frames, at = _from_key(container, stream, index.keys[key]), index.pts[0] - 1
        for frame in frames:
            if frame.pts is None or frame.pts <= at:
                raise _Lost
            at = frame.pts
            if at >= pts:
                break
        if at != pts:
            raise _Lost
        yield pts, frame


def _from_key(
    container: "InputContainer", stream: "VideoStream", key: tuple[int, int]
) -> "Iterator[VideoFrame]":
    """Frames from a key frame (shown, decoded) on, or from one before it."""
    # Where a container looks for times of showing (mp4, mkv), the time of decoding is a GOP too
    # early and doubles the work; where for times of decoding, the time of showing may be too late.
    shown, _ = key
    container.seek(shown, stream=stream)
    frames = container.decode(stream)
    first = next(frames, None)
    if first is not None and first.pts is not None and first.pts <= shown:
        return itertools.chain([first], frames)
    container.seek(min(key), stream=stream)
    return container.decode(stream)


def _read_through(path: Path, indices: Sequence[int]) -> Frames:
    """Decode everything up to the frames, [T, H, W, 3]."""
    wanted = set(indices)
    with _open(path) as (container, stream):
        frames = enumerate(container.decode(stream))
        return _pictures(((i, frame) for i, frame in frames if i in wanted), indices)


def _pictures(met: "Iterable[tuple[int, VideoFrame]]", wanted: Sequence[int]) -> Frames:
    """RGB pixels in the order of ``wanted``, which does not fall, with the file's display rotation
    applied; all of the first one's size."""
    from av.video.reformatter import VideoReformatter

    pictures: Frames | None = None
    size: dict[str, int] = {}
    filled = 0
    to_rgb = VideoReformatter()  # one for all frames: a new one costs as much as its conversion
    for key, frame in met:
        size = size or {"width": frame.width, "height": frame.height}
        rgb = to_rgb.reformat(frame, format="rgb24", threads=1, **size).to_ndarray()
        # a whole number of quarter turns, as a phone writes it
        picture = np.rot90(rgb, k=round(frame.rotation / 90))
        if pictures is None:
            pictures = np.empty((len(wanted), *picture.shape), np.uint8)
        end = bisect.bisect_right(wanted, key)
        pictures[filled:end] = picture
        filled = end
    if pictures is None or filled < len(wanted):
        raise _Undecodable("it changed while it was read")
    return pictures


@contextmanager
def _open(path: Path) -> "Iterator[tuple[InputContainer, VideoStream]]":
    """Open a file and its video stream; whatever PyAV raises while it is open becomes a reason."""
    import av

    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise _Undecodable("no video stream in it")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise _Undecodable("its codec is unknown")
            stream.codec_context.thread_count = 1
            yield container, stream
    except (av.FFmpegError, ValueError, IndexError) as error:  # IndexError: streams come and go
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise _Undecodable(reason) from error
    except MemoryError as error:
        raise _Undecodable("its frames need more memory than decode_memory_gb") from error
