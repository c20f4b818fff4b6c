import math

import pytest
import torch

from learner.config import GrpoLossConfig
from learner.objective.correction import rollout_correction
from learner.objective.loss import LossInputs, LossOutput, grpo_loss
from learner.shared_prefix.rows import StepCounts

RATIOS = torch.tensor([3.0, 0.5, 0.1, 6.0], dtype=torch.float64)
LENGTHS = (2, 2)  # the responses' ratios: 1.5 and 0.6


def weights(**settings: object) -> list[float]:
    config = GrpoLossConfig.model_validate(settings)
    return rollout_correction(RATIOS.log(), LENGTHS, config).weight.tolist()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [2.0, 0.5, 0.1, 2.0]),
        ({"rollout_is": "none"}, [1.0] * 4),
        ({"rollout_is": "sequence"}, [1.5, 1.5, 0.6, 0.6]),
        ({"rollout_is": "sequence", "rollout_is_threshold": 1.2}, [1.2, 1.2, 0.6, 0.6]),
        ({"rollout_is_threshold": (0.5, 5.0)}, [3.0, 0.5, 0.0, 0.0]),
        ({"rollout_is": "sequence", "rollout_is_threshold": (1.0, 5.0)}, [1.5, 1.5, 0.0, 0.0]),
    ],
)
def test_weights_worked_by_hand(settings: dict, expected: list[float]):
    assert weights(**settings) == pytest.approx(expected)


def loss(**settings: object) -> LossOutput:
    ones = torch.ones(4, dtype=torch.float64)
    inputs = LossInputs(
        logp=-ones,
        logp_old=torch.full_like(ones, math.nan),
        logp_rollout=-ones - RATIOS.log(),
        advantage=ones,
        mask=torch.ones(4, dtype=torch.bool),
        lengths=LENGTHS,
    )
    return grpo_loss(inputs, StepCounts(4, 2), GrpoLossConfig.model_validate(settings))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rollout_is": "none"},
        {"rollout_is": "none", "old_logprobs": "engine"},
        {"rollout_is": "sequence", "rollout_is_threshold": (0.5, 5.0)},
    ],
)
def test_raw_ratios_are_logged_whatever_is_done_with_them(settings: dict):
    output = loss(**settings)
    assert output.sums["rollout_is/mean"] == pytest.approx(9.6)
    assert output.sums["rollout_is/seq_mean"] / 4 == pytest.approx((1.5 + 0.6) / 2)
    assert output.maxima["rollout_is/max"] == pytest.approx(6.0)
    assert output.maxima["parity/max_logprob_diff"] == pytest.approx(math.log(10))


def test_a_band_counts_what_it_leaves_out_and_keeps_the_denominator():
    output = loss(rollout_is_threshold=(0.5, 5.0))
    assert output.sums["rollout_is/capped_frac"] == 2
    assert output.loss.item() == pytest.approx(-(3.0 + 0.5) / 4)


def test_with_the_engines_logprobs_the_ratio_itself_is_to_the_engine():
    output = loss(rollout_is="none", old_logprobs="engine")
    assert output.loss.item() == pytest.approx(-(1.28 + 0.5 + 0.1 + 1.28) / 4)
    assert output.sums["clip_frac/high"] == 2
