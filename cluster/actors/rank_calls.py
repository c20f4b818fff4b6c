"""Calls to all learner ranks at once: the same to each, or rows dealt out, in blocks of bounded
size.

    rows -> blocks of some micro-batches -> a part for each rank -> values, in the order of the rows
"""

import itertools
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from cluster.actors.deadlines import gather_or_raise, with_deadline
from cluster.metrics.timeline import NoTimeline, Timeline, span
from learner.shared_prefix.batch import micro_batches
from learner.shared_prefix.near_clips import Near, numbers_near_clips
from learner.shared_prefix.rows import Row

MICRO_BATCHES_PER_CALL = 32
"""Of each rank; for as many the frozen tower looks at clips at once (learner/micro_batches.py)."""


class RankCalls:
    """Calls to the actors of all ranks, which get every call in the same order."""

    def __init__(
        self,
        actors: Sequence[Any],
        timeout_s: float,
        max_tokens_per_batch: int,
        near: Near | None = None,
        timeline: Timeline | None = None,
    ) -> None:
        """``timeout_s``: deadline of one call; ``max_tokens_per_batch``: size of a micro-batch;
        ``near``: ranks that a row's clip is ready for; none: all are alike. ``timeline``: takes a
        span of each call."""
        self._timeline = timeline or NoTimeline()
        self._near = near
        self._actors, self._timeout_s = actors, timeout_s
        self._block_tokens = max_tokens_per_batch * MICRO_BATCHES_PER_CALL * len(actors)

    def __len__(self) -> int:
        return len(self._actors)

    async def all(self, verb: str, *values: Any) -> list[Any]:
        """Call a method of all ranks with the same values."""
        return await self._gather(verb, [getattr(a, verb).remote(*values) for a in self._actors])

    async def each(self, verb: str, hands: Sequence[Any], *rest: Any) -> list[Any]:
        """Call a method of all ranks, each with its own first value."""
        calls = [
            getattr(actor, verb).remote(hand, *rest)
            for actor, hand in zip(self._actors, hands, strict=True)
        ]
        return await self._gather(verb, calls)

    async def first(self, verb: str) -> Any:
        """Call a method of rank 0."""
        return (await self._gather(verb, [getattr(self._actors[0], verb).remote()]))[0]

    async def in_blocks(
        self, verb: str, rows: Iterable[Row], *rest: Any
    ) -> AsyncIterator[list[Any]]:
        """Call a method with rows, one block after another: each call has the deadline for itself,
        and rows are taken from an iterator as they are needed. Yields the values of a block,
        one for each row, in their order. ``rest``: further values of every call."""
        for block in micro_batches(rows, self._block_tokens):
            edges = [len(block) * rank // len(self) for rank in range(len(self) + 1)]
            numbers = self._place([block[a:b] for a, b in itertools.pairwise(edges)])
            hands = [[block[number] for number in part] for part in numbers]
            # a rank without rows computes one whose value is thrown away, as all take part
            values = await self.each(verb, [hand or block[:1] for hand in hands], *rest)
            paired = (
                zip(part, own, strict=False) for part, own in zip(numbers, values, strict=True)
            )
            by_number = dict(itertools.chain.from_iterable(paired))
            yield [by_number[number] for number in range(len(block))]

    def _place(self, parts: Sequence[Sequence[Row]]) -> list[list[int]]:
        """Numbers of the rows of each rank: as they follow each other, or near their clips."""
        if self._near is not None:
            return numbers_near_clips(parts, self._near)
        numbers = itertools.count()
        return [list(itertools.islice(numbers, len(part))) for part in parts]

    async def _gather(self, verb: str, calls: list[Any]) -> list[Any]:
        return await gather_or_raise(
            [self._timed(verb, rank, call) for rank, call in enumerate(calls)]
        )

    async def _timed(self, verb: str, rank: int, call: Any) -> Any:
        with span(self._timeline, f"rank-{rank}", verb):
            return await with_deadline(call, self._timeout_s, f"learner rank {rank} to {verb}")
