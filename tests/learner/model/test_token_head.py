"""The head by tiles against log-softmax over full logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from learner.model.token_head import TokenHead
from tests.learner.tensor_sizes import largest_tensor


def make(num: int, hidden: int, words: int, dtype: torch.dtype) -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(0)
    head = nn.Linear(hidden, words, bias=False, dtype=dtype)
    states = (3 * torch.randn(num, hidden, dtype=torch.float64)).to(dtype).requires_grad_()
    return head, states, torch.randint(words, (num,))


def by_tiles(head: nn.Linear, states: Tensor, target: Tensor, *tile: int) -> tuple[Tensor, Tensor]:
    return TokenHead(head, *tile)(states, target)


def in_full(head: nn.Linear, states: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    kind = torch.promote_types(states.dtype, torch.float32)
    logp = head(states).to(kind).log_softmax(-1)
    return logp.gather(-1, target[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


def gradients(head: nn.Linear, states: Tensor, scores: tuple, weights: tuple) -> list[Tensor]:
    loss = sum((score * weight).sum() for score, weight in zip(scores, weights, strict=True))
    return list(torch.autograd.grad(loss, (states, head.weight)))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(2, 30), st.integers(1, 6), st.integers(1, 40))
def test_any_tiles_give_logprob_entropy_and_both_gradients(
    num: int, words: int, tile_places: int, tile_words: int
):
    head, states, target = make(num, 5, words, torch.float64)
    found = by_tiles(head, states, target, tile_places, tile_words)
    expected = in_full(head, states, target)
    weights = torch.randn(2, num, dtype=torch.float64).unbind()
    pairs = [
        *zip(found, expected, strict=True),
        *zip(
            gradients(head, states, found, weights),
            gradients(head, states, expected, weights),
            strict=True,
        ),
    ]
    for one, other in pairs:
        assert torch.allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("tile", [(4, 7), (100, 100)])
def test_logits_are_divided_by_the_temperature_of_each_place(tile: tuple[int, int]):
    head, states, target = make(6, 4, 20, torch.float64)
    temperature = torch.tensor([0.7, 1.3, 1.0, 0.3, 2.0, 1.0])
    exact = temperature.double()
    ours = TokenHead(head, *tile)(states, target, exact)
    logp = (head(states) / exact[:, None]).log_softmax(-1)
    expected = logp.gather(-1, target[:, None])[:, 0], -(logp.exp() * logp).sum(-1)
    weights = torch.randn(2, 6, dtype=torch.float64).unbind()
    pairs = [
        *zip(ours, expected, strict=True),
        *zip(
            gradients(head, states, ours, weights),
            gradients(head, states, expected, weights),
            strict=True,
        ),
    ]
    for one, other in pairs:
        assert torch.allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("used", [0, 1])
def test_either_score_may_go_without_a_gradient(used: int):
    head, states, target = make(6, 4, 20, torch.float64)
    found = torch.autograd.grad(by_tiles(head, states, target, 4, 7)[used].sum(), states)
    expected = torch.autograd.grad(in_full(head, states, target)[used].sum(), states)
    assert torch.allclose(*found, *expected, atol=1e-10)


@pytest.mark.parametrize("frozen", ["weight", "states"])
def test_what_is_frozen_gets_no_gradient_and_the_other_the_same(frozen: str):
    head, states, target = make(6, 4, 20, torch.float64)
    by_tiles(head, states, target, 4, 7)[0].sum().backward()
    expected = (states if frozen == "weight" else head.weight).grad
    head, states, target = make(6, 4, 20, torch.float64)
    (head.weight if frozen == "weight" else states).requires_grad_(False)
    by_tiles(head, states, target, 4, 7)[0].sum().backward()
    held, moved = (head.weight, states) if frozen == "weight" else (states, head.weight)
    assert held.grad is None
    assert torch.equal(moved.grad, expected)


def test_bfloat16_is_as_near_the_truth_as_full_logits():
    head, states, target = make(200, 64, 500, torch.bfloat16)
    with torch.no_grad():
        true_head = nn.Linear(64, 500, bias=False, dtype=torch.float64)
        true_head.weight.copy_(head.weight)
    true_states = states.detach().double().requires_grad_()
    ones = (torch.ones(200), torch.zeros(200))
    truth = gradients(true_head, true_states, in_full(true_head, true_states, target), ones)
    naive = gradients(head, states, in_full(head, states, target), ones)
    found = gradients(head, states, by_tiles(head, states, target, 64, 100), ones)
    for one, other, true in zip(found, naive, truth, strict=True):
        assert (one - true).norm() < 1.3 * (other - true).norm()


def test_full_logits_never_exist():
    head, states, target = make(300, 8, 4000, torch.float32)
    with largest_tensor() as largest:
        logp, entropy = by_tiles(head, states, target, 64, 256)
        (logp + entropy).sum().backward()
    assert largest.numel == head.weight.numel()  # its gradient; a tile is half of it
    assert largest.numel < 300 * 4000 / 30
    with largest_tensor() as largest:
        in_full(head, states, target)[0].sum().backward()
    assert largest.numel == 300 * 4000


def test_only_hidden_states_and_sums_are_kept_for_the_backward_pass():
    head, states, target = make(300, 8, 4000, torch.float32)
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(tuple(t.shape)) or t, lambda t: t
    ):
        by_tiles(head, states, target, 64, 256)
    assert sorted(kept) == [(300,), (300,), (300,), (300, 8), (4000, 8)]
