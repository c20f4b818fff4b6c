"""Calls to Ray actors with a deadline; the error names the actor and the call."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from wire.daemon_thread import run_in_daemon_thread
from wire.errors import DeadlineExceeded, WorkerDied

T = TypeVar("T")

DISK_S = 900.0
"""Longest wait for one write to the run's disk, of many that may stand in line."""
_GRACE_S = 10.0
DIED = (RayActorError, OutOfMemoryError)
"""Ray's errors of a call whose actor is gone; the second where Ray ended it for want of memory."""

_OPEN: dict[int, tuple[str, float]] = {}
_NUMBERS = itertools.count()


def open_waits() -> list[tuple[str, float]]:
    """What this process waits for now with a deadline, and for how many seconds; longest first."""
    now = time.monotonic()
    waits = [(what, now - since) for what, since in _OPEN.values()]
    return sorted(waits, key=lambda wait: -wait[1])


async def with_deadline(call: Awaitable[T], timeout_s: float, what: str) -> T:
    """Await a call's result. Raises DeadlineExceeded, WorkerDied; ``what`` names actor and call."""
    number = next(_NUMBERS)
    _OPEN[number] = what, time.monotonic()
    answer = asyncio.ensure_future(_awaited(call))
    try:
        await asyncio.wait((answer,), timeout=timeout_s)
        if not answer.done():
            raise DeadlineExceeded(f"waited {timeout_s:.0f} s for {what}")
        return answer.result()
    except RayTaskError:  # what the actor itself raised, be it of an actor that it waited for
        raise
    except OutOfMemoryError as error:
        raise WorkerDied(
            f"waited for {what}: Ray ended its process, the memory of its node being nearly full "
            f"({_first_sentence(error)}); end other programs there, or lower "
            "learner.max_tokens_per_batch or rollout.max_num_seqs; --resume goes on"
        ) from error
    except RayActorError as error:
        raise WorkerDied(f"waited for {what}: its process died; --resume goes on") from error
    finally:
        answer.cancel()
        del _OPEN[number]


async def _awaited(call: Awaitable[T]) -> T:
    return await call


async def on_disk(what: str, work: Callable[..., T], *values: Any) -> T:
    """Do work on the run's disk in a thread. Raises DeadlineExceeded where a disk hangs (NFS);
    ``what``: what it is to do. The thread cannot be ended, and may end later."""
    return await with_deadline(run_in_daemon_thread(work, *values), DISK_S, f"the disk to {what}")


def _first_sentence(error: Exception) -> str:
    return str(error).split("; ")[0].splitlines()[0][:300]


async def gather_or_raise(waits: Sequence[Awaitable[T]], grace_s: float = _GRACE_S) -> list[T]:
    """Gather the results of all calls, or raise one error. When a call fails, the others get
    ``grace_s`` to fail too, and WorkerDied is raised before any other error: a rank whose peer died
    reports a lost connection, often earlier."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        _, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        if left:
            await asyncio.wait(left, timeout=grace_s)
        errors = [error for task in tasks if task.done() and (error := task.exception())]
        if errors:
            raise min(errors, key=lambda error: not isinstance(error, WorkerDied))
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()


async def ignore_dead(call: Awaitable[Any], timeout_s: float = 30.0) -> None:
    """Await a call that ends an actor; ignore that the actor is dead already, or slow."""
    try:
        await asyncio.wait_for(call, timeout_s)
    except (*DIED, TimeoutError):
        return
