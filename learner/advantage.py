"""Rewards of a group -> advantages. Pure.

GRPO (DeepSeekMath, arXiv 2402.03300, eq. 4.1.2) with DeepIntuit's sample standard deviation and
epsilon.
"""

import math
from collections.abc import Sequence


def group_advantages(rewards: Sequence[float | None], epsilon: float) -> list[float]:
    """``A_i = (r_i - mean) / (std + epsilon)`` over the members that have a reward.

    ``std`` is the sample standard deviation (n - 1). A member without a reward (None) gets 0 and
    enters neither mean nor deviation; a group of equal rewards, or with a single survivor, has no
    signal: all 0.
    """
    known = [reward for reward in rewards if reward is not None]
    if len(known) < 2 or max(known) == min(known):
        return [0.0] * len(rewards)
    mean = math.fsum(known) / len(known)
    variance = math.fsum((reward - mean) ** 2 for reward in known) / (len(known) - 1)
    scale = math.sqrt(variance) + epsilon
    return [0.0 if reward is None else (reward - mean) / scale for reward in rewards]
