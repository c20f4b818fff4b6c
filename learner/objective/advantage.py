"""Rewards of a group -> advantages. Pure.

grpo    DeepSeekMath, arXiv 2402.03300, section 4.1.2, with DeepIntuit's sample standard deviation
        and epsilon; without the deviation: Dr.GRPO, arXiv 2503.20783, section 3.2
rloo    arXiv 2402.14740, section 2.2
"""

import math
from collections.abc import Sequence
from typing import Literal

from learner.config import GrpoLossConfig


def group_advantages(
    rewards: Sequence[float | None],
    epsilon: float,
    *,
    estimator: Literal["grpo", "rloo"] = "grpo",
    by_std: bool = True,
) -> list[float]:
    """Advantage of each of a group's n members with a reward: how much better it is than its group.

        grpo    A_i = (r_i - mean) / (std + epsilon);  not ``by_std``: A_i = r_i - mean
        rloo    A_i = r_i - (mean of the others) = (r_i - mean) n / (n - 1)

    ``std`` is the sample standard deviation (n - 1). A member without a reward (None) gets 0 and
    enters neither mean nor deviation; a group of equal rewards, or with a single survivor, has no
    signal: all 0 (verl gives a single survivor its bare reward).
    """
    known = [reward for reward in rewards if reward is not None]
    if len(known) < 2 or max(known) == min(known):
        return [0.0] * len(rewards)
    mean = math.fsum(known) / len(known)
    scale = _scale(known, mean, epsilon, estimator, by_std)
    return [0.0 if reward is None else (reward - mean) / scale for reward in rewards]


def advantages_of(rewards: Sequence[float | None], config: GrpoLossConfig) -> list[float]:
    """A group's advantages under a recipe's settings."""
    return group_advantages(
        rewards,
        config.adv_epsilon,
        estimator=config.adv_estimator,
        by_std=config.norm_adv_by_std_in_grpo,
    )


def _scale(known: Sequence[float], mean: float, epsilon: float, estimator: str, std: bool) -> float:
    """The divisor of a group's deviations from its mean."""
    if estimator == "rloo":
        return (len(known) - 1) / len(known)
    if not std:
        return 1.0
    variance = math.fsum((reward - mean) ** 2 for reward in known) / (len(known) - 1)
    return math.sqrt(variance) + epsilon
