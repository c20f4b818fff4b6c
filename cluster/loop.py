"""The main flow of GRPO.

    samples -> rollout -> reward -> archive -> buffer -> learner -> weights -> rollout
                                       |
                                       +-> calibrate (reads the archive)

    loop            waits for                     woken by
    rollout_loop    a free place in the buffer    train_loop, once new weights are loaded
    train_loop      the next groups, in order     rollout_loop, filling their places

With dynamic sampling a group without signal gives its place to another before the step is trained.

Nothing here knows Ray, vLLM or DeepSpeed: the collaborators are small objects with verbs, fakes in
the unit tests.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.buffer import GroupBuffer
from wire.types import Sample, TraceGroup


class Writer(Protocol):
    """Rollout and reward behind one verb: a sample in, an archived group out. ``upcoming``: the
    sample that is asked about once the buffer has gone round, to get its clip ready."""

    async def write(
        self, sample: Sample, index: int, upcoming: Sample | None = None
    ) -> TraceGroup: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The groups of one step, in the order of their places.

    Example:
        Taken(trained=[a, c], replaced=[b])
    """

    trained: Sequence[TraceGroup]
    replaced: Sequence[TraceGroup] = ()
    """Without signal; others were written in their stead, up to the bound."""

    @property
    def every(self) -> Sequence[TraceGroup]:
        """All of them."""
        return [*self.trained, *self.replaced]


class Learner(Protocol):
    """One training step on groups, its weights published to every engine in service."""

    async def train(self, taken: Taken, step: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Dynamic sampling: which groups a step trains, and how long it looks for them."""

    has_signal: Callable[[TraceGroup], bool]
    max_groups: int
    """A step that has taken so many trains those with signal, however few; at least its size."""


async def rollout_loop(
    sample_at: Callable[[int], Sample], writer: Writer, buffer: GroupBuffer
) -> None:
    """Answer one sample after another. A run starts as many of these as it wants groups in
    flight."""
    while True:
        place = await buffer.reserve()
        later = buffer.one_round_after(place)
        upcoming = None if later is None else sample_at(later)
        place.fill(await writer.write(sample_at(place.index), place.index, upcoming))


async def train_loop(
    buffer: GroupBuffer,
    learner: Learner,
    steps: range,
    groups_per_step: int,
    filtering: Filter | None = None,
) -> None:
    """One step after another; a place is free again once the step's weights are loaded."""
    for step in steps:
        await learner.train(await _take(buffer, groups_per_step, filtering), step)
        buffer.release(groups_per_step)


async def _take(buffer: GroupBuffer, count: int, filtering: Filter | None) -> Taken:
    """A step's groups. With a filter: until ``count`` of them have signal, or the bound.

    Staleness stays bounded as without a filter. After d groups without signal the step is sure to
    take min(count + d, max_groups) places, so of those d as many are free at once as are sure to be
    taken by this very step; ``count`` places stay held until its weights are loaded. A place that
    were freed beyond the bound could be trained a step too late.
    """
    if filtering is None:
        return Taken(trained=await buffer.take(count))
    trained: list[TraceGroup] = []
    replaced: list[TraceGroup] = []
    while len(trained) < count and len(trained) + len(replaced) < filtering.max_groups:
        group = await buffer.take_one()
        if filtering.has_signal(group):
            trained.append(group)
        else:
            replaced.append(group)
            if count + len(replaced) <= filtering.max_groups:
                buffer.replace()
    return Taken(trained=trained, replaced=replaced)


async def run_until_trained(train: Awaitable[None], rollouts: Sequence[Awaitable[None]]) -> None:
    """Until training ends. A loop that fails cancels the others, and its error surfaces."""
    async with asyncio.TaskGroup() as group:
        background = [group.create_task(_run(loop)) for loop in rollouts]
        await group.create_task(_run(train))
        for task in background:
            task.cancel()


async def _run(work: Awaitable[None]) -> None:
    await work
