"""A folder of cache entries that processes share, bounded, on a disk that may be full.

    KEY -> lock KEY.partial -> write -> rename -> KEY[:2]/KEY.safetensors

An entry is whole or absent. The disk used is bounded (video/eviction.py). Where the disk is full,
room is made, a warning says so once, and the caller goes on without the file.
"""

import errno
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from video.eviction import Eviction
from video.locked_file import locked

_log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_disk_full(error: OSError) -> bool:
    """Whether an error says that there is no room for a file."""
    return error.errno in _FULL


class CacheFolder:
    """The folder of one cache, as one process sees it. Safe to use from several threads."""

    def __init__(self, path: Path, max_bytes: int, what: str, otherwise: str) -> None:
        """``what`` is kept here, and what is done ``otherwise``, for the warning of a full disk."""
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._eviction = Eviction(path, max_bytes)
        self._what, self._otherwise = what, otherwise
        self._is_full = False

    def file(self, key: str) -> Path:
        """Where the entry of a key is, if it is there."""
        return self.path / key[:2] / f"{key}.safetensors"

    def partial(self, key: str) -> Path:
        """The file that an entry is written to."""
        return self.file(key).with_suffix(".partial")

    def locked(self, key: str, deadline: float) -> AbstractContextManager[BinaryIO]:
        """The partial file of a key, opened and locked by nobody else.

        Raises DeadlineExceeded if another process holds it until ``deadline`` (monotonic time).
        """
        return locked(self.partial(key), deadline)

    def write(self, key: str, file: BinaryIO, write_entry: Callable[[BinaryIO], None]) -> bool:
        """Write an entry to its locked partial file and rename that; False if there is no room,
        and then the partial file is gone."""
        partial = self.partial(key)
        try:
            file.truncate(0)  # a writer that died may have left some
            write_entry(file)
            partial.rename(self.file(key))
        except OSError as error:
            if not is_disk_full(error):
                raise
            partial.unlink(missing_ok=True)
            self.make_room(error)
            return False
        self._is_full = False
        return True

    def used(self, key: str) -> None:
        """Note that an entry was read, now."""
        self._eviction.used(self.file(key))

    def wrote(self, num_bytes: int) -> None:
        """Note that an entry was made; the folder is tidied if that is due."""
        self._eviction.wrote(num_bytes)

    def make_room(self, error: OSError) -> None:
        """Delete entries because the disk is full; the first time, warn."""
        self._eviction.make_room()
        if not self._is_full:
            _log.warning(
                "no room for %s in %s (%s): until there is, %s; free some, or set video.cache_dir "
                "to another disk",
                self._what,
                self.path,
                error.strerror,
                self._otherwise,
            )
        self._is_full = True
