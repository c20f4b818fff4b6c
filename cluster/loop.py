"""The main flow of GRPO.

    samples -> rollout -> reward -> archive -> buffer -> learner -> weights -> rollout
                                       |
                                       +-> calibrate (reads the archive)

    loop            waits for                     woken by
    rollout_loop    a free place in the buffer    train_loop, once new weights are loaded
    train_loop      the next groups, in order     rollout_loop, filling their places

Nothing here knows Ray, vLLM or DeepSpeed: the collaborators are small objects with verbs, fakes in
the unit tests.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from cluster.buffer import GroupBuffer
from wire.types import Sample, TraceGroup


class Writer(Protocol):
    """Rollout and reward behind one verb: a sample in, an archived group out."""

    async def write(self, sample: Sample, index: int) -> TraceGroup: ...


class Learner(Protocol):
    """One training step on groups, its weights published to every engine in service."""

    async def train(self, groups: Sequence[TraceGroup], step: int) -> None: ...


async def rollout_loop(
    sample_at: Callable[[int], Sample], writer: Writer, buffer: GroupBuffer
) -> None:
    """Answer one sample after another. A run starts as many of these as it wants groups in
    flight."""
    while (place := await buffer.reserve()) is not None:
        place.fill(await writer.write(sample_at(place.index), place.index))


async def train_loop(
    buffer: GroupBuffer, learner: Learner, steps: range, groups_per_step: int
) -> None:
    """One step after another; a place is free again once the step's weights are loaded."""
    for step in steps:
        groups = await buffer.take(groups_per_step)
        await learner.train(groups, step)
        buffer.release(len(groups))


async def run_until_trained(train: Awaitable[None], rollouts: Sequence[Awaitable[None]]) -> None:
    """Until training ends. A loop that fails cancels the others, and its error surfaces."""
    async with asyncio.TaskGroup() as group:
        background = [group.create_task(_run(loop)) for loop in rollouts]
        await group.create_task(_run(train))
        for task in background:
            task.cancel()


async def _run(work: Awaitable[None]) -> None:
    await work
