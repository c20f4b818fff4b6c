"""Virtual time: an asyncio event loop whose clock jumps to the next timer instead of waiting.

    with virtual_loop() as loop:
        loop.run_until_complete(main())     # asyncio.sleep(3600) takes microseconds

All of asyncio runs on it unchanged: sleep, wait_for, timeout, queues, task groups. It has no
sockets and no threads, so what happens depends on the program and its seeds alone.
"""

import asyncio
from asyncio import events
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from wire.errors import DeepIntuitError

T = TypeVar("T")

_MOST_TURNS = 1_000_000
"""Turns of the loop at one moment; more are a task that asks again and again without waiting."""


class SimulationStuck(DeepIntuitError, RuntimeError):
    """A simulated program in which nothing will happen any more, though tasks wait."""


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """Event loop in virtual time, seconds from 0."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._turns = 0
        self._selector = self  # asks itself what to wait for: only timers

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def select(self, timeout: float | None) -> tuple[()]:
        """Advance the clock to the next timer. Raises SimulationStuck if there is none, or if time
        stands still."""
        if timeout is None:
            raise SimulationStuck(f"nothing happens after {self._now:g} s, {_waiting(self)}")
        self._turns = 0 if timeout else self._turns + 1
        if self._turns > _MOST_TURNS:
            raise SimulationStuck(f"time stands still at {self._now:g} s, {_waiting(self)}")
        self._now += timeout
        return ()

    def _process_events(self, event_list: Any) -> None:
        """Nothing: there are no sockets."""

    def _write_to_self(self) -> None:
        """Nothing: no other thread wakes this loop."""

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> NoReturn:
        """Refuse: a thread's time is real."""
        raise RuntimeError(f"{func} may not run in a thread of a simulation: its time is real")


def _waiting(loop: asyncio.AbstractEventLoop) -> str:
    names = sorted(task.get_coro().__qualname__ for task in asyncio.all_tasks(loop))  # type: ignore[union-attr]
    kinds = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    return f"and {len(names)} tasks wait: {kinds}"


@contextmanager
def virtual_loop() -> Iterator[VirtualTimeLoop]:
    """A loop in virtual time; tasks that are left at the end are cancelled."""
    loop = VirtualTimeLoop()
    try:
        yield loop
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()
        events.set_event_loop(None)


def run_virtually(main: Callable[[], Coroutine[Any, Any, T]]) -> tuple[T, float]:
    """Run a coroutine function in virtual time. Returns its result, and the virtual seconds that it
    took."""
    with virtual_loop() as loop:
        return loop.run_until_complete(main()), loop.time()
