"""Interrupts of a run: Ctrl-C, SIGTERM and a closed terminal end it, the first in order, the second
at once.

    first signal  -> the main task is cancelled -> engines and Ray go down -> KeyboardInterrupt
    second signal -> every process below this one is killed, and this one ends with status 130

Either way the run can be resumed: a result is on disk before it counts.
"""

import asyncio
import os
import signal
import stat
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

STATUS = 130


def listen() -> None:
    """Let SIGTERM and SIGHUP do what Ctrl-C does. An ignored signal (nohup) stays ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _as_ctrl_c)


def run_interruptibly(
    work: Coroutine[Any, Any, T], say: Callable[[str], None], last: Callable[[], None]
) -> T:
    """``asyncio.run`` whose first interrupt waits for the work to clean up, and whose second one
    calls ``last`` and does not. Raises KeyboardInterrupt after the first."""

    async def guarded() -> T:
        with _second_is_final(say, last):
            return await work

    run = guarded()
    try:
        return asyncio.run(run)
    finally:  # interrupted before it began, Python would warn of it
        run.close()
        work.close()


@contextmanager
def _second_is_final(say: Callable[[str], None], last: Callable[[], None]) -> Iterator[None]:
    """Signal handler over asyncio's own, which cancels the main task: the second signal ends at
    once."""
    first = signal.getsignal(signal.SIGINT)
    if not callable(first):  # ignored: a background job of a shell
        yield
        return
    count = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 1:
            with suppress(Exception):
                last()
            end_at_once()
        say("stopping in order, up to a minute (again: at once) ...")
        first(number, frame)

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, first)


def end_at_once() -> None:
    """Kill every process below this one, and end."""
    import psutil

    below = psutil.Process().children(recursive=True)
    for process in below:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(below, timeout=5)
    os._exit(STATUS)


def _as_ctrl_c(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGHUP:
        _let_go_of_terminal()
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):
        raise KeyboardInterrupt
    handler(signal.SIGINT, frame)


def _let_go_of_terminal() -> None:
    """Send output to /dev/null: on a terminal that is gone it would raise during the clean-up."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):  # isatty() of a gone one is false
                os.dup2(nothing, stream.fileno())
    os.close(nothing)
