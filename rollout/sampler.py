"""Order of the training samples: the sample of each place is a pure function of the seed, so a
resumed run asks the same questions."""

import random
from collections.abc import Hashable, Sequence

from wire.types import Sample, stable_seed


class Sampler:
    """Epoch after epoch of shuffled samples. Its whole state is the index of the next place."""

    def __init__(self, samples: Sequence[Sample], seed: int, *, balanced: bool = False) -> None:
        """``balanced``: every label in turn, in a new order each turn, however many samples it has;
        each label goes through its own samples epoch after epoch."""
        pools: dict[str, list[Sample]] = {}
        for sample in sorted(samples, key=lambda sample: sample.id):
            pools.setdefault(sample.label if balanced else "", []).append(sample)
        self._pools = [pools[label] for label in sorted(pools)]
        self._seed = seed
        self._orders: dict[Hashable, tuple[int, list[int]]] = {}
        """The order in use of each pool, and of the turns, with its epoch."""

    def at(self, index: int) -> Sample:
        """The sample of place ``index``."""
        turn, offset = divmod(index, len(self._pools))
        number = self._order("turn", len(self._pools), turn)[offset]
        pool = self._pools[number]
        epoch, place = divmod(turn, len(pool))
        return pool[self._order(number, len(pool), epoch)[place]]

    def _order(self, of: Hashable, count: int, epoch: int) -> list[int]:
        held, order = self._orders.get(of, (-1, []))
        if held != epoch:
            parts = () if len(self._pools) == 1 else (of,)
            order = epoch_order(count, self._seed, epoch, *parts)
            self._orders[of] = epoch, order
        return order


def epoch_order(count: int, seed: int, epoch: int, *of: Hashable) -> list[int]:
    """A permutation of ``range(count)`` for one epoch (of one label)."""
    order = list(range(count))
    random.Random(stable_seed("epoch", seed, epoch, *of)).shuffle(order)
    return order
