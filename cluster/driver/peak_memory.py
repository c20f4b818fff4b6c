"""Samples the memory of this process and its children and keeps the peak (on one node: Ray,
engines, learner). Every 2 s, less often where a look takes long: the kernel holds a process's
memory map meanwhile, and that of a process with CUDA is large."""

import threading
import time
from typing import Self

import psutil

_EVERY_S = 2.0
_SHARE = 0.02
"""Share of the time that looking may take."""


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
        pause = _EVERY_S
        while not self._stop.wait(pause):
            start = time.perf_counter()
            self.peak_gb = max(self.peak_gb, tree_memory_gb())
            pause = pause_after(time.perf_counter() - start)


def pause_after(seconds: float) -> float:
    """Seconds to wait after a look that took ``seconds``."""
    return max(_EVERY_S, seconds / _SHARE)


def tree_memory_gb() -> float:
    """Memory of this process and its children now, GB."""
    me = psutil.Process()
    return sum(_pss(process) for process in [me, *me.children(recursive=True)]) / 1e9


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.Error, AttributeError):  # it ended meanwhile; or no Linux, which has no PSS
        return 0
