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
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.buffer import GroupBuffer
from wire.types import Sample, TraceGroup


class Writer(Protocol):
    """Writes groups, by rollout and reward: a sample in, an archived group out. ``upcoming``: the
    sample of the place that comes one round of the buffer later; its clip is prepared."""

    async def write(
        self, sample: Sample, index: int, upcoming: Sample | None = None
    ) -> TraceGroup: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGroups:
    """The groups of one step, in the order of their places.

    Example:
        StepGroups(trained=[a, c], replaced=[b])
    """

    trained: Sequence[TraceGroup]
    replaced: Sequence[TraceGroup] = ()
    """Groups without signal, left out of the step; others were requested instead, up to
    max_groups."""

    @property
    def all(self) -> Sequence[TraceGroup]:
        """All groups that the step took, trained or not."""
        return [*self.trained, *self.replaced]


class Learner(Protocol):
    """Trains one step on groups, and publishes its weights to every engine in service."""

    async def train(self, taken: StepGroups, step: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicSampling:
    """Dynamic sampling (DAPO): which groups have signal, and how many a step may take to find
    them."""

    has_signal: Callable[[TraceGroup], bool]
    max_groups: int
    """Most groups a step takes. When it is reached, the step trains on the groups with signal it
    has. At least groups_per_step."""


async def rollout_loop(
    sample_at: Callable[[int], Sample], writer: Writer, buffer: GroupBuffer
) -> None:
    """Write the group of one place after another. A run starts one loop per group in flight."""
    while True:
        place = await buffer.reserve()
        later = buffer.one_round_after(place)
        upcoming = None if later is None else sample_at(later)
        place.fill(await writer.write(sample_at(place.index), place.index, upcoming))


async def train_loop(
    buffer: GroupBuffer,
    learner: Learner,
    steps: Iterable[int],
    groups_per_step: int,
    filtering: DynamicSampling | None = None,
) -> None:
    """Train one step after another; its places are free again once the step's weights are
    loaded."""
    for step in steps:
        await learner.train(await _take(buffer, groups_per_step, filtering), step)
        buffer.release(groups_per_step)


async def _take(buffer: GroupBuffer, count: int, filtering: DynamicSampling | None) -> StepGroups:
    """Take a step's groups. With dynamic sampling: until ``count`` have signal, or the bound.

    Staleness stays bounded as without dynamic sampling. After d groups without signal the step is
    sure to take min(count + d, max_groups) places, so of those d the ones that this very step is
    sure to take are free at once; ``count`` places stay held until its weights are loaded. A place
    that is freed beyond the bound could be trained a step too late.
    """
    if filtering is None:
        return StepGroups(trained=await buffer.take(count))
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
    return StepGroups(trained=trained, replaced=replaced)


async def run_until_trained(train: Awaitable[None], rollouts: Sequence[Awaitable[None]]) -> None:
    """Run the loops until training ends. A loop that fails cancels the others; its error is
    raised."""
    async with asyncio.TaskGroup() as group:
        background = [group.create_task(_run(loop)) for loop in rollouts]
        await group.create_task(_run(train))
        for task in background:
            task.cancel()


async def _run(work: Awaitable[None]) -> None:
    await work
