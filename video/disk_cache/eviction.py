"""Eviction from a cache's folder: keeps it below a bound, and says which entries are worth making.

    an entry is read  -> its time of change is set to now
    an entry is made  -> perhaps a look at the folder -> entries above the bound are deleted

Which ones go: video/disk_cache/retention.py. Any number of processes may do both; one at a time
deletes, who holds the lock of ``.evict-lock``. What killed writers left is deleted too.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from video.disk_cache.file_system import FileSystem
from video.disk_cache.retention import KEPT_SHARE, Entry, largest_kept, surplus

_log = logging.getLogger(__name__)

_LOCK = ".evict-lock"
_LOOK_EVERY_S = 30.0
_LOOK_EVERY_SHARE = 0.01
"""Share of the bound that this process may write before it looks at the folder again; the bound may
be exceeded by as much, for each process."""
_KEPT_ON_FULL_DISK = 0.9
_FREE_DISK = 10 * 2**30
"""Bytes of the disk that the cache leaves to others, on small disks a tenth of them."""


class Eviction:
    """Keeps one folder below its bound, together with the evictions of other processes."""

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        *,
        window_share: float,
        files: FileSystem,
        on_fault: Callable[[OSError], None],
    ) -> None:
        """Looks at the folder at once. ``window_share``: of the bound, for entries used last.
        ``on_fault`` hears what the disk refuses."""
        self._folder, self._max_bytes, self._window_share = folder, max_bytes, window_share
        self._files, self._on_fault = files, on_fault
        self._lock = threading.Lock()
        self._written = 0
        self._looked = 0.0
        self._allowed = max_bytes  # less on a small disk, from the first look on
        self._largest_kept: str | None = None
        self.look()

    def keeps(self, key: str) -> bool:
        """Whether an entry of this key, made now, would still be there in the next epoch."""
        return self._largest_kept is None or key <= self._largest_kept

    def used(self, file: Path) -> None:
        """Note that an entry was read, now."""
        with contextlib.suppress(OSError):  # deleted meanwhile, or a disk that only reads
            self._files.touch(file)

    def wrote(self, num_bytes: int) -> None:
        """Note that an entry was made; look at the folder if that is due."""
        with self._lock:
            self._written += num_bytes
            due = self._written >= self._allowed * _LOOK_EVERY_SHARE
            due |= time.monotonic() - self._looked > _LOOK_EVERY_S
        if due:
            self.look()

    def make_room(self) -> None:
        """The disk is full: delete a tenth of the entries."""
        self.look(keep=_KEPT_ON_FULL_DISK)

    def look(self, keep: float = 1.0) -> None:
        """Delete entries beyond the bound. ``keep``: at most this share of the present size is
        kept."""
        with self._lock:
            self._written, self._looked = 0, time.monotonic()
        try:
            self._files.make_folder(self._folder)  # somebody may have cleared the disk
            lock = self._files.open(self._folder / _LOCK)
            try:
                if self._files.lock(lock):  # else another process is just doing this
                    self._evict(keep)
            finally:
                self._files.close(lock)
        except OSError as error:
            self._on_fault(error)

    def _evict(self, keep: float) -> None:
        entries, now = self._entries(), time.time()
        total = sum(entry.num_bytes for entry in entries)
        self._allowed = bound = self._bound(total)
        allowed = min(bound, int(total * keep))
        gone: list[Entry] = []
        if total > allowed:
            window = self._window_share * bound
            gone = surplus(entries, int(KEPT_SHARE * allowed), now, window)
        for entry in gone:
            self._files.remove(entry.path)
        left = set(entries) - set(gone)
        self._largest_kept = largest_kept(left, bound, now)
        if gone:
            freed = sum(entry.num_bytes for entry in gone) / 2**20
            _log.info("deleted %.1f MB of the cache %s", freed, self._folder)

    def _bound(self, total: int) -> int:
        disk, free = self._files.space(self._folder)
        left = free - min(_FREE_DISK, disk // 10)
        return max(0, min(self._max_bytes, total + left))

    def _entries(self) -> list[Entry]:
        """Entries of the folder. Partial files of killed writers are deleted on the way."""
        entries = []
        for path, num_bytes, used_s in self._files.files(self._folder):
            if path.suffix == ".partial":
                self._delete_unless_locked(path)
            elif path.suffix == ".safetensors":
                entries.append(Entry(path, num_bytes, used_s))
        return entries

    def _delete_unless_locked(self, partial: Path) -> None:
        try:
            file = self._files.open(partial, create=False)
        except FileNotFoundError:
            return
        try:
            if self._files.lock(file) and self._files.is_named(file, partial):
                self._files.remove(partial)
        finally:
            self._files.close(file)
