"""Policy losses per token, before any correction or aggregation. Pure.

vanilla    PPO's clipped surrogate (arXiv 1707.06347, eq. 7), clip-higher (DAPO, arXiv 2503.14476,
           eq. 10), dual clip (arXiv 1912.09729, eq. 5)
gspo       arXiv 2507.18071, eq. 5 to 7, with the gradient per token of eq. 13 and 14
cispo      MiniMax-M1, arXiv 2506.13585, eq. 4 and 5

N is the number of response tokens in a micro-batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from learner.config import GrpoLossConfig
from learner.objective.aggregate import means, spread


@dataclass(frozen=True, slots=True)
class Surrogate:
    """Loss per token, and which tokens a bound has changed."""

    loss: Float[Tensor, " N"]
    high: Bool[Tensor, " N"]
    """Tokens clipped at 1 + clip_ratio_high."""
    low: Bool[Tensor, " N"]
    """Tokens clipped at 1 - clip_ratio_low."""
    dual: Bool[Tensor, " N"]
    """Tokens bounded by clip_ratio_c."""


def surrogate(
    logp: Float[Tensor, " N"],
    log_ratio: Float[Tensor, " N"],
    advantage: Float[Tensor, " N"],
    lengths: Sequence[int],
    config: GrpoLossConfig,
) -> Surrogate:
    """The loss of ``config.loss_mode``. ``log_ratio``: logp minus the old logprob, within 20 of 0,
    0 where masked; it and ``logp`` carry the gradient."""
    if config.loss_mode == "cispo":
        return _cispo(logp, torch.exp(log_ratio), advantage, config)
    if config.loss_mode == "gspo":
        whole = spread(means(log_ratio.detach(), lengths), lengths)
        # the response's ratio, with each token's own gradient; verl's bound
        ratio = torch.exp((logp - logp.detach() + whole).clamp(max=10.0))
        return _clipped(ratio, advantage, config)
    return _dual_clipped(_clipped(torch.exp(log_ratio), advantage, config), advantage, config)


def _clipped(
    ratio: Float[Tensor, " N"], advantage: Float[Tensor, " N"], config: GrpoLossConfig
) -> Surrogate:
    """Clipped surrogate: ``max(-A rho, -A clip(rho, 1 - low, 1 + high))``."""
    low, high = 1 - config.clip_ratio_low, 1 + config.clip_ratio_high
    loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(low, high))
    never = torch.zeros_like(ratio).bool()
    return Surrogate(loss, (advantage > 0) & (ratio > high), (advantage < 0) & (ratio < low), never)


def _dual_clipped(
    clipped: Surrogate, advantage: Float[Tensor, " N"], config: GrpoLossConfig
) -> Surrogate:
    """Dual clip: ``min(L, -c A)`` where A < 0."""
    most = -config.clip_ratio_c * advantage
    loss = torch.where(advantage < 0, torch.minimum(clipped.loss, most), clipped.loss)
    return Surrogate(loss, clipped.high, clipped.low, loss < clipped.loss)


def _cispo(
    logp: Float[Tensor, " N"],
    ratio: Float[Tensor, " N"],
    advantage: Float[Tensor, " N"],
    config: GrpoLossConfig,
) -> Surrogate:
    """CISPO: ``-sg(clip(rho, 1 - low, 1 + high)) A logp``: no token loses its gradient."""
    low, high = 1 - config.clip_ratio_low, 1 + config.clip_ratio_high
    loss = -ratio.detach().clamp(low, high) * advantage * logp
    return Surrogate(loss, ratio > high, ratio < low, torch.zeros_like(ratio).bool())
