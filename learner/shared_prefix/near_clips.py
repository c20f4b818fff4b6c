"""Rows exchanged between ranks so that each trains where its clip is ready; balance stays.

    rows of each rank (assign_to_ranks) + ranks near each clip -> the same rows, more of them near

A row moves, or changes places with another, only if no rank gets more than 1% more tokens than the
busiest had.
"""

from collections.abc import Callable, Collection, Sequence

from learner.shared_prefix.rows import Row

Near = Callable[[Row], Collection[int]]
"""Ranks on whose node a row's clip is ready, or is to be."""

_BALANCE = 1.01
_PASSES = 5  # each opens the way for others; the fourth hardly ever moves a row


def move_near_clips(per_rank: Sequence[Sequence[Row]], near: Near) -> list[list[Row]]:
    """Exchange rows between ranks until as many as balance allows are near their clips; those that
    are not come last on their rank, so that their clips can be made ready meanwhile."""
    rows = [row for part in per_rank for row in part]
    return [[rows[n] for n in part] for part in numbers_near_clips(per_rank, near)]


def numbers_near_clips(per_rank: Sequence[Sequence[Row]], near: Near) -> list[list[int]]:
    """:func:`move_near_clips` by the numbers of the rows, counted through all ranks."""
    exchange = _Exchange(per_rank, near)
    exchange.run()
    return exchange.result()


class _Exchange:
    """Rows by number, and the rank of each."""

    def __init__(self, per_rank: Sequence[Sequence[Row]], near: Near) -> None:
        all_rows = [row for rows in per_rank for row in rows]
        self._near = [frozenset(near(row)) for row in all_rows]
        self._held: list[list[int]] = [[] for _ in per_rank]
        number = 0
        for rank, rows in enumerate(per_rank):
            self._held[rank] = list(range(number, number + len(rows)))
            number += len(rows)
        self._size = [row.num_tokens for row in all_rows]
        self._loads = [sum(self._size[n] for n in held) for held in self._held]
        self._most = int(_BALANCE * max(self._loads, default=0))

    def run(self) -> None:
        """Bring one row after another near its clip, until none moves."""
        for _ in range(_PASSES):
            strangers = self._strangers()
            for number, rank in strangers:
                if number in self._held[rank]:  # else an exchange has moved it already
                    self._bring_near(number, rank)
            if self._strangers() == strangers:
                return

    def _strangers(self) -> list[tuple[int, int]]:
        """Rows far from their clips, with their ranks; the largest first."""
        strangers = [
            (number, rank)
            for rank, held in enumerate(self._held)
            for number in held
            if rank not in self._near[number]
        ]
        return sorted(strangers, key=lambda pair: (-self._size[pair[0]], pair))

    def _bring_near(self, number: int, rank: int) -> None:
        ranks = sorted(self._near[number], key=lambda other: self._loads[other])
        for other in ranks:
            alone = len(self._held[rank]) == 1  # it would be left with a filler
            if not alone and self._loads[other] + self._size[number] <= self._most:
                self._move(number, rank, other)
                return
        for other in ranks:
            if (partner := self._partner(number, rank, other)) is not None:
                self._move(number, rank, other)
                self._move(partner, other, rank)
                return

    def _partner(self, number: int, rank: int, other: int) -> int | None:
        """A row of ``other`` to exchange for ``number``: best one that is near ``rank``, else one
        that is not near its own rank either."""
        change = [self._size[number] - self._size[n] for n in self._held[other]]
        fitting = [
            n
            for n, more in zip(self._held[other], change, strict=True)
            if self._loads[other] + more <= self._most and self._loads[rank] - more <= self._most
        ]
        gained = [n for n in fitting if rank in self._near[n]]
        neutral = [n for n in fitting if other not in self._near[n]]
        return next(iter(gained or neutral), None)

    def _move(self, number: int, rank: int, other: int) -> None:
        self._held[rank].remove(number)
        self._held[other].append(number)
        self._loads[rank] -= self._size[number]
        self._loads[other] += self._size[number]

    def result(self) -> list[list[int]]:
        """The rows of each rank in their order, strangers last."""
        return [
            sorted(held, key=lambda n: (rank not in self._near[n], n))
            for rank, held in enumerate(self._held)
        ]
