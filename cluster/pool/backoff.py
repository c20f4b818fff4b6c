"""Backoff: a wait that doubles with each failure in a row."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits before tries.

    Example:
        Backoff(base_s=1.0, max_s=30.0).wait_s(3) == 4.0
    """

    base_s: float
    max_s: float

    def wait_s(self, failures: int) -> float:
        """Seconds to wait after ``failures`` in a row; none after no failure."""
        if failures == 0:
            return 0.0
        # 2.0**1024 is more than a float holds
        return min(self.max_s, self.base_s * 2.0 ** min(failures - 1, 64))
