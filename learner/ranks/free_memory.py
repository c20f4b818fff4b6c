"""Free memory of this process, and its peak.

A container, a batch system or a shell may allow less than the machine has: the least counts.
"""

import contextlib
import ctypes
import gc
import resource
import threading
from pathlib import Path

import psutil
import torch

_EVERY_S = 0.002
_CGROUPS = (  # limit, use, and in which statistics the pages that can be dropped are: v2, v1
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


def free_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process may still take on CPU."""
    left = [int(psutil.virtual_memory().available), _below_cgroup(cgroup)]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        left.append(soft - int(psutil.Process().memory_info().vms))
    return max(0, min(num_bytes for num_bytes in left if num_bytes is not None))


def free_gpu_bytes() -> int:
    """Bytes that this process may still take on its GPU; those that torch holds unused count."""
    free, _ = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def _below_cgroup(folder: Path) -> int | None:
    """Bytes left below a container's limit; None without one."""
    for limit, used, statistics, droppable in _CGROUPS:
        try:
            most = (folder / limit).read_text().strip()
            if most == "max":
                return None
            lines = (line.split() for line in (folder / statistics).read_text().splitlines())
            files = {name: int(value) for name, value in lines}.get(droppable, 0)
            return int(most) - int((folder / used).read_text()) + files
        except (OSError, ValueError):
            continue
    return None


def _give_back() -> None:
    """Return freed memory to the system, which else counts as taken (glibc)."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


class PeakMemory:
    """Peak memory of this process during a block, bytes: on its GPU, else of all its pages."""

    def __init__(self) -> None:
        _give_back()
        self.before = self.peak = self._now()
        self._on_gpu = torch.cuda.is_initialized()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    @property
    def rise(self) -> int:
        """Peak above the memory taken before the block."""
        return max(0, self.peak - self.before)

    def __enter__(self) -> "PeakMemory":
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._on_gpu:
            self.peak = torch.cuda.max_memory_allocated()
        else:
            self._stop.set()
            self._thread.join()
            self.peak = max(self.peak, self._now())

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now() -> int:
        if torch.cuda.is_initialized():
            return torch.cuda.memory_allocated()
        return int(psutil.Process().memory_info().rss)
