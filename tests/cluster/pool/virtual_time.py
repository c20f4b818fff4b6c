"""Tests on virtual time. (No test file.)"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from cluster.simulation import virtual_time

T = TypeVar("T")


def run_virtually(main: Coroutine[Any, Any, T], *, limit_s: float = 1e6) -> T:
    """Result of a coroutine on virtual time. Raises if it waits for ever, or longer than
    ``limit_s``."""

    async def limited() -> T:
        return await asyncio.wait_for(main, limit_s)

    return virtual_time.run_virtually(limited)[0]


def virtually(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """A test on virtual time."""

    def run() -> None:
        run_virtually(test(), limit_s=1e5)  # type: ignore[arg-type]

    run.__name__ = test.__name__
    return run
