"""Memory of the clips that are answered at a time: while they take too much, the next one waits.

async with memory.place() as place -> decode -> place.take(bytes) -> answer -> given back
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Place:
    """Place of one clip in memory."""

    def __init__(self) -> None:
        self.num_bytes = 0

    def take(self, num_bytes: int) -> None:
        """Note what the clip takes, once that is known."""
        self.num_bytes += num_bytes


class ClipMemory:
    """Places in the order in which they are asked for. The limit is overstepped by the clips that
    are being decoded: what one takes is known only then."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._taken: set[Place] = set()
        self._entrance = asyncio.Lock()  # first come, first in: others may wait for the first one
        self._left = asyncio.Event()

    @property
    def num_bytes(self) -> int:
        """Bytes of the clips in memory."""
        return sum(place.num_bytes for place in self._taken)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Place]:
        """A place for the block, as soon as there is room."""
        async with self._entrance:
            while self.num_bytes >= self._limit:
                self._left.clear()
                await self._left.wait()
            place = Place()
            self._taken.add(place)
        try:
            yield place
        finally:
            self._taken.remove(place)
            self._left.set()
