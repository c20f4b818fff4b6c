"""Finds the videos of other people's records on this machine, and makes mp4 files of frame zips."""

import hashlib
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path, PurePosixPath

from rollout.addresses import is_remote, local_path
from rollout.importers.fetch import MediaStore
from rollout.importers.rows import VIDEO_SUFFIXES, is_video
from wire.errors import ClipError
from wire.whole_file import whole_file

_THREADS = 4


class Root:
    """A folder where videos are looked for, here or on another machine."""

    def __init__(self, address: str | Path, store: MediaStore) -> None:
        self.address = local_path(str(address)).rstrip("/") or "/"
        self._store = store
        self._names: frozenset[str] | None = None
        self._folder = Path(self.address).absolute()
        self._listed: dict[str, frozenset[str]] = {}

    @property
    def is_taken_at_its_word(self) -> bool:
        """Whether a relative path is not looked for: a web server would be asked for each."""
        return is_remote(self.address) and not self._store.can_list(self.address)

    def find(self, name: PurePosixPath) -> str | None:
        """The address of a file by its name in the folder; None if there is none.

        A folder elsewhere is listed once, or asked for each name where it cannot be listed.
        """
        if not is_remote(self.address):
            path = str(self._folder / name)
            return path if self._has(path) else None
        url = f"{self.address}/{name}"
        if not self._store.can_list(self.address):
            return url if self._store.exists(url) else None
        if self._names is None:
            try:
                self._names = frozenset(self._store.listing(self.address) or ())
            except FileNotFoundError:
                self._names = frozenset()
        return url if str(name) in self._names else None

    def _has(self, path: str) -> bool:
        """Folders are listed once: a list may ask for each of a hundred thousand clips by all the
        names it can have."""
        folder, _, name = path.rpartition("/")
        if folder not in self._listed:
            try:
                self._listed[folder] = frozenset(each.name for each in Path(folder).iterdir())
            except (OSError, ValueError):  # no folder, or none that can be
                self._listed[folder] = frozenset()
        return name in self._listed[folder] and _is_file(Path(path))


def find_video(written: str, root: Root) -> str | None:
    """The path or URL of the file that a record means, or None.

    A URL is taken as it is. A path that is not there is looked for under ``root`` by its last
    parts, the longest match first. A name without a suffix gets those of videos; for a zip of
    frames, a video file of its name is taken before the zip.
    """
    if is_remote(written):
        return written
    literal = Path(local_path(written))
    if literal.is_absolute() and "\\" in written and _is_file(literal):
        return str(literal)  # a backslash is part of a name here
    whole = PurePosixPath(local_path(written).replace("\\", "/"))
    if whole.is_absolute():
        for option in _options(whole):
            if _is_file(Path(option)):
                return str(Path(option))
    parts = [part for part in whole.parts if part not in ("/", "..")]
    if root.is_taken_at_its_word and not whole.is_absolute() and is_video(whole.name):
        return f"{root.address}/{'/'.join(parts)}"
    for start in range(len(parts)):
        for option in _options(PurePosixPath(*parts[start:])):
            if path := root.find(option):
                return path
    return None


def is_zip(path: PurePosixPath | Path | str) -> bool:
    """Whether a video is a zip of frames."""
    return str(path).lower().endswith(".zip")


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


def _options(path: PurePosixPath) -> list[PurePosixPath]:
    """A path, and what else the file may be called."""
    if is_zip(path):
        return [*(path.with_suffix(suffix) for suffix in VIDEO_SUFFIXES if path.stem), path]
    if path.suffix.lower() in VIDEO_SUFFIXES or not path.name:
        return [path]
    return [path, *(path.with_name(path.name + suffix) for suffix in VIDEO_SUFFIXES)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a path of another machine may lead into a closed folder, or be too long
        return False


def _convert(source: Path, path: Path, fps: Fraction) -> None:
    from video.encode import write_mp4
    from video.frame_zip import read_frames

    try:
        with whole_file(path) as partial, partial.open("wb") as file:
            write_mp4(file, read_frames(source), fps)
    except ValueError as error:
        raise ValueError(f"cannot make a video of {source}: {error}") from error


def _file_name(clip_id: str) -> str:
    """A name without folders; what had to be replaced is kept apart by a hash."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", clip_id)
    if plain == clip_id:
        return plain
    return f"{plain[:80]}-{hashlib.sha256(clip_id.encode()).hexdigest()[:12]}"
