import math

import pytest
import torch

from learner.objective.kl import kl_estimate

LOGP = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()
LOGP_REF = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("k1", math.log(1 / 3)), ("k2", math.log(3) ** 2 / 2), ("k3", 3 - 1 - math.log(3))],
)
def test_estimators_worked_by_hand(kind: str, expected: float):
    assert kl_estimate(LOGP, LOGP_REF, kind)[0].item() == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_their_mean_over_the_policy_is_the_divergence(kind: str):
    exact = (LOGP.exp() * (LOGP - LOGP_REF)).sum()
    assert (LOGP.exp() * kl_estimate(LOGP, LOGP_REF, kind)).sum().item() == pytest.approx(exact)


def test_the_gradient_of_k2_is_that_of_the_divergence_and_of_k1_nothing():
    """Over all tokens with their probabilities, as sampling has it in the mean."""

    def gradient(kind: str | None) -> torch.Tensor:
        logits = LOGP.clone().requires_grad_()
        logp = logits.log_softmax(-1)
        if kind is None:
            value = (logp.exp() * (logp - LOGP_REF)).sum()
        else:
            value = (logp.exp().detach() * kl_estimate(logp, LOGP_REF, kind)).sum()
        (found,) = torch.autograd.grad(value, logits)
        return found

    assert torch.allclose(gradient("k2"), gradient(None))
    assert torch.allclose(gradient("k1"), torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_two_equal_models_are_at_zero(kind: str):
    assert kl_estimate(LOGP, LOGP, kind).tolist() == [0.0] * 3


def test_k3_stays_finite_however_far_the_models_are():
    found = kl_estimate(torch.tensor([-500.0]), torch.tensor([-0.1]), "k3")
    assert found.tolist() == [10.0]
