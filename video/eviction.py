"""Eviction from the clip cache: keeps a folder below a bound, deleting the least recently used.

    a clip is read  -> its time of change is set to now
    a clip is made  -> perhaps a look at the folder -> clips above the bound are deleted

Any number of processes may do both; one at a time deletes. A deleted file that is mapped lives on
for its reader, and who wants it next makes it anew. What killed writers left is deleted too.
"""

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from video.locked_file import same_file, try_lock

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 30.0
_LOOK_EVERY_SHARE = 0.01
"""Share of the bound that this process may write before it looks at the folder again; the bound may
be exceeded by as much, for each process."""
_KEPT_SHARE = 0.9
"""Share of the bound that is kept after deleting, so that the next clips need no other look."""
_FREE_DISK = 2 * 2**30
"""Bytes of the disk that the cache leaves to others, on small disks a twentieth of them."""


class Eviction:
    """Keeps one folder below its bound, together with the evictions of other processes."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Looks at the folder at once."""
        self._folder, self._max_bytes = folder, max_bytes
        self._lock = threading.Lock()
        self._written = 0
        self._looked = 0.0
        self._warned = False
        self.look()

    def used(self, file: Path) -> None:
        """Note that a clip was read, now."""
        with contextlib.suppress(OSError):  # deleted meanwhile, or a disk that only reads
            os.utime(file)

    def wrote(self, num_bytes: int) -> None:
        """Note that a clip was made; look at the folder if that is due."""
        with self._lock:
            self._written += num_bytes
            due = self._written >= self._max_bytes * _LOOK_EVERY_SHARE
            due |= time.monotonic() - self._looked > _LOOK_EVERY_S
        if due:
            self.look()

    def make_room(self) -> None:
        """The disk is full: delete a tenth of the clips."""
        self.look(keep=_KEPT_SHARE)

    def look(self, keep: float = 1.0) -> None:
        """Delete clips beyond the bound. ``keep``: at most this share of the present size is
        kept."""
        with self._lock:
            self._written, self._looked = 0, time.monotonic()
        try:
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                if try_lock(folder):  # else another process is just doing this
                    self._evict(keep)
            finally:
                os.close(folder)
        except OSError as error:
            if not self._warned:
                _log.warning("cannot tidy the clip cache %s: %s", self._folder, error)
            self._warned = True

    def _evict(self, keep: float) -> None:
        entries = sorted(_clips(self._folder), key=lambda entry: entry.used_ns)
        total = sum(entry.num_bytes for entry in entries)
        bound = min(self._bound(total), int(total * keep))
        if total <= bound:
            return
        excess = total - int(bound * _KEPT_SHARE)
        gone = 0
        for entry in entries:
            if gone >= excess:
                break
            entry.path.unlink(missing_ok=True)
            gone += entry.num_bytes
        _log.info("deleted %.1f MB of the clip cache %s", gone / 2**20, self._folder)

    def _bound(self, total: int) -> int:
        disk = shutil.disk_usage(self._folder)
        left = disk.free - min(_FREE_DISK, disk.total // 20)
        return max(0, min(self._max_bytes, total + left))


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    num_bytes: int
    used_ns: int


def _clips(folder: Path) -> Iterator[_Entry]:
    """Clips in a cache folder. Partial files of killed writers are deleted on the way."""
    for part in list(os.scandir(folder)):
        if not part.is_dir():
            continue
        for entry in list(os.scandir(part.path)):
            path = Path(entry.path)
            if path.suffix == ".partial":
                _delete_unless_locked(path)
            elif path.suffix == ".safetensors":
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    yield _Entry(path, status.st_blocks * 512, status.st_mtime_ns)


def _delete_unless_locked(partial: Path) -> None:
    with contextlib.suppress(FileNotFoundError), partial.open("rb") as file:
        if try_lock(file) and same_file(file, partial):
            partial.unlink()
