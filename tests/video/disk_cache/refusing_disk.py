"""A disk that refuses: the caches' file system, with an error at chosen calls. (No test file.)"""

import errno
import os
from collections import Counter
from typing import Any

from video.disk_cache.file_system import FileSystem

OPERATIONS = [name for name in vars(FileSystem) if not name.startswith("_")]
ERRORS = [
    errno.EBADF,  # NFS: an exclusive lock of a file that was opened for reading
    errno.ENOSYS,  # Lustre mounted without flock
    errno.ENOLCK,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
]


class RefusingDisk(FileSystem):
    """Raises an error at one call of one operation, or at each; counts the calls."""

    def __init__(self, operation: str = "", number: int = 0, at: int | None = None) -> None:
        """``at``: which call fails, from 1; none: each does."""
        self.calls = Counter[str]()
        for name in OPERATIONS:
            setattr(self, name, self._watched(name, operation, number, at))

    def _watched(self, name: str, operation: str, number: int, at: int | None) -> Any:
        act = getattr(FileSystem, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            if name != operation or at not in (None, self.calls[name]):
                return act(self, *args, **kwargs)
            if name == "close":  # as the kernel does: the file is closed all the same
                act(self, *args)
            raise OSError(number, os.strerror(number))

        return watched
