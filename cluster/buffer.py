"""The buffer between rollout and training: groups in the order in which their places were reserved.

A place is free again only when new weights are loaded, not when its group is taken. With
``(max_staleness + 1) * groups_per_step`` places that bounds staleness exactly: handing groups over
as they finish does not (a slow group would be trained many versions late while its neighbours go
round).
"""

import asyncio
import itertools
import math
from collections import deque

from wire.types import TraceGroup


class Place:
    """A place reserved for one group: filled once, then taken by a step."""

    def __init__(self, index: int) -> None:
        self.index = index
        """Number of the place in the run, counted on over resumes; decides the sample."""
        self._group: asyncio.Future[TraceGroup] = asyncio.get_running_loop().create_future()

    def fill(self, group: TraceGroup) -> None:
        """Every reserved place must be filled, also by a failed group, or the order stalls."""
        self._group.set_result(group)

    async def group(self) -> TraceGroup:
        """Wait for the group."""
        return await asyncio.shield(self._group)

    @property
    def filled(self) -> TraceGroup | None:
        """The group; None while rollout still writes it."""
        return self._group.result() if self._group.done() else None


class GroupBuffer:
    """Buffer of at most ``capacity`` groups between reserve and release, ``num_places`` in all."""

    def __init__(self, capacity: int, first_index: int = 0, num_places: int | None = None) -> None:
        self._free = asyncio.Semaphore(0)
        self._order: asyncio.Queue[Place] = asyncio.Queue()
        self._reserved: deque[Place] = deque()
        self._indices = itertools.count(first_index)
        self.capacity = capacity
        """Groups between reserve and release, at most."""
        self._end = math.inf if num_places is None else first_index + num_places
        self._left = math.inf if num_places is None else num_places
        """Places not released yet for the first time."""
        self.next_index = first_index
        """The sampler's cursor: the place of the next group that nobody has taken."""
        self.release(capacity)

    async def reserve(self) -> Place:
        """Reserve the next place, once one is free. After the last place this waits for ever."""
        await self._free.acquire()
        place = Place(next(self._indices))
        self._order.put_nowait(place)
        self._reserved.append(place)
        return place

    def one_round_after(self, place: Place) -> int | None:
        """Index of the place one round of the buffer after ``place``; None after the last place."""
        later = place.index + self.capacity
        return later if later < self._end else None

    async def take(self, count: int) -> list[TraceGroup]:
        """Take the next ``count`` groups in the order of their places; waits for each."""
        return [await self.take_one() for _ in range(count)]

    async def take_one(self) -> TraceGroup:
        """Take the next group; waits until its place is filled."""
        group = await (await self._order.get()).group()
        self._reserved.popleft()
        self.next_index += 1
        return group

    def waiting(self) -> list[TraceGroup]:
        """Filled groups that no step has taken, in the order of their places."""
        return [group for place in self._reserved if (group := place.filled) is not None]

    async def settled(self) -> None:
        """Wait until every free place has been reserved, by a loop for each, and filled."""
        while not self._free.locked():
            await asyncio.sleep(0)
        for place in list(self._reserved):
            await place.group()

    def release(self, count: int) -> None:
        """Free places, once new weights are loaded."""
        for _ in range(count):
            if self._left > 0:
                self._left -= 1
                self._free.release()

    def replace(self) -> None:
        """Free a place for another group instead of one that was taken and is not trained.

        Called before new weights are loaded, by the step that took the group, and only for places
        which that step is sure to take itself (cluster/loop.py).
        """
        self._left += 1
        self._end += 1
        self.release(1)
