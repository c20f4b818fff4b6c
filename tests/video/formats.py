"""Clips in many formats, whose frames say themselves which they are."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

_BITS = 8


@dataclass(frozen=True)
class Format:
    name: str
    codec: str = "libx264"
    pixels: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    rate: int = 30
    size: tuple[int, int] = (64, 48)


B_FRAMES = {"g": "12", "bf": "3"}
OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:keyint=12:scenecut=0"}
HEVC = {"x265-params": "log-level=none:keyint=12:bframes=4:open-gop=1"}
AV1 = {"svtav1-params": "lp=1"}
VPX = {"lag-in-frames": "16", "auto-alt-ref": "1", "g": "20"}

FORMATS = (
    *[Format(f"h264.{ending}", options=B_FRAMES) for ending in ("mp4", "mkv", "mov", "flv", "ts")],
    Format("h264_open_gop.mp4", options=OPEN_GOP),
    Format("h264_open_gop.mkv", options=OPEN_GOP),
    Format("h264_b_frames.avi", options=B_FRAMES),
    Format("h264_10bit.mp4", pixels="yuv420p10le"),
    Format("h264_444_odd.mp4", pixels="yuv444p", size=(63, 47)),
    Format("h264_fragmented.mp4", options={**B_FRAMES, "movflags": "frag_keyframe+empty_moov"}),
    Format("hevc_open_gop.mp4", "libx265", options=HEVC),
    Format("hevc_open_gop.ts", "libx265", options=HEVC),
    Format("hevc_10bit.mp4", "libx265", "yuv420p10le", HEVC),
    Format("vp9.webm", "libvpx-vp9", options=VPX),
    Format("vp9_odd.webm", "libvpx-vp9", size=(63, 47)),
    Format("vp8.webm", "libvpx", options=VPX),
    Format("av1.mp4", "libsvtav1", options=AV1),
    Format("av1_10bit.mkv", "libsvtav1", "yuv420p10le", AV1),
    Format("mpeg4_b_frames.mp4", "mpeg4", options={"g": "12", "bf": "2"}),
    Format("mpeg4_b_frames.avi", "mpeg4", options={"g": "12", "bf": "2"}),
    Format("mpeg2.ts", "mpeg2video", options=B_FRAMES),
    Format("mpeg2.mpg", "mpeg2video", options=B_FRAMES),
    Format("wmv.wmv", "wmv2"),
    Format("mjpeg.avi", "mjpeg", "yuvj420p"),
    Format("prores.mov", "prores_ks", "yuv422p10le"),
    Format("ffv1_odd.mkv", "ffv1", size=(63, 47)),
    Format("gif.gif", "gif", "rgb8", rate=10),
)


def write_video(path: Path, form: Format, ticks: Sequence[int] = range(60)) -> Path:
    """Frame i is shown at ``ticks[i] / rate`` seconds, and has its number in black and white
    stripes."""
    width, height = form.size
    quiet = {"libx265": {"x265-params": "log-level=none"}}.get(form.codec, {})
    with av.open(str(path), "w", options=container_options(form)) as container:
        options = {k: v for k, v in form.options.items() if k != "movflags"}
        stream: Any = container.add_stream(form.codec, rate=form.rate, options={**quiet, **options})
        stream.width, stream.height, stream.pix_fmt = width, height, form.pixels
        stream.codec_context.thread_count = 1
        for index, tick in enumerate(ticks):
            bits = [255 * (index >> bit & 1) for bit in range(_BITS)]
            row = np.resize(np.repeat(bits, width // _BITS), width).astype(np.uint8)
            picture = np.broadcast_to(row[None, :, None], (height, width, 3))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, form.rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def container_options(form: Format) -> dict[str, str]:
    return {k: v for k, v in form.options.items() if k == "movflags"}


def write_long(
    path: Path,
    seconds: int,
    rate: int = 10,
    seconds_per_gop: int = 10,
    size: tuple[int, int] = (64, 48),
) -> Path:
    """A clip of hours in a moment: one encoded GOP, repeated with other times."""
    gop = rate * seconds_per_gop
    part = write_video(
        path.with_name("part.mp4"),
        Format("part.mp4", rate=rate, options={"g": str(gop)}, size=size),
        range(gop),
    )
    with av.open(str(part)) as source, av.open(str(path), "w") as container:
        first = source.streams.video[0]
        stream = container.add_stream_from_template(first)
        packets = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in source.demux(first) if p.size]
        assert first.time_base is not None
        length = round(seconds_per_gop / first.time_base)
        for turn in range(seconds // seconds_per_gop):
            for data, pts, dts, is_key in packets:
                packet = av.Packet(data)
                assert pts is not None
                assert dts is not None
                packet.pts, packet.dts = pts + turn * length, dts + turn * length
                packet.time_base, packet.stream = first.time_base, stream
                packet.is_keyframe = is_key
                container.mux(packet)
    part.unlink()
    return path


def frame_numbers(frames: npt.NDArray[np.uint8]) -> list[int]:
    """Which frames of ``write_video`` these are."""
    stripe = frames.shape[2] // _BITS
    seen = frames[:, frames.shape[1] // 2, stripe // 2 : stripe * _BITS : stripe].mean(axis=2) > 127
    return [sum(int(bit) << place for place, bit in enumerate(row)) for row in seen]
