"""Containers of videos: opens a file, chooses the stream that is the clip, names what is wrong.

path -> what it is (video/file_kind.py) -> streams -> (container, stream) -> frames
Undecodable -> ClipError naming the file
"""

import errno
import functools
import os
import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from video.file_kind import text_in, why_no_video
from wire.errors import ClipError

if TYPE_CHECKING:
    from av import Packet, VideoFrame, VideoStream
    from av.container import InputContainer
    from av.index import IndexEntry


_MAY_BE_ZEROS = ("rawvideo", "v210", "v410", "r210", "wrapped_avframe")
"""Codecs of which a black frame is nothing but zeros."""
_COLOURS = {
    8: "YCgCo",
    10: "BT.2020 with constant luminance",
    11: "SMPTE ST 2085",
    12: "derived from chromaticity",
    13: "derived from chromaticity with constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
"""Matrices (ITU-T H.273) that need more than a matrix."""
_PLAYLISTS = ("concat", "hls", "dash", "imf", "sdp", "mlv", "vobsub", "webm_dash_manifest")
_NETWORK = ("rtsp", "rtp", "sap")
_DEVICES = ("lavfi", "alsa", "fbdev", "kmsgrab", "oss", "video4linux2", "v4l2", "x11grab")
_FOLLOWS = frozenset(_PLAYLISTS + _NETWORK + _DEVICES)
"""Formats of FFmpeg that read other files, the network or devices than the file they are in."""
_NO_MEMORY = "its frames need more memory than decode_memory_gb; raise it"
_LAST, _LOOKS = 64, 4
_SHORTEST, _LOOKED_AT = 4, 64


class Undecodable(Exception):
    """Reason why there is no clip; never leaves the decoder's modules."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors that name the file, from the reasons of the block. Raises ClipError."""
    try:
        _check_file(path)
        yield
    except Undecodable as error:
        raise ClipError(f"cannot decode {path}: {error}") from error
    except OSError as error:
        raise ClipError(f"cannot decode {path}: {error.strerror}") from error


def _check_file(path: Path) -> None:
    if not path.exists():
        if path.is_symlink():
            raise Undecodable(
                f"a link to {path.readlink()}, which is not there; fetch what it links to "
                "(git annex get, dvc checkout, or a copy that follows links)"
            )
        raise Undecodable("no such file")
    if not path.is_file():
        raise Undecodable("not a file")
    reason = why_no_video(path)
    if reason is not None:
        raise Undecodable(reason)


@contextmanager
def open_video(path: Path) -> "Iterator[tuple[InputContainer, VideoStream]]":
    """Container and video stream of a file; whatever PyAV raises while it is open becomes a
    reason."""
    import av

    try:
        # absolute: FFmpeg takes a name like "12:30.mp4" for an address
        with av.open(
            str(path.absolute()), metadata_errors="replace", container_options=_this_file_alone()
        ) as container:
            stream = video_stream(container)
            _refuse_cut(path, container, stream)
            stream.codec_context.thread_count = 1
            yield container, stream
    except (av.FFmpegError, ValueError, IndexError) as error:  # IndexError: streams come and go
        if getattr(error, "errno", None) == errno.ENOMEM:
            raise Undecodable(_NO_MEMORY) from error
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if text := text_in(path):
            reason = f"a text file ({text}), not a video"
        raise Undecodable(reason) from error
    except MemoryError as error:
        raise Undecodable(_NO_MEMORY) from error


@functools.cache
def _this_file_alone() -> dict[str, str]:
    """Options with which FFmpeg opens no file but the one that it is given."""
    import av.format

    return {
        "format_whitelist": ",".join(sorted(av.format.formats_available - _FOLLOWS)),
        "protocol_whitelist": "file",
        "pattern_type": "none",  # a picture called frame%03d.png is that one picture
    }


def is_fragmented(path: Path) -> bool:
    """Whether an mp4 is written in fragments (boxes "moof"); False for other containers."""
    with path.open("rb") as file:
        while len(head := file.read(16)) == 16:
            size, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if kind == b"moof":
                return True
            if size == 1:
                size = int.from_bytes(head[8:], "big")
            if not kind.isalnum() or size < 8:  # to the end of the file; or no mp4
                return False
            file.seek(size - 16, os.SEEK_CUR)
    return False


def video_stream(container: "InputContainer") -> "VideoStream":
    """The stream that is the clip: no cover or thumbnails, no still picture beside a video; of
    several videos the default one, as players do, then the largest. Raises Undecodable."""
    from av.stream import Disposition

    beside = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = container.streams.video
    if not streams:
        raise Undecodable("no video stream in it")
    videos = [stream for stream in streams if not stream.disposition & beside]
    if not videos:
        raise Undecodable("no video in it, only a cover picture")
    videos = [stream for stream in videos if stream.codec_context is not None]
    if not videos:
        raise Undecodable("its codec is unknown")
    part = Disposition.still_image | Disposition.dependent
    best = max(
        videos,
        key=lambda stream: (
            stream.frames != 1 and not stream.disposition & part,
            bool(stream.disposition & Disposition.default),
            stream.codec_context.width * stream.codec_context.height,
            -stream.index,
        ),
    )
    if best.disposition & Disposition.dependent:
        raise Undecodable(
            "a picture in tiles (HEIC, AVIF), which are not put together here; convert it"
        )
    return best


def packets_of(
    container: "InputContainer", stream: "VideoStream"
) -> "Iterator[Packet[VideoStream]]":
    """The stream's packets, without the empty ones that recorders write for dropped frames."""
    return (packet for packet in container.demux(stream) if packet.size > 0)


def frames_of(
    packets: "Iterable[Packet[VideoStream]]", stream: "VideoStream"
) -> "Iterator[VideoFrame]":
    """Frames in the order in which they are shown; at least one. Raises Undecodable.

    What cannot be decoded before the first one is passed over, as players do: a recording may begin
    between key frames.
    """
    import av

    count, reason = 0, Undecodable("no frame in it")
    for packet in packets:
        if not count and packet.has_sidedata("encryption_info"):
            raise Undecodable("it is encrypted (DRM); give a copy without protection")
        try:
            frames = packet.decode()
        except av.InvalidDataError as error:
            if _lacks_memory_for(stream):  # H.264's decoder calls that invalid data
                raise MemoryError from error
            if count:
                raise Undecodable(
                    f"it is damaged{_place(packet, stream)} ({error.strerror}); "
                    "download or copy it anew"
                ) from error
            reason = Undecodable(error.strerror)
            continue
        if frames and not count:
            _refuse_colours(frames[0])
        count += len(frames)
        yield from frames
    frames = stream.decode(None)
    if not count:
        if not frames:
            raise reason
        _refuse_colours(frames[0])
    yield from frames


def _lacks_memory_for(stream: "VideoStream") -> bool:
    """Whether this process may not take the memory of one more frame (video/pool_child.py limits
    it)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit == resource.RLIM_INFINITY:
        return False
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    room = limit - pages * resource.getpagesize()
    return room < 3 * stream.codec_context.width * stream.codec_context.height


def _place(packet: "Packet[VideoStream]", stream: "VideoStream") -> str:
    if packet.pts is None:
        return ""
    return f" at {float((packet.pts - (stream.start_time or 0)) * packet.time_base):.3g} s"


def _refuse_colours(frame: "VideoFrame") -> None:
    name = _COLOURS.get(frame.colorspace)
    if name is not None and not frame.format.is_rgb:
        raise Undecodable(
            f"its colours are coded as {name}, which FFmpeg does not convert; write it anew, "
            "for example with ffmpeg -vf zscale=matrix=709"
        )


def _refuse_cut(path: Path, container: "InputContainer", stream: "VideoStream") -> None:
    """Refuse an mp4 that ends before the frames that its index lists, or holds zeros instead of
    them; one that lists a frame too many is whole."""
    if not container.format.name.startswith("mov,"):
        return
    entries, size = stream.index_entries, container.size
    missing = [entry for entry in entries[-_LAST:] if entry.pos + entry.size > size]
    if len(missing) > 1 or any(entry.pos < size for entry in missing):
        there = sum(entry.pos + entry.size <= size for entry in entries)
        raise Undecodable(
            f"it is cut: only {there} of its {len(entries)} frames are there; "
            "download or copy it anew"
        )
    if entries and stream.codec_context.name not in _MAY_BE_ZEROS:
        last = len(entries) - 1 - len(missing)
        _refuse_zeros(path, [entries[last * part // _LOOKS] for part in range(1, _LOOKS + 1)])


def _refuse_zeros(path: Path, entries: "Iterable[IndexEntry]") -> None:
    """A download that was broken off may have the whole length already."""
    with path.open("rb", buffering=0) as file:
        for entry in entries:
            length = min(entry.size, _LOOKED_AT)
            if length > _SHORTEST and not any(os.pread(file.fileno(), length, entry.pos)):
                raise Undecodable(
                    f"zeros are in place of its frames at byte {entry.pos}: half a download? "
                    "download or copy it anew"
                )
