"""Check on packets: whether decord reads exactly the frames asked for, and the same pixels.

    FrameIndex (video/frame_index.py) -> None, or why not

decord counts packets from the last key frame on, and does not say which frame it returned: it is
exact only where each packet shows one picture, in the order of the index. tests/video/exactness has
a file for each clause, and most of them show decord's wrong frames.
"""

import itertools
from collections.abc import Callable, Iterator

from video.exactness.h264 import h264_parameters
from video.frame_index import FrameIndex, PacketFacts, StreamFacts

NO_TIMES = "its packets do not say when frames are shown"
_MP4, _MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
_CODECS = ("h264", "vp8", "vp9", "av1")
"""HEVC is not here: decord refuses files with B-frames, at random."""
_PIXELS = ("yuv420p", "yuvj420p")
_MOST_PACKETS = 9_900
"""decord gives up skipping after 10,000 polls, one for each packet that it reads ahead and some for
the pictures that a decoder holds back; then its frames are random ones."""
_MOST_BYTES = 256 * 2**20
"""decord reads the rest of a file into memory at each jump."""


def why_not_decord(index: FrameIndex) -> str | None:
    """Reason why decord may give other frames or pixels than PyAV; None: it gives the same."""
    facts = index.facts
    if facts is None:
        return NO_TIMES
    return next((reason for check in _CHECKS for reason in check(facts, index)), None)


def _container(facts: StreamFacts, _: FrameIndex) -> Iterator[str]:
    if facts.container not in (_MP4, _MATROSKA):
        yield f"its container is {facts.container}"
    if facts.is_fragmented:
        yield "its mp4 is fragmented"
    if facts.video_streams != 1:
        yield f"it has {facts.video_streams} video streams"


def _codec(facts: StreamFacts, _: FrameIndex) -> Iterator[str]:
    if facts.codec not in _CODECS:
        yield f"its codec is {facts.codec}"


def _picture(facts: StreamFacts, _: FrameIndex) -> Iterator[str]:
    if facts.pixel_format not in _PIXELS:
        yield f"its pixels are {facts.pixel_format}"
    if facts.height % 2:
        yield "its height is odd"  # colour is scaled by other filters there
    if facts.is_interlaced:
        yield "it is interlaced"
    if not facts.is_upright:
        yield "it is turned or mirrored for display"


def _parameters(facts: StreamFacts, _: FrameIndex) -> Iterator[str]:
    if facts.codec != "h264":
        return
    parameters = h264_parameters(facts.stream_header)
    if parameters is None:
        yield "its H.264 parameters are unusual"
        return
    if not parameters.is_progressive:
        yield "its H.264 may be interlaced"
    if (  # mp4 has a table from which FFmpeg knows it
        facts.container == _MATROSKA
        and parameters.reordered is None
        and _is_reordered(facts.packets)
    ):
        yield "its H.264 does not say how many frames are reordered"


def _is_reordered(packets: tuple[PacketFacts, ...]) -> bool:
    times = [packet.pts for packet in packets if packet.pts is not None]
    return any(late > early for late, early in itertools.pairwise(times))


def _amount(facts: StreamFacts, index: FrameIndex) -> Iterator[str]:
    if len(facts.packets) > _MOST_PACKETS:
        yield f"it has more than {_MOST_PACKETS:,} packets"
    if sum(packet.size for packet in facts.packets) > _MOST_BYTES:
        yield f"its packets have more than {_MOST_BYTES // 2**20} MiB"
    if any(packet.is_discarded for packet in facts.packets):
        yield "frames are cut off by an edit list"
    if [packet.pts for packet in facts.packets if packet.is_corrupt]:
        yield "packets are damaged"
    if index.pts != sorted(packet.pts for packet in facts.packets if packet.pts is not None):
        yield "its packets are not its frames"


def _pictures(facts: StreamFacts, _: FrameIndex) -> Iterator[str]:
    for packet in facts.packets:
        picture = packet.picture
        if packet.changes_header:
            yield "its coding changes"
        elif picture is None or not picture.shows_one:
            yield "a packet does not show exactly one picture"
        elif not picture.keeps_format:
            yield "its pictures change their size or coding"
        elif packet.is_key and not picture.is_clean_start:
            yield "a key frame is followed by frames that need earlier ones"


def _order(facts: StreamFacts, _: FrameIndex) -> Iterator[str]:
    """Frames after a key frame in the file must come after it on the screen, too (closed GOPs)."""
    if not facts.packets[0].is_key:
        yield "it does not begin with a key frame"
    key: int | None = None
    for packet in facts.packets:
        if packet.pts is None:
            continue  # then it is no frame of the index, either
        if packet.is_key:
            if key is not None and packet.pts <= key:
                yield "its key frames are out of order"
            key = packet.pts
        elif key is not None and packet.pts < key:
            yield "its GOPs are open"


def _seeking(facts: StreamFacts, _: FrameIndex) -> Iterator[str]:
    """decord jumps to a key frame by the container's list of them, and where one is not in it goes
    on from another, unaware."""
    keys = [packet for packet in facts.packets if packet.is_key]
    if list(facts.seek_times) not in ([key.pts for key in keys], [key.dts for key in keys]):
        yield "its container lists other key frames than its packets"


_CHECKS: tuple[Callable[[StreamFacts, FrameIndex], Iterator[str]], ...] = (
    _container,
    _codec,
    _picture,
    _parameters,
    _amount,
    _pictures,
    _order,
    _seeking,
)
