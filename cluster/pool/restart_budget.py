"""Restart budget: how often a worker, and all of them, may be restarted in an hour."""

from collections import deque

from cluster.config.fleet import FleetHealthConfig
from cluster.pool.backoff import Backoff

_HOUR_S = 3600.0


class RestartBudget:
    """Budget of restarts: of each worker, after which it is retired, and of all, after which they
    wait. Backoff grows with a worker's restarts of the last hour; the first has none."""

    def __init__(self, limits: FleetHealthConfig) -> None:
        self._limits = limits
        self._backoff = Backoff(base_s=limits.backoff_base_s, max_s=limits.max_backoff_s)
        self._of_worker: dict[str, deque[float]] = {}
        self._of_all: deque[float] = deque()

    def is_spent(self, name: str, now: float) -> bool:
        """Whether a worker may not be restarted any more."""
        return self._used(name, now) >= self._limits.max_restart_attempts

    def due(self, name: str, died: float, now: float) -> bool:
        """Whether a worker that died at ``died`` may be restarted now. Not if it is spent."""
        if self.is_spent(name, now):
            return False
        wait_s = self._backoff.wait_s(self._used(name, now))
        _forget(self._of_all, now)
        return now >= died + wait_s and len(self._of_all) < self._limits.max_restarts_per_hour

    def charge(self, name: str, now: float) -> None:
        """Note a restart."""
        self._of_worker.setdefault(name, deque()).append(now)
        self._of_all.append(now)

    def give_back(self, name: str) -> None:
        """Forget a worker's last restart: there was no room for it, which is no fault of its
        own."""
        last = self._of_worker[name].pop()
        self._of_all.remove(last)

    def forget(self, name: str) -> None:
        """Forget a worker that has left; its restarts still count for all."""
        self._of_worker.pop(name, None)

    def _used(self, name: str, now: float) -> int:
        restarts = self._of_worker.get(name, deque())
        _forget(restarts, now)
        return len(restarts)


def _forget(restarts: deque[float], now: float) -> None:
    while restarts and restarts[0] <= now - _HOUR_S:
        restarts.popleft()
