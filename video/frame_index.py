"""Frame index of a video: the times of all frames and the key frames, from packets, decoding none.

    packets -> FrameIndex (times, keys, facts about packets); where they do not tell: decode all

The times are exact: they come from the file's own time stamps, as fractions.
"""

import bisect
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video.address import Window
from video.container import Undecodable, open_video

if TYPE_CHECKING:
    from av import VideoStream
    from av.container import InputContainer

_VARIABLE_RATE = 0.05
"""If a header's frame rate is off by a larger share, it is not believed."""


class Lost(Exception):
    """Frames are not where the packets say; never leaves the decoder's modules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketFacts:
    """What one packet of the stream says of itself. Times are in ticks."""

    pts: int | None
    dts: int | None
    is_key: bool
    is_discarded: bool
    """It is needed to decode others, and not shown (an edit list)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """What a file says of its video stream: for who asks whether another decoder can read it."""

    container: str
    """FFmpeg's name of the format: "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts"."""
    codec: str
    """FFmpeg's name of the codec: "h264", "hevc", "vp9"."""
    pixel_format: str | None
    """FFmpeg's name of the pixel format, as far as the header tells: "yuv420p"."""
    packets: tuple[PacketFacts, ...]
    """All packets, in the order of the file, without empty ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameIndex:
    """Index of a file: the times of its frames, and where decoding can start. Times are in
    ticks."""

    pts: list[int]
    """Times of all frames, in order."""
    keys: list[tuple[int, int]]
    """(shown, decoded) times of the key frames, in order."""
    tick: Fraction
    """Length of a tick, in seconds."""
    native_fps: float
    facts: StreamFacts | None
    """None if the times were found by decoding."""

    def seconds(self, frame: int) -> float:
        """Seconds of a frame from the first frame."""
        return float((self.pts[frame] - self.pts[0]) * self.tick)

    def inside(self, window: Window | None) -> range:
        """Frames inside a window. Raises Undecodable if there is none."""
        if window is None:
            return range(len(self.pts))
        first = bisect.bisect_left(range(len(self.pts)), window.start_s, key=self.seconds)
        end = len(self.pts)
        if window.end_s is not None:
            end = bisect.bisect_left(range(len(self.pts)), window.end_s, key=self.seconds)
        if first >= end:
            raise Undecodable(
                f"no frame in the time window {window} s; its frames are from 0 to "
                f"{self.seconds(len(self.pts) - 1):g} s"
            )
        return range(first, end)


def index_of_any(path: Path) -> FrameIndex:
    """Index of any file: from its packets, or by decoding where they do not tell."""
    try:
        return index_from_packets(path)
    except Lost:
        return index_by_decoding(path)


def index_from_packets(path: Path) -> FrameIndex:
    """Build the index from all packets, decoding none: a second for hours of video. Raises Lost if
    packets do not tell when frames are shown (AVI and MPEG program streams with B-frames)."""
    with open_video(path) as (container, stream):
        facts = _facts(container, stream)
        if len(facts.packets) < stream.frames:
            raise Undecodable(
                f"it lists {stream.frames} frames, only {len(facts.packets)} are there; is it cut?"
            )
        pts, keys = [], []
        for packet in facts.packets:
            if packet.is_discarded:
                continue
            if packet.pts is None:
                raise Lost
            pts.append(packet.pts)
            if packet.is_key:
                keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
        if len(set(pts)) < len(pts):
            raise Lost
        return _make_index(stream, pts, keys, facts)


def index_by_decoding(path: Path) -> FrameIndex:
    """Build the index of a file whose packets do not tell the times. Decoders give frames in the
    order in which they are shown, also where they give them each other's times (H.264 in AVI);
    frames without times of their own (raw streams) are taken to be shown at the stream's rate."""
    with open_video(path) as (container, stream):
        pts = [frame.pts for frame in container.decode(stream)]
        if len(pts) < stream.frames:
            raise Undecodable(
                f"it lists {stream.frames} frames, only {len(pts)} can be decoded; is it cut?"
            )
        known = {one for one in pts if one is not None}
        if len(known) == len(pts):
            return _make_index(stream, list(known), [], None)
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise Undecodable("frames have no timestamps; write the file anew with ffmpeg")
        return FrameIndex(
            pts=list(range(len(pts))),
            keys=[],
            tick=1 / Fraction(rate),
            native_fps=float(rate),
            facts=None,
        )


def _facts(container: "InputContainer", stream: "VideoStream") -> StreamFacts:
    return StreamFacts(
        container=container.format.name,
        codec=stream.codec_context.name,
        pixel_format=stream.codec_context.pix_fmt,
        packets=tuple(
            PacketFacts(
                pts=packet.pts,
                dts=packet.dts,
                is_key=packet.is_keyframe,
                is_discarded=packet.is_discard,
            )
            for packet in container.demux(stream)
            if packet.size > 0
        ),
    )


def _make_index(
    stream: "VideoStream", pts: list[int], keys: list[tuple[int, int]], facts: StreamFacts | None
) -> FrameIndex:
    if not pts:
        raise Undecodable("no frame in it")
    assert stream.time_base is not None, "FFmpeg gives every stream one"
    ordered = sorted(pts)
    seconds = float((ordered[-1] - ordered[0]) * stream.time_base)
    return FrameIndex(
        pts=ordered,
        keys=sorted(keys),
        tick=stream.time_base,
        native_fps=_native_fps(stream.average_rate or 0, len(ordered), seconds),
        facts=facts,
    )


def _native_fps(header: Any, total_frames: int, seconds: float) -> float:
    """Frame rate of the header, unless the time stamps say otherwise (a variable rate)."""
    fps = float(header)
    believed = math.isfinite(fps) and fps > 0
    if total_frames == 1 or seconds == 0:
        return fps if believed else 1.0  # a still picture needs none
    measured = (total_frames - 1) / seconds
    return fps if believed and abs(fps / measured - 1) <= _VARIABLE_RATE else measured
