"""Importance weights between the rollout engine, which sampled, and the trainer. Pure.

truncated importance sampling    Yao et al., "Your Efficient RL Framework Secretly Brings You
                                 Off-Policy RL Training", 2025
IcePop                           Ling Team, arXiv 2510.18855

As verl's ``rollout_correction``: a weight multiplies a token's policy loss and has no gradient; a
weight of 0 leaves the denominators as they are.

N is the number of response tokens in a micro-batch, R of its responses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from learner.config import GrpoLossConfig
from learner.objective.aggregate import spread, sums


@dataclass(frozen=True, slots=True)
class Correction:
    """Importance weights, and the ratios that they were made of."""

    weight: Float[Tensor, " N"]
    changed: Bool[Tensor, " N"]
    """Whether a weight was cut off at the threshold, or is outside of the band."""
    raw: Float[Tensor, " N"]
    """Ratio trainer / engine of each token."""
    raw_sequence: Float[Tensor, " R"]
    """Ratio trainer / engine of each response: the product over its tokens."""


def rollout_correction(
    log_ratio: Float[Tensor, " N"], lengths: Sequence[int], config: GrpoLossConfig
) -> Correction:
    """Importance weights of response tokens. ``log_ratio``: trainer's minus engine's logprob, 0
    where masked; no gradient.

    raw_t = exp(clip(log_ratio_t, -20, 20)); of a response: of the sum over its tokens
    weight = min(raw, threshold)                      a number: truncated
    weight = raw where low <= raw <= high, else 0     a pair: IcePop
    """
    raw = torch.exp(log_ratio.clamp(-20.0, 20.0))
    raw_sequence = torch.exp(sums(log_ratio, lengths).clamp(-20.0, 20.0))
    if config.rollout_is == "none":
        return Correction(torch.ones_like(raw), torch.zeros_like(raw).bool(), raw, raw_sequence)
    chosen = raw if config.rollout_is == "token" else spread(raw_sequence, lengths)
    bounds = config.rollout_is_threshold
    if isinstance(bounds, tuple):
        changed = (chosen < bounds[0]) | (chosen > bounds[1])
        return Correction(chosen.where(~changed, 0.0), changed, raw, raw_sequence)
    return Correction(chosen.clamp(max=bounds), chosen > bounds, raw, raw_sequence)
