"""Memory, descriptors and shared memory of a run over time, and how much they grew. (No test file.)

Compared are medians of the second and of the last quarter: at first caches fill.
"""

import os
import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.faults.victims import below, title_of


@dataclass(frozen=True)
class Sample:
    """What a run takes at one time."""

    driver_mb: float
    driver_descriptors: float
    ray_mb: float
    """Of Ray's own processes: raylets and their store."""
    processes: float
    shm_mb: float
    shm_files: float


def sample(driver: int) -> Sample | None:
    """Take a sample; None once the driver has ended."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(driver)
        tree = below([driver])
        ray = [p for p in tree if "/raylet/raylet" in title_of(p) or "gcs_server" in title_of(p)]
        return Sample(
            driver_mb=process.memory_info().rss / 2**20,
            driver_descriptors=process.num_fds(),
            ray_mb=sum(_private_mb(p) for p in ray),
            processes=len(tree),
            shm_mb=psutil.disk_usage("/dev/shm").used / 2**20,
            shm_files=len(os.listdir("/dev/shm")),  # noqa: PTH208
        )
    return None


def _private_mb(process: psutil.Process) -> float:
    """Memory without what is shared: the object store is a part of shm_mb."""
    with suppress(psutil.Error, OSError):
        pages = Path(f"/proc/{process.pid}/statm").read_text().split()
        return (int(pages[1]) - int(pages[2])) * 4096 / 2**20
    return 0.0


def growth(samples: Sequence[Sample], name: str) -> float:
    """Median of the last quarter minus that of the second; 0 for too few samples."""
    values = [getattr(one, name) for one in samples]
    quarter = len(values) // 4
    if not quarter:
        return 0.0
    return statistics.median(values[-quarter:]) - statistics.median(values[quarter : 2 * quarter])
