"""File system of the caches: each access to their files, in one class, where a test can refuse it.

    CacheFolder, Eviction -> FileSystem -> local disk, NFS, Lustre, one that is full or only reads

Every method raises OSError as the disk does. Who calls decides what that means: for a cache always
that it does without the file.
"""

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

Content = npt.NDArray[np.uint8]
"""The bytes of a file, read whole: a mapped file that another node deletes ends who reads it."""


class FileSystem:
    """File system that caches use. No state."""

    def make_folder(self, path: Path) -> None:
        """Make a folder and those above it, where they are not there yet."""
        path.mkdir(parents=True, exist_ok=True)

    def open(self, path: Path, *, create: bool = True) -> BinaryIO:
        """Open a file for writing, as NFS asks of who locks it; nothing is lost of its content."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        return os.fdopen(os.open(path, flags, 0o666), "r+b")

    def lock(self, file: BinaryIO) -> bool:
        """Lock an open file; False if another process holds it. A crash releases it."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_named(self, file: BinaryIO, path: Path) -> bool:
        """Whether an open file still has this name."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), path.stat())
        except FileNotFoundError:
            return False

    def write(self, file: BinaryIO, parts: Iterable[bytes | memoryview]) -> None:
        """Write a file's whole content. Not flushed to the disk: a digest shows what a power cut
        leaves."""
        file.truncate(0)  # a writer that died may have left some
        for part in parts:
            file.write(part)
        file.flush()

    def close(self, file: BinaryIO) -> None:
        """Close a file; the lock is released. NFS says here that a write was lost."""
        file.close()

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its final name."""
        source.rename(target)

    def remove(self, path: Path) -> None:
        """Delete a file, if it is still there."""
        path.unlink(missing_ok=True)

    def read(self, path: Path) -> Content:
        """The content of a file."""
        with path.open("rb", buffering=0) as file:
            content = np.empty(os.fstat(file.fileno()).st_size, np.uint8)
            view, length = content.data, 0
            while length < len(view) and (more := file.readinto(view[length:])):
                length += more
        return content[:length]

    def touch(self, path: Path) -> None:
        """Note that a file was used, now."""
        os.utime(path)

    def files(self, folder: Path) -> Iterator[tuple[Path, int, float]]:
        """Path, bytes on disk and time of change of each file two levels down, those left out that
        are deleted meanwhile."""
        for part in list(os.scandir(folder)):
            if not part.is_dir():
                continue
            for entry in list(os.scandir(part.path)):
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue
                yield Path(entry.path), status.st_blocks * 512, status.st_mtime

    def space(self, folder: Path) -> tuple[int, int]:
        """Bytes of the disk, and those that are free."""
        usage = shutil.disk_usage(folder)
        return usage.total, usage.free
