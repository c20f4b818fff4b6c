"""Turns: what was begun first comes first, though much is under way at a time.

number = turns.take() -> work -> await turns.comes(number) -> what has an order -> turns.end(number)
"""

import asyncio


class Turns:
    """Turns of one event loop. Each that is taken must end, or those behind it wait for ever."""

    def __init__(self) -> None:
        self._next = self._first = 0  # the first that has not ended
        self._ended: set[int] = set()
        self._waiting: dict[int, asyncio.Future[None]] = {}

    def take(self) -> int:
        """The number of a new turn, behind all others."""
        self._next += 1
        return self._next - 1

    async def comes(self, number: int) -> None:
        """Wait until all turns before this one have ended."""
        if number > self._first:
            self._waiting[number] = asyncio.get_running_loop().create_future()
            await self._waiting[number]

    def end(self, number: int) -> None:
        """End a turn, whether it has come or not."""
        self._ended.add(number)
        while self._first in self._ended:
            self._ended.remove(self._first)
            self._first += 1
        waiting = self._waiting.pop(self._first, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
