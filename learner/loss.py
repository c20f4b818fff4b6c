"""Losses as pure functions: tensors in, a loss and its metrics out.

Every loss is a sum over this process's tokens divided by ``num_tokens``, the count of the *whole*
step over all ranks and micro-batches, so that no split changes the gradient. (Averaging over ranks
is undone in learner/engine.py.)

N is the number of response tokens in a micro-batch.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from learner.config import GrpoLossConfig


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A loss to call ``backward`` on, and numbers for the log."""

    loss: Float[Tensor, ""]
    sums: dict[str, float]
    """Sums over tokens: add up micro-batches and ranks, divide by the step's token count."""
    maxima: dict[str, float]


def supervised_loss(
    logp: Float[Tensor, " N"],
    weight: Float[Tensor, " N"],
    mask: Bool[Tensor, " N"],
    num_tokens: int,
) -> LossOutput:
    """Next-token loss ``-sum(weight * logp) / num_tokens`` over unmasked tokens."""
    loss = -(logp * weight).where(mask, 0.0).sum() / num_tokens
    return LossOutput(loss, {"nll": float(-logp.detach().where(mask, 0.0).sum())}, {})


def grpo_loss(
    logp_new: Float[Tensor, " N"],
    logp_old: Float[Tensor, " N"],
    logp_rollout: Float[Tensor, " N"],
    advantage: Float[Tensor, " N"],
    mask: Bool[Tensor, " N"],
    num_tokens: int,
    config: GrpoLossConfig,
) -> LossOutput:
    """Clipped surrogate, dual clip, truncated importance weight, token-mean (seeds.md 1.5).

        rho = exp(clip(logp_new - logp_old, -20, 20))
        L1  = max(-A rho, -A clip(rho, 1 - low, 1 + high))
        L   = min(L1, -c A) where A < 0, else L1
        loss = sum(L * min(exp(logp_old - logp_rollout), cap)) / num_tokens

    No KL term and no reference model. ``logp_old`` is the trainer's own logprob before the step's
    first update, ``logp_rollout`` the engine's; neither carries a gradient. Masked tokens count
    nowhere, whatever they hold: they are cut out before the first exponential, because NaN times 0
    is NaN, in the backward pass too.
    """
    log_ratio = (logp_new - logp_old).where(mask, 0.0).clamp(-20.0, 20.0)
    mismatch = (logp_old - logp_rollout).where(mask, 0.0)
    ratio = torch.exp(log_ratio)
    clipped = ratio.clamp(1 - config.clip_ratio_low, 1 + config.clip_ratio_high)
    plain, bounded = -advantage * ratio, -advantage * clipped
    worst = torch.maximum(plain, bounded)
    dual = torch.where(advantage < 0, torch.minimum(worst, -config.clip_ratio_c * advantage), worst)
    correction = torch.exp(mismatch.clamp(-20.0, 20.0))
    per_token = (dual * correction.clamp(max=config.rollout_is_threshold)).where(mask, 0.0)
    loss = per_token.sum() / num_tokens
    with torch.no_grad():
        gap = (logp_old.exp() - logp_rollout.exp()).abs().where(mask, 0.0)
        sums = {
            "policy_loss": per_token.sum(),
            "kl": (ratio - 1 - log_ratio).sum(),
            "clip_frac/high": ((advantage > 0) & (ratio > 1 + config.clip_ratio_high) & mask).sum(),
            "clip_frac/low": ((advantage < 0) & (ratio < 1 - config.clip_ratio_low) & mask).sum(),
            "clip_frac/dual": ((dual < worst) & mask).sum(),
            "rollout_is/mean": correction.where(mask, 0.0).sum(),
            "rollout_is/capped_frac": ((correction > config.rollout_is_threshold) & mask).sum(),
            "rollout_probs_diff/mean": gap.sum(),
        }
        maxima = {
            "rollout_probs_diff/max": float(gap.max()) if len(gap) else 0.0,
            "parity/max_logprob_diff": float(mismatch.abs().max()) if len(gap) else 0.0,
        }
    return LossOutput(loss, {name: float(value) for name, value in sums.items()}, maxima)
