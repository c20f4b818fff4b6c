import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.config import GrpoLossConfig
from learner.objective.loss import LossInputs, LossOutput, grpo_loss, supervised_loss
from learner.shared_prefix.rows import StepCounts

CONFIG = GrpoLossConfig()


def grpo(
    ratio: list[float],
    advantage: list[float],
    *,
    weight: list[float] | None = None,
    mask: list[bool] | None = None,
    num_tokens: int | None = None,
    old: float = -1.5,
) -> tuple[LossOutput, torch.Tensor]:
    """Loss and its gradient by logp_new, for tokens with these ratios and importance weights."""
    count = len(ratio)
    logp_old = torch.full((count,), old, dtype=torch.float64)
    logp_new = (logp_old + torch.tensor(ratio, dtype=torch.float64).log()).requires_grad_()
    inputs = LossInputs(
        logp=logp_new,
        logp_old=logp_old,
        logp_rollout=logp_old - torch.tensor(weight or [1.0] * count, dtype=torch.float64).log(),
        advantage=torch.tensor(advantage, dtype=torch.float64),
        mask=torch.tensor(mask or [True] * count),
        lengths=[1] * count,
    )
    total = num_tokens or count
    output = grpo_loss(inputs, StepCounts(total, total), CONFIG)
    (gradient,) = torch.autograd.grad(output.loss, logp_new)
    return output, gradient


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "slope"),
    [
        (2.0, 1.0, -2.0, -2.0),  # on policy: minus the advantage
        (2.0, 1.27, -2.54, -2.54),
        (2.0, 1.5, -2.56, 0.0),  # clipped at 1.28
        (2.0, 0.5, -1.0, -1.0),  # a good token that became rarer is not clipped
        (-2.0, 0.5, 1.6, 0.0),  # clipped at 0.8
        (-2.0, 1.5, 3.0, 3.0),  # a bad token that became likelier is not clipped
        (-2.0, 2.9, 5.8, 5.8),
        (-2.0, 5.0, 6.0, 0.0),  # dual clip: 3 times the advantage
        (0.0, 1.7, 0.0, 0.0),
    ],
)
def test_one_token_worked_by_hand(advantage: float, ratio: float, loss: float, slope: float):
    output, gradient = grpo([ratio], [advantage])
    assert output.loss.item() == pytest.approx(loss)
    assert gradient.item() == pytest.approx(slope)


@pytest.mark.parametrize(
    ("weight", "used"), [(1.0, 1.0), (0.25, 0.25), (1.9, 1.9), (2.5, 2.0), (1e9, 2.0)]
)
def test_the_importance_weight_is_capped_at_two(weight: float, used: float):
    output, gradient = grpo([1.0], [1.0], weight=[weight])
    assert output.loss.item() == pytest.approx(-used)
    assert gradient.item() == pytest.approx(-used)
    assert output.sums["rollout_is/capped_frac"] == (weight > 2)


def test_where_rollout_and_trainer_agree_the_weight_is_exactly_one():
    output, _ = grpo([1.0, 1.0], [1.0, -3.0])
    assert output.loss.item() == 1.0
    assert output.sums["rollout_is/mean"] == 2.0
    assert output.maxima["parity/max_logprob_diff"] == 0.0


def test_clipping_is_counted_by_its_reason():
    output, _ = grpo([1.5, 0.5, 5.0, 1.0], [1.0, -1.0, -1.0, 1.0])
    names = ("clip_frac/high", "clip_frac/low", "clip_frac/dual")
    assert [output.sums[name] for name in names] == [1, 1, 1]


def test_tokens_count_equally_whatever_response_they_are_in():
    long_and_short, _ = grpo([1.0] * 5, [1.0, 1.0, 1.0, 1.0, -1.0])
    assert long_and_short.loss.item() == pytest.approx(-3 / 5)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.1, 8), st.floats(-3, 3), st.floats(0.1, 8), st.booleans()),
        min_size=2,
        max_size=12,
    ),
    st.integers(1, 11),
)
def test_micro_batches_add_up_to_the_whole(tokens: list[tuple], cut: int):
    def part(chosen: list[tuple]) -> tuple[LossOutput, torch.Tensor]:
        ratio, advantage, weight, mask = (list(column) for column in zip(*chosen, strict=True))
        return grpo(ratio, advantage, weight=weight, mask=mask, num_tokens=7)

    cut = min(cut, len(tokens) - 1)
    whole, gradient = part(tokens)
    parts = [part(tokens[:cut]), part(tokens[cut:])]
    assert sum(p.loss.item() for p, _ in parts) == pytest.approx(whole.loss.item())
    assert torch.allclose(torch.cat([g for _, g in parts]), gradient)
    for name, total in whole.sums.items():
        assert sum(p.sums[name] for p, _ in parts) == pytest.approx(total)
    for name, worst in whole.maxima.items():
        assert max(p.maxima[name] for p, _ in parts) == worst


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_masked_tokens_count_nowhere_whatever_they_hold(poison: float):
    mask = torch.tensor([True, False])
    logp_new = torch.tensor([-1.0, poison], requires_grad=True)
    poisoned = torch.tensor([-1.0, poison])
    inputs = LossInputs(
        logp=logp_new,
        logp_old=poisoned,
        logp_rollout=poisoned,
        logp_ref=poisoned,
        entropy=poisoned,
        advantage=torch.tensor([2.0, poison]),
        mask=mask,
        lengths=[1, 1],
    )
    everything = CONFIG.model_copy(update={"kl_loss_coef": 0.5, "entropy_coeff": 0.0})
    grpo_output = grpo_loss(inputs, StepCounts(1, 1), everything)
    supervised = supervised_loss(logp_new, torch.tensor([1.0, 1.0]), mask, 1)
    for output, loss in ((grpo_output, -2.0), (supervised, 1.0)):
        assert output.loss.item() == loss
        (gradient,) = torch.autograd.grad(output.loss, logp_new)
        assert gradient.tolist() == [-abs(loss), 0.0]
        assert all(math.isfinite(x) for x in {**output.sums, **output.maxima}.values())


def test_ratios_beyond_every_bound_stay_finite():
    output, gradient = grpo([math.exp(300), math.exp(-300)], [1.0, -1.0])
    assert math.isfinite(output.loss.item())
    assert torch.isfinite(gradient).all()


def test_supervised_loss_is_the_weighted_sum_over_the_global_count():
    logp = torch.tensor([-1.0, -2.0, -4.0], requires_grad=True)
    output = supervised_loss(
        logp, torch.tensor([1.0, 0.5, 9.0]), torch.tensor([True, True, False]), 10
    )
    assert output.loss.item() == pytest.approx(0.2)
    assert output.sums["nll"] == 3.0
    output.loss.backward()
    assert logp.grad.tolist() == pytest.approx([-0.1, -0.05, 0.0])
