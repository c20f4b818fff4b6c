"""Bounded concurrency: numbered calls, started in their order, a few at a time."""

import asyncio
from collections.abc import Awaitable, Callable


async def run_bounded(count: int, limit: int, call: Callable[[int], Awaitable[None]]) -> None:
    """Run ``call(0)`` to ``call(count - 1)``, at most ``limit`` at a time. If one fails, the others
    are cancelled, and its error is raised."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await call(number)

    tasks = [asyncio.ensure_future(work()) for _ in range(min(limit, count))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
