"""Both kernels against softmax over a dense mask."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from learner.shared_prefix import attention
from learner.shared_prefix.attention import attend, block_mask
from learner.shared_prefix.layout import Layout
from tests.learner.shared_prefix.test_layout import GROUPS, sees

HEADS, KEY_HEADS, SIZE = 4, 2, 8
SCALING = 0.4


def draw(length: int, seed: int, dtype: torch.dtype) -> list[Tensor]:
    """Query, key and value as a layer makes them: places before heads in memory."""
    torch.manual_seed(seed)
    heads = (HEADS, KEY_HEADS, KEY_HEADS)
    made = [torch.randn(1, length, n, SIZE, dtype=dtype).transpose(1, 2) for n in heads]
    return [tensor.detach().requires_grad_() for tensor in made]


def dense(query: Tensor, key: Tensor, value: Tensor, groups: list) -> Tensor:
    """[1, L, heads, size]"""
    key, value = (x.repeat_interleave(HEADS // KEY_HEADS, dim=1) for x in (key, value))
    hidden = ~torch.from_numpy(sees(groups))
    scores = (query @ key.transpose(-1, -2) * SCALING).masked_fill(hidden, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


def with_gradients(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(7)
    weight = torch.randn(out.shape, dtype=torch.float64).to(out.dtype)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), inputs)]


@settings(deadline=None, max_examples=60)
@given(GROUPS, st.integers(0, 9))
def test_output_and_gradients_are_those_of_a_dense_mask(groups: list, seed: int):
    layout = Layout.of(groups)
    inputs = draw(layout.num_tokens, seed, torch.float64)
    out, _ = attend(torch.nn.Identity(), *inputs, None, scaling=SCALING, layout=layout)
    found = with_gradients(out, inputs)
    expected = with_gradients(dense(*inputs, groups), inputs)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-10)


def test_bfloat16_is_as_near_the_truth_as_a_repeated_prompt():
    groups, apart = [(300, [40, 70, 20])], [(300, [40]), (300, [70]), (300, [20])]
    layout = Layout.of(groups)
    exact = draw(layout.num_tokens, 0, torch.float64)
    truth = dense(*exact, groups)
    rounded = [tensor.detach().bfloat16() for tensor in exact]
    out, _ = attend(torch.nn.Identity(), *rounded, None, scaling=SCALING, layout=layout)
    order = [*range(340), *range(300), *range(340, 410), *range(300), *range(410, 430)]
    repeated = [tensor[:, :, order] for tensor in rounded]
    naive, _ = attend(
        torch.nn.Identity(), *repeated, None, scaling=SCALING, layout=Layout.of(apart)
    )
    noise = (naive - truth[:, order]).norm() / truth[:, order].norm()
    assert (out - truth).norm() / truth.norm() < 1.3 * noise


@settings(deadline=None, max_examples=25)
@given(GROUPS)
def test_the_block_mask_is_the_layouts(groups: list):
    layout = Layout.of(groups)
    mask = block_mask(layout, "cpu")
    length = layout.num_tokens
    places = torch.arange(length)
    none = torch.zeros((), dtype=torch.long)
    found = mask.mask_mod(none, none, places[:, None], places[None])
    assert torch.equal(found, torch.from_numpy(sees(groups)))


@pytest.mark.slow  # imports and runs torch's compiler, as the one below
@pytest.mark.parametrize("groups", [[(200, [50, 150, 20]), (300, [70])], [(100, [500])]])
def test_the_block_mask_visits_what_torchs_own_would(groups: list):
    mask = block_mask(Layout.of(groups), "cpu")
    length = mask.seq_lengths[0]
    torchs = create_block_mask(mask.mask_mod, None, None, length, length, device="cpu")
    assert torch.equal(mask.to_dense(), torchs.to_dense())
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(mask, name), getattr(torchs, name)), name
    assert mask.full_kv_num_blocks.sum() > 0


@pytest.mark.slow
def test_flex_attention_by_the_block_mask_is_the_cpu_kernels(monkeypatch: pytest.MonkeyPatch):
    """The code path of CUDA, its kernel uncompiled."""
    monkeypatch.setattr(attention, "_compiled_flex", lambda: flex_attention)
    groups = [(200, [50, 30]), (20, [7])]
    layout = Layout.of(groups)
    # without gradient, which FlexAttention has on CUDA alone
    inputs = [tensor.detach() for tensor in draw(layout.num_tokens, 0, torch.float32)]
    on_cpu, _ = attend(torch.nn.Identity(), *inputs, None, scaling=SCALING, layout=layout)
    mask = block_mask(layout, "cpu")
    by_flex, _ = attend(
        torch.nn.Identity(), *inputs, None, scaling=SCALING, layout=layout, block_mask=mask
    )
    assert torch.allclose(on_cpu, by_flex, atol=1e-5)


def test_no_tensor_of_the_rows_length_squared_exists():
    from tests.learner.tensor_sizes import largest_tensor

    layout = Layout.of([(300, [40] * 8)])
    inputs = draw(layout.num_tokens, 0, torch.float32)
    with largest_tensor() as largest:
        out, _ = attend(torch.nn.Identity(), *inputs, None, scaling=SCALING, layout=layout)
        out.sum().backward()
    assert largest.numel < layout.num_tokens**2 / 10
