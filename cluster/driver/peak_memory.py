"""Samples the memory of this process and its children every 2 s and keeps the peak (on one node:
Ray, engines, learner)."""

import threading
from typing import Self

import psutil

_EVERY_S = 2.0


class MemoryWatch:
    """Thread that samples memory: proportional set size, so that shared pages count once."""

    def __init__(self) -> None:
        self.peak_gb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self.peak_gb = max(self.peak_gb, tree_memory_gb())


def tree_memory_gb() -> float:
    """Memory of this process and its children now, GB."""
    me = psutil.Process()
    return sum(_pss(process) for process in [me, *me.children(recursive=True)]) / 1e9


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.Error, AttributeError):  # it ended meanwhile; or no Linux, which has no PSS
        return 0
