"""Decodes videos: a file -> the sampled frames and their times.

    packets, not decoded -> times of all frames -> indices -> decord, where it is exact -> pixels
                                                           -> PyAV: jumps to key frames -> pixels

PyAV's frames carry their times, and one counts as found only if it is at the time looked for.
decord does not tell: video/exactness says where it cannot be wrong. The pixels are the same.
Nothing here keeps a deadline: video/pool.py calls it in processes that it can kill.
"""

import bisect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from video.address import Window
from video.container import Undecodable, frames_of, naming, open_video, packets_of
from video.decord_reader import DecordFailed, read_with_decord
from video.exactness.by_packets import why_not_decord
from video.frame_index import FrameIndex, Lost, index_by_decoding, index_of
from video.orientation import orientation_of
from video.sampling import FrameChoice, effective_fps, frame_indices

if TYPE_CHECKING:
    from av import Packet, VideoFrame, VideoStream
    from av.container import InputContainer

Frames = npt.NDArray[np.uint8]

_RESERVED, _ITU601 = 3, 5
"""Matrices of colours: one that no standard defines, which some encoders write, and the one that
FFmpeg takes where none is named."""
Decoder = Literal["auto", "decord", "pyav"]
_SET_TO_PYAV = 'video.decoder is "pyav"'


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodedClip:
    """The sampled frames of one clip, or of a time window of it.

    Example:
        DecodedClip(frames=np.zeros((8, 56, 56, 3), np.uint8), frame_indices=(0, 2, ...),
                    timestamps_s=(0.0, 0.25, ...), fps=4.0, total_frames=16, native_fps=8.0,
                    seconds=2.0)
    """

    frames: Frames
    """[T, H, W, 3], RGB."""
    frame_indices: tuple[int, ...]
    """Number of each sampled frame in the file, from 0, in the order of ``frames``."""
    timestamps_s: tuple[float, ...]
    """Presentation time of each sampled frame, from the clip's first frame or the window's start;
    a frame that is repeated has the same time again."""
    fps: float
    """Sampled frames per second, from ``timestamps_s``."""
    total_frames: int
    """Frames in the file, or in the window."""
    native_fps: float
    """Average frames per second of the file."""
    seconds: float
    """Length of the file, or of what the window has of it, its last frame included."""
    not_by_decord: str | None = "it was not tried"
    """Why PyAV gave the pixels; None: decord gave them."""

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[3] != 3 or self.frames.dtype != np.uint8:
            raise ValueError(
                f"frames are {self.frames.dtype} {self.frames.shape}, expected uint8 [T, H, W, 3]"
            )
        if not len(self.frames) == len(self.timestamps_s) == len(self.frame_indices):
            raise ValueError(
                f"{len(self.frames)} frames but {len(self.timestamps_s)} timestamps and "
                f"{len(self.frame_indices)} frame indices"
            )
        if len(self.frames) % 2:
            raise ValueError(
                f"{len(self.frames)} frames; two make a temporal patch: give an even count"
            )


def decode(
    path: str | Path,
    config: FrameChoice,
    window: Window | None = None,
    decoder: Decoder = "auto",
    on_decord: Callable[[], None] = lambda: None,
) -> DecodedClip:
    """Decode the frames that ``config`` samples. Raises ClipError naming the file and reason.

    ``on_decord`` is called before decord begins."""
    file = Path(path)
    with naming(file):
        index = index_of(file, with_headers=decoder != "pyav")
        choice = _choose(index, config, window)
        reason = _SET_TO_PYAV if decoder == "pyav" else why_not_decord(index)
        if reason is None:
            on_decord()
            try:
                return _clip(read_with_decord(file, index, choice.indices), choice, None)
            except DecordFailed as error:
                reason = str(error)
        _refuse_if_forced(decoder, reason)
        if index.facts is not None:
            try:
                return _clip(_jump(file, index, choice.indices), choice, reason)
            except Lost:
                choice = _choose(index_by_decoding(file), config, window)
        return _clip(_read_through(file, choice.indices), choice, reason)


def probe(path: str | Path, window: Window | None = None, decoder: Decoder = "auto") -> None:
    """Open a clip, decode its first frame, look for frames in the window; where decord alone may
    decode, check that it is exact. Raises ClipError naming the file and the reason."""
    file = Path(path)
    with naming(file):
        if window is not None or decoder == "decord":
            index = index_of(file, with_headers=decoder == "decord")
            index.inside(window)
            if decoder == "decord":
                _refuse_if_forced(decoder, why_not_decord(index))
            return
        with open_video(file) as (container, stream):
            next(frames_of(packets_of(container, stream), stream))


def decode_frames(path: Path, numbers: Sequence[int]) -> DecodedClip:
    """Decode frames by their numbers in the file: each once, in order, the last one twice where
    that makes their count even. Raises ClipError naming the file and the reason."""
    with naming(path):
        index, indices = index_of(path), sorted(set(numbers))
        if not indices or not 0 <= indices[0] <= indices[-1] < len(index.pts):
            raise Undecodable(f"it has frames 0 to {len(index.pts) - 1}, asked for {indices}")
        indices += indices[-1:] * (len(indices) % 2)
        return DecodedClip(
            frames=_at(path, index, indices),
            frame_indices=tuple(indices),
            timestamps_s=tuple(index.seconds(i) for i in indices),
            fps=index.native_fps,
            total_frames=len(index.pts),
            native_fps=index.native_fps,
            seconds=index.seconds(len(index.pts) - 1),
        )


def _at(path: Path, index: FrameIndex, indices: Sequence[int]) -> Frames:
    if index.facts is not None:
        with suppress(Lost):
            return np.ascontiguousarray(_jump(path, index, indices))
    return np.ascontiguousarray(_read_through(path, indices))


def _refuse_if_forced(decoder: Decoder, reason: str | None) -> None:
    if decoder == "decord" and reason is not None:
        raise Undecodable(
            f'video.decoder is "decord", which may give other frames here: {reason}; set it to '
            '"auto", so that PyAV reads such files'
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """The frames to decode."""

    indices: list[int]
    times_s: list[float]
    total: int
    native_fps: float
    seconds: float


def _choose(index: FrameIndex, config: FrameChoice, window: Window | None) -> _Choice:
    inside = index.inside(window)
    start = 0.0 if window is None else window.start_s
    indices = [inside.start + i for i in frame_indices(len(inside), index.native_fps, config)]
    return _Choice(
        indices=indices,
        times_s=[index.seconds(i) - start for i in indices],
        total=len(inside),
        native_fps=index.native_fps,
        seconds=index.seconds(inside[-1]) - index.seconds(inside[0]) + 1 / index.native_fps,
    )


def _clip(pixels: Frames, choice: _Choice, not_by_decord: str | None) -> DecodedClip:
    try:
        fps = effective_fps(choice.indices, choice.times_s, choice.native_fps)
    except ValueError as error:
        raise Undecodable(str(error)) from error
    return DecodedClip(
        frames=np.ascontiguousarray(pixels),
        frame_indices=tuple(choice.indices),
        timestamps_s=tuple(choice.times_s),
        fps=fps,
        total_frames=choice.total,
        native_fps=choice.native_fps,
        seconds=choice.seconds,
        not_by_decord=not_by_decord,
    )


def _jump(path: Path, index: FrameIndex, indices: Sequence[int]) -> Frames:
    """Decode frames by seeking, [T, H, W, 3]. Raises Lost if a packet or a frame is not met where
    the index says."""
    import av

    wanted = [index.pts[i] for i in indices]
    with open_video(path) as (container, stream):
        try:
            return _pictures(_met_by_jumps(container, stream, index, wanted), wanted)
        except av.FFmpegError as error:  # it may be the jump's fault
            raise Lost from error


def _met_by_jumps(
    container: "InputContainer", stream: "VideoStream", index: FrameIndex, wanted: Sequence[int]
) -> "Iterator[tuple[int, VideoFrame]]":
    frames, at = _frames(container, stream, index), index.pts[0] - 1
    for pts in sorted(set(wanted)):
        key = bisect.bisect_right(index.keys, pts, key=lambda times: times[0]) - 1
        if key > 0 and index.keys[key][0] > at:
            frames, at = _from_key(container, stream, index, key), index.pts[0] - 1
        for frame in frames:
            if frame.pts is None or frame.pts <= at:
                raise Lost
            at = frame.pts
            if at >= pts:
                break
        if at != pts:
            raise Lost
        yield pts, frame


def _from_key(
    container: "InputContainer", stream: "VideoStream", index: FrameIndex, key: int
) -> "Iterator[VideoFrame]":
    """Frames from a key frame on, or from one before it."""
    # Where a container looks for times of showing (mp4, mkv), the time of decoding is a GOP too
    # early and doubles the work; where for times of decoding, the time of showing may be too late.
    shown, decoded = index.keys[key]
    for target in dict.fromkeys((shown, min(shown, decoded))):
        container.seek(target, stream=stream)
        frames = _frames(container, stream, index)
        with suppress(Undecodable):  # no frame from here to the end
            first = next(frames)
            # containers call frames key frames that are none
            if first.key_frame and first.pts is not None and first.pts <= shown:
                return itertools.chain([first], frames)
    raise Lost


def _frames(
    container: "InputContainer", stream: "VideoStream", index: FrameIndex
) -> "Iterator[VideoFrame]":
    """Frames from here on. Raises Lost if a packet has other times than in the index: some
    containers have none, and FFmpeg counts anew after a jump."""

    def checked() -> "Iterator[Packet[VideoStream]]":
        for packet in packets_of(container, stream):
            if (packet.pts, packet.size) not in index.known:
                raise Lost
            yield packet

    return frames_of(checked(), stream)


def _read_through(path: Path, indices: Sequence[int]) -> Frames:
    """Decode everything up to the frames, [T, H, W, 3]."""
    wanted = set(indices)
    with open_video(path) as (container, stream):
        frames = enumerate(frames_of(packets_of(container, stream), stream))
        return _pictures(((i, frame) for i, frame in frames if i in wanted), indices)


def _pictures(met: "Iterable[tuple[int, VideoFrame]]", wanted: Sequence[int]) -> Frames:
    """RGB pixels in the order of ``wanted``, which does not fall, turned as they are shown; all of
    the first one's size."""
    from av.video.reformatter import VideoReformatter

    pictures: Frames | None = None
    filled = 0
    to_rgb = VideoReformatter()  # one for all frames: a new one costs as much as its conversion
    for key, frame in met:
        orientation = orientation_of(frame)
        if pictures is None:
            size = orientation.size(frame.width, frame.height)
            pictures = np.empty((len(wanted), size[1], size[0], 3), np.uint8)
        width, height = orientation.size(pictures.shape[2], pictures.shape[1])
        rgb = to_rgb.reformat(
            frame,
            format="rgb24",
            threads=1,
            width=width,
            height=height,
            src_colorspace=_ITU601 if frame.colorspace == _RESERVED else None,
        )
        end = bisect.bisect_right(wanted, key)
        pictures[filled:end] = orientation.applied_to(np.asarray(rgb.to_ndarray(), np.uint8))
        filled = end
    if pictures is None or filled < len(wanted):
        raise Undecodable("it changed while it was read")
    return pictures
