"""Losses as pure functions: tensors in, a loss and its metrics out.

    log ratios -> surrogate -> rollout correction -> aggregate, plus KL and entropy terms

Every loss is this process's part of a sum over the *whole* update, divided by its global counts, so
that no split over ranks and micro-batches changes the gradient (learner/objective/aggregate.py).

N is the number of response tokens in a micro-batch, R of its responses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from learner.config import GrpoLossConfig
from learner.objective.aggregate import aggregate
from learner.objective.correction import Correction, rollout_correction
from learner.objective.kl import kl_estimate
from learner.objective.surrogate import Surrogate, surrogate
from learner.shared_prefix.rows import StepCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """Inputs of a loss, per response token. Only ``logp`` and ``entropy`` carry a gradient."""

    logp: Float[Tensor, " N"]
    """Logprob under the policy in training."""
    logp_old: Float[Tensor, " N"]
    """The trainer's logprob before the step's first update; NaN: that of ``logp``."""
    logp_rollout: Float[Tensor, " N"]
    """The rollout engine's logprob, as it sampled."""
    advantage: Float[Tensor, " N"]
    mask: Bool[Tensor, " N"]
    """False for tokens that count nowhere, whatever they hold. Whole responses only."""
    lengths: Sequence[int]
    """Tokens of each response; they add up to N."""
    logp_ref: Float[Tensor, " N"] | None = None
    """The reference model's logprob, where a coefficient asks for it."""
    entropy: Float[Tensor, " N"] | None = None
    """Entropy of the policy's distributions, where a coefficient asks for it."""


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


def grpo_loss(inputs: LossInputs, counts: StepCounts, config: GrpoLossConfig) -> LossOutput:
    """The objective of ``config``, by default DeepIntuit's (seeds.md 1.5).

        rho_t = exp(clip(logp_t - logp_old_t, -20, 20))
        loss  = aggregate(surrogate(rho_t, A_t) * weight_t)
              + kl_loss_coef * aggregate(KL_t) - entropy_coeff * aggregate(entropy_t)

    with the surrogate of learner/objective/surrogate.py, the weight of
    learner/objective/correction.py and the KL of learner/objective/kl.py. Masked tokens are cut out
    before the first exponential, because NaN times 0 is NaN, in the backward pass too.
    """
    mask, lengths = inputs.mask, inputs.lengths
    logp = inputs.logp.where(mask, 0.0)
    own = torch.where(inputs.logp_old.isnan(), logp.detach(), inputs.logp_old).where(mask, 0.0)
    rollout = inputs.logp_rollout.where(mask, 0.0)
    old = rollout if config.old_logprobs == "engine" else own
    advantage = inputs.advantage.where(mask, 0.0)
    log_ratio = (logp - old).clamp(-20.0, 20.0)
    policy = surrogate(logp, log_ratio, advantage, lengths, config)
    correction = rollout_correction(own - rollout, lengths, config)
    per_token = (policy.loss * correction.weight).where(mask, 0.0)
    policy_loss = aggregate(per_token, lengths, counts, config.loss_agg_mode)
    loss = policy_loss
    with torch.no_grad():
        sums = {
            "policy_loss": policy_loss * counts.num_tokens,
            "kl": (torch.exp(log_ratio) - 1 - log_ratio).sum(),
            **_clip_sums(policy, mask),
            **_correction_sums(correction, inputs, counts),
            "rollout_probs_diff/mean": (own.exp() - rollout.exp()).abs().sum(),
        }
        maxima = _mismatch_maxima(own, rollout)
    if inputs.logp_ref is not None:
        kl = kl_estimate(logp, inputs.logp_ref.where(mask, 0.0), config.kl_loss_type)
        sums["kl_ref"] = kl.detach().sum()
        if config.kl_loss_coef:
            loss = loss + config.kl_loss_coef * aggregate(kl, lengths, counts, config.loss_agg_mode)
    if config.entropy_coeff:
        assert inputs.entropy is not None, "the bonus needs the entropy"
        assert inputs.entropy.requires_grad == logp.requires_grad, "and its gradient"
        entropy = inputs.entropy.where(mask, 0.0)
        bonus = aggregate(entropy, lengths, counts, config.loss_agg_mode)
        loss = loss - config.entropy_coeff * bonus
    return LossOutput(loss, {name: float(value) for name, value in sums.items()}, maxima)


def _clip_sums(policy: Surrogate, mask: Bool[Tensor, " N"]) -> dict[str, Tensor]:
    return {
        "clip_frac/high": (policy.high & mask).sum(),
        "clip_frac/low": (policy.low & mask).sum(),
        "clip_frac/dual": (policy.dual & mask).sum(),
    }


def _correction_sums(
    correction: Correction, inputs: LossInputs, counts: StepCounts
) -> dict[str, Tensor]:
    mask = inputs.mask
    trains = torch.stack([part.any() for part in mask.split(list(inputs.lengths))])
    of_responses = correction.raw_sequence.where(trains, 0.0).sum() / counts.num_responses
    return {
        "rollout_is/mean": correction.raw.where(mask, 0.0).sum(),
        "rollout_is/seq_mean": of_responses * counts.num_tokens,
        "rollout_is/capped_frac": (correction.changed & mask).sum(),
    }


def _mismatch_maxima(own: Float[Tensor, " N"], rollout: Float[Tensor, " N"]) -> dict[str, float]:
    """Largest mismatches of a micro-batch with at least one token; masked ones differ by 0."""
    gap = own - rollout
    return {
        "rollout_is/max": float(torch.exp(gap.clamp(-20.0, 20.0)).max()),
        "rollout_probs_diff/max": float((own.exp() - rollout.exp()).abs().max()),
        "parity/max_logprob_diff": float(gap.abs().max()),
    }
