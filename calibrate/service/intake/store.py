"""Store of the clips that clients sent: one file for each content, under its hash, in a budget.

    incoming() -> chunks, hashed while they are written -> keep: fsync, rename -> HH/HASH

Clips used longest ago go first, never one that is held: by a request, by an open review. Holds are
of this process; whoever needs one after a restart takes it again before the first upload.
"""

import hashlib
import itertools
import os
import re
import shutil
import threading
import time
import weakref
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from calibrate.service.problems import Problem
from wire.whole_file import sync_to_disk

_HASH = re.compile(r"[0-9a-f]{64}")
_INCOMING = "incoming"


class ClipStore:
    """Store of clips in a folder, of at most ``max_bytes``. Safe to call from threads."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Takes the clips up that are there; what a killed process was receiving is removed."""
        self.folder, self._max_bytes = folder, max_bytes
        self._lock = threading.RLock()  # finalizers of requests come in at any time
        self._numbers = itertools.count()
        self._holds: dict[str, Counter[str]] = {}
        shutil.rmtree(folder / _INCOMING, ignore_errors=True)
        (folder / _INCOMING).mkdir(parents=True)
        self._sizes: OrderedDict[str, int] = OrderedDict(_kept(folder))
        """Bytes by hash, those used longest ago first."""
        self._bytes = sum(self._sizes.values())

    @property
    def used_bytes(self) -> int:
        """Bytes of the clips that are kept or coming in."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._sizes)

    def incoming(self) -> "Incoming":
        """A clip that is being received; ``keep`` or ``discard`` it."""
        return Incoming(self, self.folder / _INCOMING / f"{next(self._numbers)}.partial")

    def path_of(self, video_hash: str) -> Path | None:
        """File of a clip, which counts as used now; None if it is not kept."""
        with self._lock:
            if video_hash not in self._sizes:
                return None
            self._sizes.move_to_end(video_hash)
            path = self._place(video_hash)
            try:
                # decoders know a file again by its time of change, which stays
                os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
            except FileNotFoundError:  # removed by hand
                self._bytes -= self._sizes.pop(video_hash)
                return None
            return path

    def open(self, video_hash: str) -> "KeptClip | None":
        """A clip that stays for as long as the object lives; None if it is not kept."""
        held = KeptClip(self, video_hash, f"use {next(self._numbers)}")
        return held if self.path_of(video_hash) is not None else None

    def hold(self, video_hash: str, why: str) -> None:
        """Keep a clip until ``release`` with the same reason, as often as it was held."""
        with self._lock:
            self._holds.setdefault(video_hash, Counter())[why] += 1

    def release(self, video_hash: str, why: str) -> None:
        """End a hold; nothing happens if there is none."""
        with self._lock:
            holds = self._holds.get(video_hash, Counter())
            holds[why] -= 1
            if holds[why] <= 0:
                del holds[why]
            if not holds:
                self._holds.pop(video_hash, None)

    def remove(self, video_hash: str) -> bool:
        """Delete a clip, held or not. Returns False if it is not kept."""
        with self._lock:
            if video_hash not in self._sizes:
                return False
            self._bytes -= self._sizes.pop(video_hash)
            self._place(video_hash).unlink(missing_ok=True)
            return True

    def _keep(self, video_hash: str, partial: Path, size: int) -> None:
        """Take a file over, whose bytes are claimed already."""
        place = self._place(video_hash)
        with self._lock:
            if self.path_of(video_hash) is not None:
                partial.unlink()
                self._bytes -= size
                return
        sync_to_disk(partial)
        place.parent.mkdir(exist_ok=True)
        with self._lock:
            partial.rename(place)
            self._bytes -= self._sizes.pop(video_hash, 0)  # another request was quicker
            self._sizes[video_hash] = size
        sync_to_disk(place.parent)

    def _claim(self, size: int) -> None:
        """Make room for more bytes. Raises Problem 507 if clips that are held fill the budget."""
        with self._lock:
            while self._bytes + size > self._max_bytes:
                oldest = next((one for one in self._sizes if one not in self._holds), None)
                if oldest is None:
                    raise Problem(
                        507,
                        "clip-store-full",
                        f"{self._bytes} bytes of clips are in use or under review, at most "
                        f"{self._max_bytes} are kept; complete reviews or raise clip_store_gb",
                    )
                self.remove(oldest)
            self._bytes += size

    def _unclaim(self, size: int) -> None:
        with self._lock:
            self._bytes -= size

    def _place(self, video_hash: str) -> Path:
        return self.folder / video_hash[:2] / video_hash


class Incoming:
    """Clip that is being received: a file that grows, and the hash of what it holds. A thread may
    write when the request ends and ``discard`` is called."""

    def __init__(self, store: ClipStore, path: Path) -> None:
        self.path, self.size = path, 0
        self._store, self._digest = store, hashlib.sha256()
        self._lock = threading.Lock()
        with _disk():
            self._file: FileIO | None = FileIO(path, "xb")

    def write(self, data: bytes) -> None:
        """Append bytes. Raises Problem 507 if there is no room."""
        with self._lock:
            if self._file is None:
                return  # nobody waits for it any more
            self._store._claim(len(data))
            self.size += len(data)
            self._digest.update(data)
            with _disk():
                _write_all(self._file, data)

    @property
    def video_hash(self) -> str:
        """SHA-256 of the bytes so far, as the archive's column video_hash."""
        return self._digest.hexdigest()

    def keep(self) -> "KeptClip":
        """Put the clip under its hash; it is on the disk when this returns. Raises Problem 507."""
        with self._lock, _disk():
            self._close()
            kept = KeptClip(self._store, self.video_hash, self.path.name)
            self._store._keep(self.video_hash, self.path, self.size)
            self.size = 0
            return kept

    def discard(self) -> None:
        """Delete what was received, unless it is kept."""
        with self._lock:
            self._close()
            self.path.unlink(missing_ok=True)
            self._store._unclaim(self.size)
            self.size = 0

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


class KeptClip:
    """Clip of the store. Its file stays until the last reference to this object ends."""

    def __init__(self, store: ClipStore, video_hash: str, why: str) -> None:
        self.video_hash, self.path = video_hash, store._place(video_hash)
        store.hold(video_hash, why)
        weakref.finalize(self, store.release, video_hash, why)


@contextmanager
def _disk() -> Iterator[None]:
    """Errors of the disk as Problem 507."""
    try:
        yield
    except OSError as error:
        raise Problem(
            507, "disk-full", f"the clip could not be written: {error.strerror}"
        ) from error


def _write_all(file: FileIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _kept(folder: Path) -> Iterator[tuple[str, int]]:
    files = [path for path in folder.glob("[0-9a-f][0-9a-f]/*") if _HASH.fullmatch(path.name)]
    statuses = [(path.name, path.stat()) for path in files]
    for name, status in sorted(statuses, key=lambda pair: pair[1].st_atime_ns):
        yield name, status.st_size
