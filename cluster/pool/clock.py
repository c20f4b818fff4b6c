"""Clock of the pool's rules: injected, so that tests and the simulation run without waiting."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time, and waits."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class LoopClock:
    """Clock of the running event loop: real time, or virtual where the loop's time is. Deadlines of
    ``asyncio.timeout`` keep the same time."""

    def monotonic(self) -> float:
        """Seconds of the event loop's clock."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Wait on the event loop."""
        await asyncio.sleep(seconds)


def unix_time_of(moment: float, now: float) -> float:
    """Unix time of a monotonic moment, at the monotonic moment ``now``."""
    return time.time() - (now - moment)
