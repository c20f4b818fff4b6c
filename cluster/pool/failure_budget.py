"""Failure budget of the fleet: requests that it failed for good, one after another.

The data's budget is another one (a lifetime, per sample): a bad clip is no bad fleet.
"""

from wire.errors import TooManyFailures


class FleetFailures:
    """Consecutive requests that the fleet failed for good; each that it answers resets them."""

    def __init__(self, limit: int) -> None:
        """``limit``: how many in a row are allowed."""
        self._limit = limit
        self.in_a_row = 0
        self.total = 0

    def answered(self) -> None:
        """Note a request that was answered."""
        self.in_a_row = 0

    def failed(self, what: str, why: str) -> None:
        """Note a request that was failed for good. Raises TooManyFailures."""
        self.in_a_row += 1
        self.total += 1
        if self.in_a_row > self._limit:
            raise TooManyFailures(
                f"the rollout workers failed {self.in_a_row} groups in a row, at most "
                f"{self._limit} are allowed (rollout_failure.max_consecutive_dropped); the last, "
                f"{what}: {why}; "
                "events.jsonl has what became of the workers; --resume goes on without loss"
            )
