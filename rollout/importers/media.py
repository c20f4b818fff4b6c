"""Where the videos of other people's records are on this machine, and mp4 files of frame zips."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path, PurePosixPath

from wire.errors import ClipError

_VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi")
_THREADS = 4


def find_video(written: str, root: Path) -> Path | None:
    """The file that a record means, or None.

    A path that is not there is looked for under ``root`` by its last parts, the longest match
    first; for a zip of frames, a video file of its name is taken before the zip.
    """
    for path in _places(PurePosixPath(written.replace("\\", "/")), root):
        options = [path.with_suffix(suffix) for suffix in _VIDEO_SUFFIXES] if is_zip(path) else []
        for option in (*options, path):
            if _is_file(option):
                return option.absolute()
    return None


def is_zip(path: Path) -> bool:
    """Whether a video is a zip of frames."""
    return path.suffix.lower() == ".zip"


def convert_zips(
    zips: Mapping[str, Path], out: Path, fps: Fraction
) -> tuple[dict[str, Path], dict[str, str]]:
    """Write ``out``/ID.mp4 for each clip id's zip of frames.

    Returns the paths, and for each zip that cannot be read the reason.
    """
    made: dict[str, Path] = {}
    faults: dict[str, str] = {}

    def convert(name: str) -> None:
        path = out / f"{_file_name(name)}.mp4"
        try:
            _convert(zips[name], path, fps)
            made[name] = path
        except (ClipError, ValueError) as error:
            faults[name] = str(error)

    if zips:
        out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="convert-frames") as pool:
        list(pool.map(convert, zips))
    return made, faults


def _places(written: PurePosixPath, root: Path) -> Iterator[Path]:
    if written.is_absolute():
        yield Path(written)
    parts = [part for part in written.parts if part not in ("/", "..")]
    for start in range(len(parts)):
        yield root.joinpath(*parts[start:])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a path of another machine may lead into a closed folder, or be too long
        return False


def _convert(source: Path, path: Path, fps: Fraction) -> None:
    from video.encode import write_mp4
    from video.frame_zip import read_frames

    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            write_mp4(file, read_frames(source), fps)
        partial.rename(path)
    except ValueError as error:
        raise ValueError(f"cannot make a video of {source}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _file_name(clip_id: str) -> str:
    """A name without folders; what had to be replaced is kept apart by a hash."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", clip_id)
    if plain == clip_id:
        return plain
    return f"{plain[:80]}-{hashlib.sha256(clip_id.encode()).hexdigest()[:12]}"
