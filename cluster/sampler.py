"""Which sample is asked at which place: a pure function of the seed, so a resumed run asks the
same questions."""

import random
from collections.abc import Sequence

from wire.types import Sample, stable_seed


class Sampler:
    """Epoch after epoch of shuffled samples. Its whole state is the index of the next place."""

    def __init__(self, samples: Sequence[Sample], seed: int) -> None:
        self._samples = sorted(samples, key=lambda sample: sample.id)
        self._seed = seed
        self._epoch = -1
        self._order: list[int] = []

    def at(self, index: int) -> Sample:
        """The sample of place ``index``."""
        epoch, offset = divmod(index, len(self._samples))
        if epoch != self._epoch:
            self._order = epoch_order(len(self._samples), self._seed, epoch)
            self._epoch = epoch
        return self._samples[self._order[offset]]


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """A permutation of ``range(count)`` for one epoch."""
    order = list(range(count))
    random.Random(stable_seed("epoch", seed, epoch)).shuffle(order)
    return order
