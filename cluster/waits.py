"""Waits for Ray actors: each ends within a deadline, by an error that names whom it waited for."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from ray.exceptions import RayActorError

from wire.errors import DeadlineExceeded, WorkerDied

T = TypeVar("T")

_GRACE_S = 10.0


async def within(call: Awaitable[T], timeout_s: float, what: str) -> T:
    """The call's result. Raises DeadlineExceeded, WorkerDied; ``what`` follows "waited for"."""
    try:
        return await asyncio.wait_for(call, timeout_s)
    except TimeoutError as error:
        raise DeadlineExceeded(f"waited {timeout_s:.0f} s for {what}") from error
    except RayActorError as error:
        raise WorkerDied(f"waited for {what}: its process died; --resume goes on") from error


async def together(waits: Sequence[Awaitable[T]], grace_s: float = _GRACE_S) -> list[T]:
    """The results of all. Where one fails the others get ``grace_s`` to fail too, and a death is
    told before anything else: a rank whose peer died speaks of a lost connection, often earlier."""
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


async def lives(call: Awaitable[bool]) -> bool:
    """Whether an actor says that it lives. One that is merely slow may."""
    try:
        return await asyncio.wait_for(call, _GRACE_S)
    except TimeoutError:
        return True
    except RayActorError:
        return False


async def quietly(call: Awaitable[Any]) -> None:
    """An actor that is asked to end may be gone already."""
    try:
        await asyncio.wait_for(call, 30)
    except (RayActorError, TimeoutError):
        return
