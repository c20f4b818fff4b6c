"""Group commit: rows of many requests in one transaction, each on disk before it is answered.

    requests -> waiting rows -> one write at a time, of all that wait -> each request goes on

A write costs one fsync whatever it holds; while one runs, the next gathers.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class GroupCommit(Generic[T]):
    """Writer of rows for one event loop."""

    def __init__(self, write: Callable[[list[T]], Awaitable[None]]) -> None:
        """``write``: all rows or, if it raises, none."""
        self._write = write
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self.num_writes = 0

    async def put(self, row: T) -> None:
        """Return when the row is on disk; raise what its write raised. A caller that is cancelled
        leaves its row, which is written all the same."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((row, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        await future

    async def close(self) -> None:
        """Wait until all rows that were put are written."""
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        try:
            while self._waiting:
                some, self._waiting = self._waiting, []
                await self._write_some(some)
        finally:
            self._task = None

    async def _write_some(self, some: list[tuple[T, asyncio.Future[None]]]) -> None:
        self.num_writes += 1
        try:
            await self._write([row for row, _ in some])
        except Exception as error:  # noqa: BLE001  each request is told its own
            if len(some) == 1:
                _end(some[0][1], error)
                return
            for one in some:  # one row must not fail the others'
                await self._write_some([one])
            return
        for _, future in some:
            _end(future)


def _end(future: asyncio.Future[None], error: Exception | None = None) -> None:
    if future.done():  # its request was cancelled
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
