"""Facts of a video, before it is decoded: length, frames and size, from its packets.

    container -> size as stated -> packets, counted up to a limit -> first frame -> VideoFacts

A header may say anything: frames and seconds are those of the packets that are there, the size is
that of the first frame, which is decoded only if the stated one is within the limit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from video.container import frames_of, naming, open_video, packets_of

if TYPE_CHECKING:
    from av import Packet, VideoStream


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFacts:
    """Facts of a video's file.

    Example:
        VideoFacts(seconds=2.0, frames=16, width=64, height=48, codec="h264")
    """

    seconds: float
    """From the first frame to the end of the last one."""
    frames: int
    width: int
    height: int
    codec: str
    """FFmpeg's name."""


def facts_of(path: Path, *, max_frames: int, max_pixels: int) -> VideoFacts:
    """Facts of a file. Of one with more pixels nothing is decoded, of one with more frames the rest
    is not read: the facts are then above the limit. Raises ClipError naming the file and reason."""
    with naming(path), open_video(path) as (container, stream):
        context = stream.codec_context
        width, height, frames, seconds = context.width, context.height, stream.frames, 0.0
        if width * height <= max_pixels:
            count = _Count(max_frames)
            coming = count.counted(packets_of(container, stream))
            first = next(frames_of(coming, stream))
            for _ in coming:
                pass
            width, height, frames = first.width, first.height, count.frames
            seconds = count.seconds(stream)
        return VideoFacts(
            seconds=seconds, frames=frames, width=width, height=height, codec=context.name
        )


class _Count:
    """Count of packets that are shown, and the span of their times."""

    def __init__(self, max_frames: int) -> None:
        self.frames = 0
        self._max_frames = max_frames
        self._first: int | None = None
        self._last: int | None = None

    def counted(self, packets: "Iterator[Packet[VideoStream]]") -> "Iterator[Packet[VideoStream]]":
        """The packets, up to one more than the limit."""
        for packet in packets:
            if not packet.is_discard:
                self.frames += 1
                self._take(packet.pts if packet.pts is not None else packet.dts)
            yield packet
            if self.frames > self._max_frames:
                return

    def seconds(self, stream: "VideoStream") -> float:
        """Length; of frames without times at the stream's rate."""
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        by_rate = self.frames / rate if rate > 0 else 0.0
        if self._first is None or self._last is None or stream.time_base is None:
            return by_rate
        span = float((self._last - self._first) * stream.time_base)
        return max(span + (span / (self.frames - 1) if self.frames > 1 else by_rate), 0.0)

    def _take(self, time: int | None) -> None:
        if time is not None:
            self._first = time if self._first is None else min(self._first, time)
            self._last = time if self._last is None else max(self._last, time)
