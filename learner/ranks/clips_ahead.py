"""Clips of one rank, made ready ahead of their use, in threads beside a training that goes on.

clips that will be trained -> threads -> decode helpers -> cache of this node -> load()
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

from video.processor import ProcessedClip

MOST_PENDING = 16
"""Clips that wait to be made ready; further ones are made when they are needed. As many as a
process holds in memory, where its node has no cache (video/cache.py)."""


@runtime_checkable
class Clips(Protocol):
    """Clips of a node; video/cache.py implements it."""

    def has(self, clip_key: str) -> bool:
        """Whether a clip is ready."""
        ...

    def prepare(self, address: str) -> None:
        """Make a clip ready."""
        ...

    def load(self, clip_key: str, address: str, fingerprint: str) -> ProcessedClip:
        """A clip, made now if it is not ready. Raises ParityError."""
        ...


class ClipsAhead:
    """Clips of one rank: made ready ahead, on request, and loaded. Safe to call from several
    threads."""

    def __init__(self, clips: Clips, num_threads: int) -> None:
        self._clips = clips
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="clips-ahead")
        self._pending = set[str]()
        self._lock = threading.Lock()
        self._waited_s = 0.0

    def submit(self, video: str) -> None:
        """Let the clip at an address be made ready soon, unless it is asked for already or too many
        wait. A hint: it returns at once, and
        :meth:`load` says what is wrong with the clip."""
        with self._lock:
            if video in self._pending or len(self._pending) >= MOST_PENDING:
                return
            self._pending.add(video)
        self._threads.submit(self._run, video)

    def has(self, clip_key: str) -> bool:
        """Whether a clip is ready."""
        return self._clips.has(clip_key)

    def load(self, clip_key: str, video: str, fingerprint: str) -> ProcessedClip:
        """A clip, made now if it is not ready. Raises ParityError."""
        is_ready, start = self._clips.has(clip_key), time.perf_counter()
        clip = self._clips.load(clip_key, video, fingerprint)
        if not is_ready:
            self._waited_s += time.perf_counter() - start
        return clip

    def take_waited_s(self) -> float:
        """Seconds that :meth:`load` has waited for clips that were not ready, since the last
        call."""
        waited_s, self._waited_s = self._waited_s, 0.0
        return waited_s

    def _run(self, video: str) -> None:
        try:
            self._clips.prepare(video)
        finally:
            with self._lock:
                self._pending.discard(video)
