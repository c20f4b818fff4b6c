"""Rewards -> advantages, over whole groups and before any row is split. Pure.

rows with rewards -> KL taken off -> advantages -> truncated responses left out -> rows to train
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from learner.config import GrpoLossConfig
from learner.objective.advantage import advantages_of
from learner.objective.kl import kl_estimate
from learner.shared_prefix.rows import Response, Row
from wire.types import TraceGroup


def with_advantages(rows: Sequence[Row], config: GrpoLossConfig) -> list[Row]:
    """Rows with advantages, ready for training; each row in ``rows`` is a whole group. A row
    without a response that trains is left out.

    With ``mask_truncated`` a truncated response is left out, too, after its reward has entered the
    baseline (overlong filtering: DAPO, arXiv 2503.14476, section 3.4).
    """
    credited = [replace(row, responses=_credited(row.responses, config)) for row in rows]
    return [row for row in credited if row.responses]


def has_signal(group: TraceGroup, config: GrpoLossConfig) -> bool:
    """Whether a group moves the policy: a trace that trains has an advantage that is not 0.

    By rewards alone, before any KL is taken off them (DAPO's dynamic sampling, section 3.2).
    """
    scored = group.scored
    advantages = advantages_of([trace.reward for trace in scored], config)
    return any(
        advantage != 0
        and not (config.mask_truncated and trace.completion.finish_reason.is_truncated)
        for trace, advantage in zip(scored, advantages, strict=True)
    )


def _credited(responses: Sequence[Response], config: GrpoLossConfig) -> tuple[Response, ...]:
    advantages = advantages_of([_penalised(r, config) for r in responses], config)
    return tuple(
        replace(response, advantage=advantage)
        for response, advantage in zip(responses, advantages, strict=True)
        if not (config.mask_truncated and response.truncated)
    )


def _penalised(response: Response, config: GrpoLossConfig) -> float | None:
    """Reward with its KL penalty: ``r - kl_coef * sum over its tokens of KL(old policy ||
    reference)``: verl's ``apply_kl_penalty``, whose token rewards GRPO adds up."""
    if response.reward is None or not config.kl_coef:
        return response.reward
    by_engine = config.old_logprobs == "engine"
    old = response.rollout_logprobs if by_engine else response.old_logprobs
    assert old is not None, "KL in the reward needs the policy's logprobs"
    assert response.ref_logprobs is not None, "KL in the reward needs the reference's logprobs"
    logp, logp_ref = torch.from_numpy(np.array([old, response.ref_logprobs], np.float64))
    return response.reward - config.kl_coef * float(
        kl_estimate(logp, logp_ref, config.kl_penalty).sum()
    )
