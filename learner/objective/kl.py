"""Estimators of KL(policy || reference) from sampled tokens. Pure.

J. Schulman, "Approximating KL Divergence", 2020; names and bounds as verl's ``kl_penalty``.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

KlType = Literal["k1", "k2", "k3"]


def kl_estimate(
    logp: Float[Tensor, " N"], logp_ref: Float[Tensor, " N"], kind: KlType
) -> Float[Tensor, " N"]:
    """Per token, in nats; with d = logp - logp_ref:

        k1    d                     without bias, noisy, negative at times
        k2    d^2 / 2               its gradient is that of the KL
        k3    exp(-d) - 1 + d       without bias, never negative (GRPO, arXiv 2402.03300, eq. 4)

    Of k3, d is cut off at 20 and the value at 10, so that one token cannot decide an update.
    """
    gap = logp - logp_ref
    if kind == "k1":
        return gap
    if kind == "k2":
        return gap.square() / 2
    back = -gap.clamp(-20.0, 20.0)
    return (torch.exp(back) - 1 - back).clamp(max=10.0)
