"""Files with one fault each, for which decord must not be asked."""

import re
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import PictureType

from tests.video.exactness.random_clips import pictures, rng_of
from video.exactness.h264 import h264_parameters

Change = Callable[[list["Copy"]], Iterable["Copy"]]
CLOSED = {"x264-params": "keyint=12:bframes=2:scenecut=0:open-gop=0"}


class Copy:
    """A packet that can be changed."""

    def __init__(self, data: bytes, pts: int, dts: int, is_key: bool) -> None:
        self.data, self.pts, self.dts, self.is_key = data, pts, dts, is_key


def encode(
    path: Path,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pixels: str = "yuv420p",
    size: tuple[int, int] = (80, 48),
    count: int = 60,
    container: dict[str, str] | None = None,
    prepare: Callable[[Any], None] = lambda stream: None,
) -> Path:
    """A clip of moving shapes, 30 frames per second."""
    chosen = options if options is not None else CLOSED if codec == "libx264" else {}
    with av.open(str(path), "w", options=container or {}) as out:
        stream: Any = out.add_stream(codec, rate=30, options=chosen)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.thread_count = 1
        prepare(stream)
        for tick, picture in enumerate(pictures(size, count, rng_of(path.stem))):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 30)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def rewritten(
    source: Path,
    target: Path,
    change: Change = lambda packets: packets,
    header: Callable[[bytes], bytes] | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    """A file with the packets of another, changed. Times are in ticks of the source."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=container or {}) as new:
        first = old.streams.video[0]
        stream = new.add_stream_from_template(first)
        if header is not None:
            stream.codec_context.extradata = header(bytes(first.codec_context.extradata or b""))
        for copy in change(list(_copies(old, first))):
            packet = av.Packet(copy.data)
            packet.pts, packet.dts, packet.time_base = copy.pts, copy.dts, first.time_base
            packet.is_keyframe, packet.stream = copy.is_key, stream
            new.mux(packet)
    return target


def _copies(container: Any, stream: Any) -> Iterator[Copy]:
    for packet in container.demux(stream):
        if packet.size:
            dts = packet.pts if packet.dts is None else packet.dts
            yield Copy(bytes(packet), packet.pts, dts, packet.is_keyframe)


def joined(first: Path, second: Path, target: Path) -> Path:
    """The packets of two files of one codec, one after the other, under the first's header."""
    with av.open(str(second)) as container:
        later = list(_copies(container, container.streams.video[0]))

    def both(packets: list[Copy]) -> Iterator[Copy]:
        yield from packets
        shift = max(p.pts for p in packets) + sorted(p.pts for p in packets)[1] - packets[0].pts
        for packet in later:
            packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
            yield packet

    return rewritten(first, target, both)


def with_decord(path: Path, indices: list[int]) -> Any:
    """What decord gives by itself."""
    import decord

    frames = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1).get_batch(indices)
    return np.asarray(frames.asnumpy())


def late_pyramid(path: Path) -> Path:
    """Frames are first reordered when the decoder has guessed that none are."""
    params = "keyint=40:bframes=7:b-pyramid=normal:b-adapt=0:scenecut=0:ref=5"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=30, options={"x264-params": params})
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        stream.codec_context.thread_count = 1
        for tick, picture in enumerate(pictures((80, 48), 120, rng_of("late"))):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 30)
            if tick < 60:
                frame.pict_type = PictureType.P
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def without_reordering(header: bytes) -> bytes:
    """The "avcC" header without the usability information, where x264 states the reordering."""
    size = int.from_bytes(header[6:8], "big")
    unit, rest = header[8 : 8 + size], header[8 + size :]
    bits = "".join(f"{byte:08b}" for byte in unit.replace(b"\0\0\3", b"\0\0"))
    assert h264_parameters(header) is not None
    for end in range(len(bits), 0, -1):  # the last place where a 0 for "none" leaves valid bits
        kept = bits[:end] + "01"
        kept += "0" * (-len(kept) % 8)
        shorter = bytes(int(kept[i : i + 8], 2) for i in range(0, len(kept), 8))
        shorter = re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", shorter)
        changed = header[:6] + len(shorter).to_bytes(2, "big") + shorter + rest
        parameters = h264_parameters(changed)
        if parameters is not None and parameters.reordered is None:
            return changed
    raise AssertionError("no such place")


def hidden_vp8(data: bytes) -> bytes:
    """A VP8 packet whose picture is decoded and not shown."""
    return bytes([data[0] & ~16]) + data[1:]
