"""A folder of cache entries that processes share, bounded, on whatever disk there is.

    KEY -> lock KEY.partial -> write -> rename -> KEY[:2]/KEY.safetensors -> read, parse and check

An entry is whole or absent. The disk used is bounded (video/disk_cache/eviction.py). Where the disk
is full, only reads, cannot lock (flock) or fails, a warning says so once, and the caller goes on as
if there were no entry: no method here raises OSError.
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from video.disk_cache.entry_file import Damaged, Outdated
from video.disk_cache.eviction import Eviction
from video.disk_cache.file_system import Content, FileSystem

_log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)  # stale: another node deleted it
_FIRST_POLL_S, _LONGEST_POLL_S = 0.02, 0.25  # each opens a file, perhaps over a network

Value = TypeVar("Value")


@dataclass(slots=True)
class Place:
    """Place of an entry that its holder alone may write."""

    key: str
    file: BinaryIO
    is_written: bool = False


class CacheFolder:
    """The folder of one cache, as one process sees it. Safe to use from several threads."""

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        what: str,
        otherwise: str,
        *,
        window_share: float = 0.0,
        files: FileSystem | None = None,
    ) -> None:
        """``what`` is kept here, and what is done ``otherwise``, for the warning. ``window_share``:
        of the bound, for the entries used last (video/disk_cache/retention.py)."""
        self.path = path
        self._files = files or FileSystem()
        self._what, self._otherwise = what, otherwise
        self._has_warned = False
        self._warning = threading.Lock()
        self._eviction = Eviction(
            path, max_bytes, window_share=window_share, files=self._files, on_fault=self._warn
        )

    def file(self, key: str) -> Path:
        """Where the entry of a key is, if it is there."""
        return self.path / key[:2] / f"{key}.safetensors"

    def partial(self, key: str) -> Path:
        """The file that an entry is written to."""
        return self.file(key).with_suffix(".partial")

    def has(self, key: str) -> bool:
        """Whether there is an entry of a key, unread; a disk that fails has none."""
        return os.path.exists(self.file(key))  # noqa: PTH110 - Path's own raises on a failing disk

    def keeps(self, key: str) -> bool:
        """Whether an entry of this key, made now, would still be there in the next epoch."""
        return self._eviction.keeps(key)

    def read(self, key: str, parse: Callable[[Content], Value]) -> Value | None:
        """The entry of a key; None if there is none, or if it is damaged and so to be made anew.

        ``parse`` raises Damaged or Outdated.
        """
        file = self.file(key)
        try:
            return parse(self._files.read(file))
        except OSError as error:
            if error.errno not in _GONE:
                self._fault(error)
        except Outdated:
            pass
        except Damaged as error:
            _log.warning("%s: %s; making it anew", file, error)
        return None

    @contextmanager
    def making(self, key: str, deadline: float) -> Iterator[Place | None]:
        """Hold the place of an entry, so that nobody else makes it meanwhile.

        None: it cannot be kept here, or another process holds it beyond ``deadline`` (monotonic
        time). Without a :meth:`write` in the block nothing is left.
        """
        place = self._hold(key, deadline)
        try:
            yield place
        finally:
            if place is not None:
                self._release(place)

    def write(self, place: Place, parts: Sequence[bytes | memoryview]) -> bool:
        """Write an entry to the place held for it; False if it cannot be kept."""
        try:
            self._files.write(place.file, parts)
            self._files.rename(self.partial(place.key), self.file(place.key))
        except OSError as error:
            self._fault(error)
            return False
        place.is_written = True
        self._eviction.wrote(sum(len(part) for part in parts))
        return True

    def used(self, key: str) -> None:
        """Note that an entry was read, now."""
        self._eviction.used(self.file(key))

    def _hold(self, key: str, deadline: float) -> Place | None:
        partial, pause = self.partial(key), _FIRST_POLL_S
        while True:
            try:
                file = self._open_locked(partial)
            except OSError as error:
                self._fault(error)
                return None
            if file is not None:
                return Place(key, file)
            if time.monotonic() > deadline:
                _log.warning(
                    "another process holds %s and has not finished its entry; going on without; "
                    "end it if it hangs",
                    partial,
                )
                return None
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL_S)

    def _open_locked(self, partial: Path) -> BinaryIO | None:
        """The partial file, open and locked; None if another process holds it, or has just renamed
        or removed it."""
        self._files.make_folder(partial.parent)
        file = self._files.open(partial)
        try:
            if self._files.lock(file) and self._files.is_named(file, partial):
                return file
        except OSError:
            self._drop(file, partial)
            raise
        self._files.close(file)
        return None

    def _release(self, place: Place) -> None:
        if not place.is_written:
            self._drop(place.file, self.partial(place.key))
            return
        try:
            self._files.close(place.file)
        except OSError as error:  # of NFS: not all was written
            self._fault(error)

    def _drop(self, file: BinaryIO, partial: Path) -> None:
        """Remove the partial file while it is locked, then release it."""
        try:
            try:
                self._files.remove(partial)
            finally:
                self._files.close(file)
        except OSError as error:
            self._warn(error)

    def _fault(self, error: OSError) -> None:
        if error.errno in _FULL:
            self._eviction.make_room()
        self._warn(error)

    def _warn(self, error: OSError) -> None:
        """Say once what keeps the cache from being used."""
        with self._warning:
            if self._has_warned:
                return
            self._has_warned = True
        if error.errno in _FULL:
            text = (
                "no room for %s in %s (%s): until there is, %s; free some, or set video.cache_dir "
                "to another disk"
            )
        else:
            text = (
                "cannot keep %s in %s (%s): %s; set video.cache_dir to a local disk of each node, "
                "or mount this one for writing, with flock"
            )
        _log.warning(text, self._what, self.path, error.strerror, self._otherwise)
