"""Index of the serving workers by their load: finds the least busy one without a look at all."""

import heapq
from collections.abc import Mapping


class LoadIndex:
    """Loads of the serving workers. Ties go to the first name.

    Example:
        index = LoadIndex()
        index.put("rollout-0", 2)
        index.put("rollout-1", 1)
        assert index.least == "rollout-1"
    """

    def __init__(self) -> None:
        self._loads: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []
        """An entry for each load that a worker came to; all but its last are out of date."""

    @property
    def loads(self) -> Mapping[str, int]:
        """Requests that each serving worker has in work."""
        return self._loads

    def put(self, name: str, load: int) -> None:
        """Note that a worker serves, with so many requests in work."""
        self._loads[name] = load
        heapq.heappush(self._heap, (load, name))
        if len(self._heap) > 4 * len(self._loads) + 64:
            self._heap = [(load, name) for name, load in self._loads.items()]
            heapq.heapify(self._heap)

    def remove(self, name: str) -> None:
        """Note that a worker does not serve."""
        self._loads.pop(name, None)

    @property
    def least(self) -> str | None:
        """The least busy worker; None if none serves."""
        while self._heap and self._loads.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][1] if self._heap else None
