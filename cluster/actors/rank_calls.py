"""Calls to all learner ranks at once: the same to each, or rows dealt out, in blocks of bounded
size.

    rows -> blocks of some micro-batches -> a part for each rank -> values, in the order of the rows
"""

import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any

from ray.exceptions import ObjectLostError, RayTaskError

from cluster.actors.deadlines import gather_or_raise, with_deadline
from cluster.metrics.timeline import NoTimeline, Timeline, span
from learner.shared_prefix.batch import micro_batches
from learner.shared_prefix.near_clips import Near, numbers_near_clips
from learner.shared_prefix.rows import Row
from wire.errors import DeadlineExceeded, PeersLost, RankDied, RankHung, WorkerDied

MICRO_BATCHES_PER_CALL = 32
"""Of each rank; for as many the frozen tower looks at clips at once (learner/micro_batches.py)."""

Around = Callable[[Callable[[], Awaitable[list[Any]]]], Awaitable[list[Any]]]
"""Does a call, and does it again where that may help (cluster/actors/learner_healing.py)."""

_OUT_OF_MEMORY = "OutOfMemoryError"  # torch's, and Ray's
_LOST_PEERS = re.compile(r"DistBackendError|DistNetworkError|DistStoreError|gloo|NCCL")


async def _once(call: Callable[[], Awaitable[list[Any]]]) -> list[Any]:
    return await call()


class RankCalls:
    """Calls to the actors of all ranks, which get every call in the same order."""

    def __init__(
        self,
        actors: Sequence[Any],
        timeout_s: float,
        max_tokens_per_batch: int,
        near: Near | None = None,
        timeline: Timeline | None = None,
        around: Around = _once,
    ) -> None:
        """``timeout_s``: deadline of one call; ``max_tokens_per_batch``: size of a micro-batch;
        ``near``: ranks that a row's clip is ready for; none: all are alike. ``timeline``: takes a
        span of each call; ``around``: does each call."""
        self._timeline = timeline or NoTimeline()
        self._near, self._around = near, around
        self._actors, self._timeout_s = actors, timeout_s
        self._block_tokens = max_tokens_per_batch * MICRO_BATCHES_PER_CALL * len(actors)

    def __len__(self) -> int:
        return len(self._actors)

    def renew(self, actors: Sequence[Any]) -> None:
        """Call other actors from now on, as many."""
        assert len(actors) == len(self._actors), "rows are dealt to as many ranks as before"
        self._actors = actors

    async def all(self, verb: str, *values: Any, timeout_s: float | None = None) -> list[Any]:
        """Call a method of all ranks with the same values. ``timeout_s``: another deadline."""
        return await self._calls(verb, [values for _ in self._actors], timeout_s)

    async def each(self, verb: str, hands: Sequence[Any], *rest: Any) -> list[Any]:
        """Call a method of all ranks, each with its own first value."""
        assert len(hands) == len(self._actors), "a hand for each rank"
        return await self._calls(verb, [(hand, *rest) for hand in hands])

    async def first(self, verb: str, timeout_s: float | None = None) -> Any:
        """Call a method of rank 0. ``timeout_s``: another deadline."""
        return (await self._calls(verb, [()], timeout_s))[0]

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

    async def _calls(
        self, verb: str, hands: Sequence[Sequence[Any]], timeout_s: float | None = None
    ) -> list[Any]:
        """Call the first ranks, each with its values. Raises RankDied, RankHung, PeersLost."""
        timeout_s = timeout_s or self._timeout_s

        async def gather() -> list[Any]:
            pairs = zip(self._actors, hands, strict=False)  # the ranks of now
            calls = [getattr(actor, verb).remote(*hand) for actor, hand in pairs]
            asked = [self._timed(verb, rank, call, timeout_s) for rank, call in enumerate(calls)]
            return await gather_or_raise(asked)

        return await self._around(gather)

    async def _timed(self, verb: str, rank: int, call: Any, timeout_s: float) -> Any:
        with span(self._timeline, f"rank-{rank}", verb):
            return await _answer(call, timeout_s, rank, f"learner rank {rank} to {verb}")


async def _answer(call: Awaitable[Any], timeout_s: float, rank: int, what: str) -> Any:
    """A rank's answer. Raises RankDied, RankHung, PeersLost; what is wrong with the call itself is
    raised as the rank raised it."""
    try:
        return await with_deadline(call, timeout_s, what)
    except RayTaskError as error:
        if (cause := _loss(error)) is None:
            raise
        first = (str(error.cause).strip().splitlines() or [""])[0]
        text = f"waited for {what}: {type(error.cause).__name__}: {first[:300]}"
        raised = PeersLost(text) if cause == PeersLost.cause else RankDied(text)
        raised.rank, raised.cause = rank, cause
        raise raised from error
    except WorkerDied as error:
        died = RankDied(str(error).removesuffix("; --resume goes on"))
        died.rank = rank
        died.cause = "out_of_memory" if "memory of its node" in str(error) else "died"
        raise died from error
    except ObjectLostError as error:
        lost = RankDied(f"waited for {what}: its answer was lost with the memory of its node")
        lost.rank, lost.cause = rank, "died"
        raise lost from error
    except DeadlineExceeded as error:
        hung = RankHung(str(error))
        hung.rank = rank
        raise hung from error


def _loss(error: RayTaskError) -> str | None:
    """Why a rank that raised this error cannot go on, though others could; None: the call is at
    fault."""
    text = f"{type(error.cause).__name__}: {error.cause}"
    if text.startswith(_OUT_OF_MEMORY):
        return "out_of_memory"
    return PeersLost.cause if _LOST_PEERS.search(text) else None
