"""Roots: folders of this machine from which clients may name files, opened so that none escapes.

    path -> lexically below a root -> each folder opened without following links -> regular file
         -> OpenedFile: its descriptor, and a name for it that other processes can open

A path outside is refused without a look at the disk, so that the answer tells nothing of what is
there. The name leads to the open file itself (``/proc/PID/fd/N``): whoever opens it gets the file
that was checked, also where another was put in its place since. Hard links cannot be told from
other files: who may write into a root decides what can be read through it.
"""

import errno
import itertools
import os
import shutil
import stat
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from calibrate.service.problems import Problem
from wire.errors import ConfigError

_SYSTEM = (Path("/proc"), Path("/sys"), Path("/dev"))
_LONGEST = 4096
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
"""Opens nothing: a device does not move, a pipe does not wait."""
_READ = os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
_NOT_FOLLOWED = "a part of its path is no folder, or a symbolic link, which is not followed"
_NOT_READ = "this service may not read it"
_REASONS = {
    errno.ENOTDIR: _NOT_FOLLOWED,
    errno.ELOOP: _NOT_FOLLOWED,
    errno.EACCES: _NOT_READ,
    errno.EPERM: _NOT_READ,
    errno.ENAMETOOLONG: "a part of its path is longer than a name may be",
}


class OpenedFile:
    """Regular file below a root, open for reading until the last reference to this object ends: a
    thread that reads it never meets another file under its number."""

    def __init__(self, descriptor: int, alias: Path) -> None:
        """Takes the descriptor over. ``alias``: a name under which processes of this machine open
        this very file, for as long."""
        self.descriptor, self.alias = descriptor, alias
        weakref.finalize(self, _close, descriptor, alias)

    @property
    def identity(self) -> tuple[int, ...]:
        """Numbers that change when bytes are written to it; another file has others."""
        status = os.fstat(self.descriptor)
        return (
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )

    @property
    def size(self) -> int:
        """Bytes in it now."""
        return os.fstat(self.descriptor).st_size

    @property
    def place(self) -> Path:
        """Absolute path of the file, wherever a client's name for it began."""
        return Path(os.readlink(f"/proc/self/fd/{self.descriptor}"))  # noqa: PTH115  of a descriptor


class Roots:
    """Allowed folders. Safe to call from threads."""

    def __init__(self, folders: Sequence[Path], aliases: Path, *, closed: Path) -> None:
        """``aliases``: a folder for names of open files, which is emptied; ``closed``: a folder of
        which no file is opened, also below a root. Raises ConfigError for a root that is no folder,
        or is the system's."""
        self._roots = [pair for folder in folders for pair in _both_names(folder)]
        self._aliases, self._numbers = aliases, itertools.count()
        self._closed = closed.resolve()
        shutil.rmtree(aliases, ignore_errors=True)
        aliases.mkdir(parents=True)
        self._system = {path.stat().st_dev for path in _SYSTEM if path.is_dir()}

    def open(self, path: str) -> OpenedFile:
        """Open a file that a client named, absolutely or below a root (the first that has it).

        Raises Problem 403 if it is outside of the roots or no regular file, 404 if there is none,
        OSError if its disk fails.
        """
        for root, parts in self._places(path):
            if root.joinpath(*parts).is_relative_to(self._closed):  # no link is followed
                raise _refused("the service's own files are no clips")
            try:
                file = _walk(root, parts)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _refusal_of(error) from error
            try:
                return self._opened(file, PurePosixPath(path).suffix)
            finally:
                os.close(file)
        raise Problem(404, "no-such-clip", "there is no such file under the allowed roots")

    def _places(self, path: str) -> list[tuple[Path, tuple[str, ...]]]:
        """Roots that may have it, with the parts of its path below them."""
        if not path or len(path) > _LONGEST or not path.isprintable():
            raise Problem(
                422, "bad-path", f"this is no path; give 1 to {_LONGEST} printable characters"
            )
        if not self._roots:
            raise _refused("this service reads no paths; upload the clip, or serve with --root DIR")
        pure = PurePosixPath(path)
        if ".." in pure.parts:
            raise _refused("a path with .. in it is not followed; name the file directly")
        if not pure.is_absolute():
            return [(root, pure.parts) for _, root in self._roots]
        for name, root in self._roots:
            if pure.is_relative_to(name):
                return [(root, pure.relative_to(name).parts)]
        raise _refused("the path is outside of the allowed roots; upload the clip")

    def _opened(self, file: int, suffix: str) -> OpenedFile:
        """Open for reading what ``_walk`` has looked at."""
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_dev in self._system:
            raise _refused(f"it is {_kind(status.st_mode)}, not a regular file of a disk")
        try:
            descriptor = os.open(f"/proc/self/fd/{file}", _READ)
        except OSError as error:
            raise _refusal_of(error) from error
        ending = suffix if suffix[1:].isalnum() and suffix.isascii() else ""
        opened = OpenedFile(descriptor, self._aliases / f"{next(self._numbers)}{ending}")
        opened.alias.symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")
        return opened


def _close(descriptor: int, alias: Path) -> None:
    alias.unlink(missing_ok=True)
    os.close(descriptor)


def _both_names(folder: Path) -> Iterator[tuple[PurePosixPath, Path]]:
    """A root under its given and its real name, each with the real one."""
    real = folder.resolve()
    if not real.is_dir():
        raise ConfigError(f"the allowed root {folder} is no folder; give one that is there")
    if real == Path("/") or any(real.is_relative_to(system) for system in _SYSTEM):
        raise ConfigError(f"the allowed root {folder} holds files of the system; give one of clips")
    for name in dict.fromkeys((folder.absolute(), real)):
        yield PurePosixPath(name), real


def _walk(root: Path, parts: Sequence[str]) -> int:
    """Descriptor (O_PATH) of what is there, no link on the way or at its end followed."""
    place = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for number, part in enumerate(parts, 1):
        flags = _LOOK if number == len(parts) else _LOOK | os.O_DIRECTORY
        try:
            following = os.open(part, flags, dir_fd=place)
        finally:
            os.close(place)
        place = following
    return place


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "a file of the system")


def _refusal_of(error: OSError) -> Exception:
    """The refusal that an error of the system means; a disk that fails is none."""
    reason = _REASONS.get(error.errno or 0)
    return error if reason is None else _refused(reason)


def _refused(reason: str) -> Problem:
    return Problem(403, "path-refused", reason)
