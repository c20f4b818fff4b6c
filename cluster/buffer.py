"""The buffer between rollout and training: groups in the order in which their places were reserved.

A place is free again only when new weights are loaded, not when its group is taken. With
``(max_staleness + 1) * groups_per_step`` places that bounds staleness exactly: handing groups over
as they finish
does not (a slow group would be trained many versions late while its neighbours go round).
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Iterator

from wire.types import TraceGroup


class Place:
    """A reserved place: filled once, then handed over."""

    def __init__(self, index: int) -> None:
        self.index = index
        """Counts places of the run, also over resumes: which sample to ask."""
        self._group: asyncio.Future[TraceGroup] = asyncio.get_running_loop().create_future()

    def fill(self, group: TraceGroup) -> None:
        """Every reserved place must be filled, also by a failed group, or the order stalls."""
        self._group.set_result(group)

    async def group(self) -> TraceGroup:
        """The group, once it is there."""
        return await asyncio.shield(self._group)

    @property
    def filled(self) -> TraceGroup | None:
        """The group; None as long as it is being written."""
        return self._group.result() if self._group.done() else None


class GroupBuffer:
    """At most ``capacity`` groups between reserve and release; places first_index .. end - 1."""

    def __init__(self, capacity: int, first_index: int = 0, end: int | None = None) -> None:
        self._free = asyncio.Semaphore(capacity)
        self._order: asyncio.Queue[Place] = asyncio.Queue()
        self._reserved: deque[Place] = deque()
        self._ended = False
        self.next_index = first_index
        """The sampler's cursor: the place of the next group that nobody has taken."""
        self._indices: Iterator[int] = (
            itertools.count(first_index) if end is None else iter(range(first_index, end))
        )

    async def reserve(self) -> Place | None:
        """The next place, once one is free; None after the last."""
        await self._free.acquire()
        index = next(self._indices, None)
        if index is None:
            self._ended = True
            return None
        place = Place(index)
        self._order.put_nowait(place)
        self._reserved.append(place)
        return place

    async def take(self, count: int) -> list[TraceGroup]:
        """The next ``count`` groups in the order of their places; waits for each."""
        return [await self._next() for _ in range(count)]

    async def _next(self) -> TraceGroup:
        group = await (await self._order.get()).group()
        self._reserved.popleft()
        self.next_index += 1
        return group

    def waiting(self) -> list[TraceGroup]:
        """Groups that are there and have not been taken, in the order of their places."""
        return [group for place in self._reserved if (group := place.filled) is not None]

    async def settled(self) -> None:
        """Until every free place has been reserved, by a loop for each, and filled."""
        while not (self._free.locked() or self._ended):
            await asyncio.sleep(0)
        for place in list(self._reserved):
            await place.group()

    def release(self, count: int) -> None:
        """Free places: new weights are loaded."""
        for _ in range(count):
            self._free.release()
