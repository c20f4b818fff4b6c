"""Rates of requests: one bucket a token."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from calibrate.service.config import RateLimit
from calibrate.service.problems import Problem

_MAX_BUCKETS = 10_000
"""Tokens that are remembered: one that was idle for longest is full again anyway."""


class Rates:
    """Token buckets by caller."""

    def __init__(self, limit: RateLimit, now: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._now = limit, now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, token_id: str) -> None:
        """Count a request. Raises Problem 429, with the seconds until the next one is let in."""
        now = self._now()
        level, then = self._buckets.pop(token_id, (float(self._limit.burst), now))
        level = min(self._limit.burst, level + (now - then) * self._limit.per_second)
        admitted = level >= 1
        self._buckets[token_id] = (level - 1 if admitted else level, now)
        while len(self._buckets) > _MAX_BUCKETS:
            self._buckets.popitem(last=False)
        if not admitted:
            wait = (1 - level) / self._limit.per_second
            raise Problem(
                429,
                "rate-limited",
                f"this token may send {self._limit.per_second:g} requests per second, "
                f"{self._limit.burst} at once; wait",
                headers={"Retry-After": str(math.ceil(wait))},
            )
