"""Failure budget of the fleet: requests that it failed for good, one after another.

The data's budget is another one (a lifetime, per sample): a bad clip is no bad fleet.
"""

from wire.errors import TooManyFailures


class FleetFailures:
    """Counts consecutive requests that the fleet failed for good; one that is answered resets
    them."""

    def __init__(self, limit: int) -> None:
        """``limit``: how many in a row are allowed; 0: as many as a step's own limit allows
        (cluster/stages/failure_limits.py)."""
        self._limit = limit
        self.in_a_row = self.total = 0

    def answered(self) -> None:
        """Note a request that was answered."""
        self.in_a_row = 0

    def failed(self, what: str, why: str) -> None:
        """Note a request that was failed for good. Raises TooManyFailures."""
        self.in_a_row += 1
        self.total += 1
        if self.in_a_row > self._limit > 0:
            raise TooManyFailures(
                f"the rollout workers failed {self.in_a_row} requests in a row, "
                f"rollout_failure.max_consecutive_dropped={self._limit}; the last, {what}: {why}; "
                "events.jsonl says what became of the workers; --resume goes on without loss"
            )
