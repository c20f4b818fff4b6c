"""Resources of a simulated run that do one thing after another, and how long they were busy."""

import asyncio


class Serial:
    """A resource that does one thing after another, such as the driver's process."""

    def __init__(self) -> None:
        self._free_at = 0.0
        self.busy_s = 0.0
        """Seconds of work so far."""

    async def use(self, seconds: float) -> None:
        """Wait for the turn, and for the work itself."""
        if seconds <= 0:
            return
        now = asyncio.get_running_loop().time()
        self._free_at = max(now, self._free_at) + seconds
        self.busy_s += seconds
        await asyncio.sleep(self._free_at - now)
