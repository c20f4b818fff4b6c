import asyncio
import os
import signal
import time
from typing import Any

import pytest

from cluster.actors.stack_dumps import driver_stacks, stacks_of_run
from wire.stack_dump import offer_stacks


async def inner() -> None:
    await asyncio.sleep(60)


async def outer() -> None:
    await inner()


async def test_the_drivers_tasks_say_what_they_wait_for_innermost_last():
    task = asyncio.create_task(outer(), name="train")
    await asyncio.sleep(0)
    text = driver_stacks()
    task.cancel()
    part = text[text.index("-- task train") :]
    assert 0 < part.index("in outer") < part.index("in inner") < part.index("in sleep")
    assert "in test_the_drivers_tasks" in text


class Hanging:
    """An actor that hangs in a call, beside a process of its own."""

    def __init__(self) -> None:
        offer_stacks()

    def pid(self) -> int:
        return os.getpid()

    def never_ends(self) -> None:
        time.sleep(600)


@pytest.mark.ray
async def test_stacks_of_actors_that_hang_and_that_are_stopped(ray_session: None):
    import ray

    remote: Any = ray.remote(num_cpus=0)(Hanging)
    hanging, stopped = remote.remote(), remote.remote()
    pid = await stopped.pid.remote()
    await hanging.pid.remote()
    call = hanging.never_ends.remote()
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(0.5)  # so that the call has begun
    text = await stacks_of_run()
    for actor in (hanging, stopped):
        ray.kill(actor)
    del call
    assert text.startswith("== driver, process ")
    assert "in never_ends" in text
    assert f"process {pid} ==\nState T (stopped)" in text
