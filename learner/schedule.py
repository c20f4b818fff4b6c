"""Learning-rate schedules: pure functions of the update's number, relative to a peak of 1.

linear warm-up to 1 -> constant | straight line | half a cosine, to a floor at the stage's end
"""

import math
from typing import Literal

Decay = Literal["constant", "linear", "cosine"]


def schedule(decay: Decay, step: int, num_steps: int, warmup: int, floor: float = 0.0) -> float:
    """Share of the peak at update ``step`` (from 0) of ``num_steps``, the first ``warmup`` of which
    rise.

    ``t = (step - warmup) / (num_steps - warmup)`` after warm-up, and

        constant   1
        linear     floor + (1 - floor) * (1 - t)
        cosine     floor + (1 - floor) * (1 + cos(pi t)) / 2    (SGDR, arXiv 1608.03983, eq. 5)

    as transformers' schedulers and torch's CosineAnnealingLR, but for the warm-up, which does not
    start at 0: an update at rate 0 would be wasted. A stage that is over stays at the floor.
    """
    if step < warmup:
        return (step + 1) / warmup
    if decay == "constant" or num_steps <= warmup:
        return 1.0
    done = min(1.0, (step - warmup) / (num_steps - warmup))
    left = 1 - done if decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return floor + (1 - floor) * left
