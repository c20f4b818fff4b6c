"""Deadly clips: those that engines ended with, each time, are not asked again for a while.

Each costs three restarts; one that a client sends again and again would keep all others waiting.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

_MOST = 1_000
_Key = tuple[int, int, int, int]


class DeadlyClips:
    """Files that are not handed to engines, each for ``seconds``."""

    def __init__(self, seconds: float = 600.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._until: OrderedDict[_Key, float] = OrderedDict()

    def add(self, path: Path) -> None:
        """Refuse a file from now on, whatever name it comes under."""
        if (key := _key(path)) is not None:
            self._until[key] = self._clock() + self._seconds
            self._until.move_to_end(key)
            while len(self._until) > _MOST:
                self._until.popitem(last=False)

    def seconds_left(self, path: Path) -> float:
        """Seconds for which a file is still refused; 0: it is not."""
        if not self._until or (key := _key(path)) is None:
            return 0.0
        left = self._until.get(key, 0.0) - self._clock()
        if left <= 0:
            self._until.pop(key, None)
        return max(0.0, left)


def _key(path: Path) -> _Key | None:
    """What a file is, also behind another name; another one after a change."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
