"""Restarts of a classifier's processes: soon at first, then later and later, then a pause.

process died -> pause_s() -> start again; too many in a while -> cool down, and begin anew
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """Policy of restarts.

    Example:
        RestartPolicy(most=5, within_s=600.0, cool_down_s=60.0)
    """

    most: int = 5
    """Starts within ``within_s``; one more waits for ``cool_down_s``."""
    within_s: float = 600.0
    cool_down_s: float = 60.0
    """Meanwhile requests are refused (503) at once."""
    longest_pause_s: float = 30.0
    first_pause_s: float = 1.0
    """Before the second start; it doubles. The first is at once."""


@dataclass(slots=True)
class Restarts:
    """Restarts of one classifier, counted."""

    policy: RestartPolicy
    clock: Callable[[], float] = time.monotonic
    _recent: deque[float] = field(default_factory=deque)

    def pause_s(self) -> float | None:
        """Seconds to wait before the next start, which counts from now; None: too many, cool
        down."""
        now = self.clock()
        while self._recent and now - self._recent[0] > self.policy.within_s:
            self._recent.popleft()
        num = len(self._recent)
        if num >= self.policy.most:
            self._recent.clear()
            return None
        self._recent.append(now)
        if not num:
            return 0.0
        return min(self.policy.longest_pause_s, self.policy.first_pause_s * 2.0 ** (num - 1))
