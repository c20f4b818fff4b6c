"""Frame index of a video: the times of all frames and the key frames, from packets, decoding none.

    packets -> FrameIndex (times, keys, facts about packets); where they do not tell: decode all

The times are exact: they come from the file's own time stamps, as fractions.
"""

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video.address import Window
from video.container import Undecodable, frames_of, is_fragmented, open_video, packets_of
from video.exactness.picture_header import HeaderReader, PictureHeader
from video.exactness.readers import header_reader
from video.orientation import Orientation, orientation_of

if TYPE_CHECKING:
    from av import Packet, VideoStream
    from av.container import InputContainer

_VARIABLE_RATE = 0.05
"""If a header's frame rate is off by a larger share, it is not believed."""
_REORDERED = 16
"""Frames by which decoding may be ahead of showing (H.264, HEVC)."""
_JOINED_S = 10
"""A longer gap in a transport or program stream is where recordings were joined, as for ffmpeg."""
_PARTS = 1000
"""Parts of a tick, to tell frames apart that have the same time."""


class Lost(Exception):
    """Frames are not where the packets say; never leaves the decoder's modules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketFacts:
    """What one packet of the stream says of itself. Times are in ticks."""

    pts: int | None
    dts: int | None
    size: int
    """Bytes."""
    is_key: bool
    is_discarded: bool
    """It is needed to decode others, and not shown (an edit list)."""
    is_corrupt: bool
    changes_header: bool
    """It brings another stream header (an mp4 of several codings)."""
    picture: PictureHeader | None
    """None if headers are not read, or the codec's are not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """What a file says of its video stream: for who asks whether another decoder can read it."""

    container: str
    """FFmpeg's name of the format: "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts"."""
    is_fragmented: bool
    """It is mp4 in fragments."""
    video_streams: int
    codec: str
    """FFmpeg's name of the codec: "h264", "hevc", "vp9"."""
    stream_header: bytes
    """The codec's parameters, FFmpeg's "extradata"."""
    height: int
    """Of the first frame, as it is stored."""
    pixel_format: str
    """FFmpeg's name of the first frame's pixel format: "yuv420p"."""
    is_interlaced: bool
    is_upright: bool
    """Pixels are stored as they are shown: no turn, no mirror."""
    seek_times: tuple[int, ...]
    """The container's own list of key frames, in order: times of showing, or of decoding (mp4)."""
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
    known: frozenset[tuple[int | None, int]] = frozenset()
    """(shown, bytes) of all packets, for who looks whether one was met before."""

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


def index_of(path: Path, with_headers: bool = False) -> FrameIndex:
    """Index of any file: from its packets, or by decoding where they do not tell.

    ``with_headers``: read the headers of pictures too, for video/exactness."""
    status = path.stat()
    return _index_of(path, with_headers, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2)  # many windows of one long video are asked for in a row
def _index_of(path: Path, with_headers: bool, size: int, changed: int) -> FrameIndex:
    try:
        return index_from_packets(path, with_headers)
    except Lost:
        return index_by_decoding(path)


def index_from_packets(path: Path, with_headers: bool = False) -> FrameIndex:
    """Build the index from all packets, decoding only the first frame: a second for hours of video.
    Raises Lost if packets do not tell when frames are shown: AVI and MPEG program streams with
    B-frames, raw streams, recordings that begin between key frames or are several in one file."""
    with open_video(path) as (container, stream):
        if _has_no_times(container):
            raise Lost
        facts, shown_first = _facts(path, container, stream, with_headers)
        if _is_avi(container) and any(packet.pts != packet.dts for packet in facts.packets):
            raise Lost
        pts, keys = _times(facts.packets, _longest_gap(container, stream))
        if shown_first != min(pts, default=None):
            raise Lost
        return _make_index(stream, pts, keys, facts)


def index_by_decoding(path: Path) -> FrameIndex:
    """Build the index of a file whose packets do not tell the times. Decoders give frames in the
    order in which they are shown, also where they give them each other's times (H.264 in AVI);
    frames without times of their own (raw streams) are taken to be shown at the stream's rate."""
    with open_video(path) as (container, stream):
        pts = [frame.pts for frame in frames_of(packets_of(container, stream), stream)]
        rate = stream.guessed_rate or stream.average_rate
        known = [one for one in pts if one is not None]
        if len(known) == len(pts) and not _has_no_times(container):
            if not _is_avi(container):
                frame = math.ceil(1 / (rate * _tick(stream))) if rate else 1
                known = _joined(known, frame, _longest_gap(container, stream))
            return _make_index(stream, known, [], None)
        if not rate:
            raise Undecodable("frames have no timestamps; write the file anew with ffmpeg")
        return FrameIndex(
            pts=list(range(len(pts))),
            keys=[],
            tick=1 / Fraction(rate),
            native_fps=float(rate),
            facts=None,
        )


def _has_no_times(container: "InputContainer") -> bool:
    """FFmpeg makes the times of a raw stream up, and others after a jump."""
    from av.format import Flags

    return Flags.no_timestamps in Flags(container.format.flags)


def _is_avi(container: "InputContainer") -> bool:
    """AVI has times of decoding only: with B-frames FFmpeg gives frames the times of others."""
    return container.format.name == "avi"


def _longest_gap(container: "InputContainer", stream: "VideoStream") -> float:
    """Ticks to the next frame in one recording."""
    from av.format import Flags

    may_be_joined = Flags.ts_discont in Flags(container.format.flags)
    return float(_JOINED_S / _tick(stream)) if may_be_joined else math.inf


def _tick(stream: "VideoStream") -> Fraction:
    assert stream.time_base is not None, "FFmpeg gives every stream one"
    return stream.time_base


def _facts(
    path: Path, container: "InputContainer", stream: "VideoStream", with_headers: bool
) -> tuple[StreamFacts, int | None]:
    """Facts of a file, and the time of the frame that is shown first."""
    context = stream.codec_context
    codec, header = context.codec.canonical_name, bytes(context.extradata or b"")
    read = header_reader(codec, header) if with_headers else None
    packets: list[PacketFacts] = []
    coming = _noted(packets_of(container, stream), read, packets)
    first = next(frames_of(coming, stream))
    for _ in coming:
        pass
    facts = StreamFacts(
        container=container.format.name,
        is_fragmented=is_fragmented(path),
        video_streams=len(container.streams.video),
        codec=codec,
        stream_header=header,
        height=first.height,
        pixel_format=first.format.name,
        is_interlaced=first.interlaced_frame,
        is_upright=orientation_of(first) == Orientation(),
        seek_times=tuple(entry.timestamp for entry in stream.index_entries if entry.is_keyframe),
        packets=tuple(packets),
    )
    return facts, first.pts


def _noted(
    packets: "Iterable[Packet[VideoStream]]",
    read: HeaderReader | None,
    notes: list[PacketFacts],
) -> "Iterator[Packet[VideoStream]]":
    for packet in packets:
        notes.append(
            PacketFacts(
                pts=packet.pts,
                dts=packet.dts,
                size=packet.size,
                is_key=packet.is_keyframe,
                is_discarded=packet.is_discard,
                is_corrupt=packet.is_corrupt,
                changes_header=packet.has_sidedata("new_extradata"),
                picture=None if read is None else read(memoryview(packet)),
            )
        )
        yield packet


def _times(
    packets: Sequence[PacketFacts], longest_gap: float
) -> tuple[list[int], list[tuple[int, int]]]:
    """Times of the frames, in the order of the file, and of the key frames. Raises Lost."""
    pts, keys, latest = [], [], None
    for packet in packets:
        if packet.dts is not None:
            if latest is not None and not 0 <= packet.dts - latest <= longest_gap:
                raise Lost
            latest = packet.dts
        if packet.is_discarded:
            continue
        if packet.pts is None:
            raise Lost
        pts.append(packet.pts)
        if packet.is_key:
            keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
    if len(set(pts)) < len(pts):
        raise Lost
    return pts, keys


def _joined(pts: Sequence[int], frame: int, longest_gap: float) -> list[int]:
    """Times of decoded frames, in order, that go on where the file's own begin anew or leap."""
    joined, offset, latest = [], 0, pts[0]
    for own in pts:
        time = own + offset
        if not -_REORDERED * frame <= time - latest <= longest_gap:
            offset += latest + frame - time
            time = latest + frame
        latest = max(latest, time)
        joined.append(time)
    return sorted(joined)


def _make_index(
    stream: "VideoStream",
    pts: Sequence[int],
    keys: Sequence[tuple[int, int]],
    facts: StreamFacts | None,
) -> FrameIndex:
    ordered, tick = sorted(pts), _tick(stream)
    if len(set(ordered)) < len(ordered):
        ordered, tick = _told_apart(ordered), tick / _PARTS
    seconds = float((ordered[-1] - ordered[0]) * tick)
    return FrameIndex(
        pts=ordered,
        keys=sorted(keys),
        tick=tick,
        native_fps=_native_fps(stream.average_rate or 0, len(ordered), seconds),
        facts=facts,
        known=frozenset((packet.pts, packet.size) for packet in (facts.packets if facts else ())),
    )


def _told_apart(ordered: Sequence[int]) -> list[int]:
    """Times in parts of a tick, those of frames with the same one spread up to the next."""
    times: list[int] = []
    runs = [(pts, len(list(run))) for pts, run in itertools.groupby(ordered)]
    nexts = [pts for pts, _ in runs[1:]] + [runs[-1][0] + 1]
    for (pts, count), following in zip(runs, nexts, strict=True):
        length = (following - pts) * _PARTS
        times.extend(pts * _PARTS + length * i // count for i in range(count))
    return times


def _native_fps(header: Any, total_frames: int, seconds: float) -> float:
    """Frame rate of the header, unless the time stamps say otherwise (a variable rate)."""
    fps = float(header)
    believed = math.isfinite(fps) and fps > 0
    if total_frames == 1 or seconds == 0:
        return fps if believed else 1.0  # a still picture needs none
    measured = (total_frames - 1) / seconds
    return fps if believed and abs(fps / measured - 1) <= _VARIABLE_RATE else measured
