"""Containers of videos: opens a file, chooses the stream that is the clip, names what is wrong.

path -> checks of the file -> (container, stream); Undecodable -> ClipError naming the file
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from wire.errors import ClipError

if TYPE_CHECKING:
    from av import VideoStream
    from av.container import InputContainer

# FFmpeg would follow these into other files and onto the network.
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD")


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
        raise Undecodable("no such file")
    if not path.is_file():
        raise Undecodable("not a file")
    if path.stat().st_size == 0:
        raise Undecodable("the file is empty (0 bytes)")
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(_PLAYLISTS):
        raise Undecodable("a playlist, not a video; give the video itself")


@contextmanager
def open_video(path: Path) -> "Iterator[tuple[InputContainer, VideoStream]]":
    """Container and video stream of a file; whatever PyAV raises while it is open becomes a
    reason."""
    import av

    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise Undecodable("no video stream in it")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise Undecodable("its codec is unknown")
            stream.codec_context.thread_count = 1
            yield container, stream
    except (av.FFmpegError, ValueError, IndexError) as error:  # IndexError: streams come and go
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Undecodable(reason) from error
    except MemoryError as error:
        raise Undecodable("its frames need more memory than decode_memory_gb") from error
