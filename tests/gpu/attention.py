"""Shared-prefix attention against softmax over a mask, values and gradients.

On CUDA ``attend`` is the compiled FlexAttention with the layout's block mask, at the heads of a
real model and rows of up to 20k tokens; on CPU the CPU's kernels, in small, and the values of
FlexAttention as PyTorch computes it without its compiler. The mask is applied to a few hundred
queries at a time, so that the reference fits beside the row.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from learner.shared_prefix import attention
from learner.shared_prefix.attention import attend, block_mask, layout_keywords
from learner.shared_prefix.layout import Layout
from tests.benchmarks.figures import Figure
from tests.gpu.setting import Setting, gap

Groups = Sequence[tuple[int, Sequence[int]]]


class Heads(NamedTuple):
    """Query heads, key heads, and their size."""

    query: int
    key: int
    size: int


_HEADS = {
    "qwen2_vl": Heads(28, 4, 128),  # 7B
    "qwen2_5_vl": Heads(16, 2, 128),  # 3B
    "qwen3_vl": Heads(32, 8, 128),  # 8B
}
_SEVERAL: Groups = [(300, [40, 70, 20]), (100, [500]), (20, [7, 1])]
_LONG: Groups = [(16_384, [37, 1024, 511, 128, 777, 1, 300, 640])]
_LONG_IN_SMALL: Groups = [(1024, [3, 64, 31, 8, 48, 1, 18, 40])]
_LIMITS = {torch.float32: (1e-4, 1e-4), torch.bfloat16: (1e-2, 2e-2)}
"""Largest gap of values and of gradients. Rounding alone: 1e-6 in float32; in bfloat16 3e-3, a
weight of 8 bits on each key."""
_QUERIES = 256


def figures(setting: Setting, family: str) -> Iterator[Figure]:
    """Gaps of short and long rows in both precisions, and that of a mask that is wrong."""
    full = _HEADS[family]
    heads = Heads(full.query // 2, full.key // 2, 32) if setting.small else full
    rows = {"several": _SEVERAL, "long": _LONG_IN_SMALL if setting.small else _LONG}
    for dtype, limits in _LIMITS.items():
        for kind, groups in rows.items():
            name = f"attention/{family}/{str(dtype).removeprefix('torch.')}/{kind}"
            inputs = draw(Layout.of(groups).num_tokens, heads, dtype, setting.device)
            expected = naive(inputs, Layout.of(groups))
            actual = shared(inputs, Layout.of(groups))
            gaps = [gap(one, other) for one, other in zip(actual, expected, strict=True)]
            yield Figure(f"{name}/values", gaps[0], "gap", limits[0], "below")
            yield Figure(f"{name}/gradients", max(gaps[1:]), "gap", limits[1], "below")
            if kind == "several":
                if setting.small:
                    flex = gap(uncompiled(inputs, Layout.of(groups)), expected[0])
                    yield Figure(f"{name}/flex_uncompiled", flex, "gap", limits[0], "below")
                # responses that see each other
                wrong = shared(inputs, Layout.of([(p, [sum(rest)]) for p, rest in groups]))
                fault = gap(wrong[0], expected[0])
                yield Figure(f"{name}/wrong_mask", fault, "gap", limits[0], "above")


def draw(length: int, heads: Heads, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Query, key and value as a layer makes them: places before heads in memory."""
    torch.manual_seed(0)
    counts = (heads.query, heads.key, heads.key)
    made = [torch.randn(1, length, n, heads.size, device=device).to(dtype) for n in counts]
    return [tensor.transpose(1, 2).detach().requires_grad_() for tensor in made]


def shared(inputs: Sequence[Tensor], layout: Layout) -> list[Tensor]:
    """Values and gradients of the project's attention."""
    out, _ = attend(
        torch.nn.Identity(),
        *inputs,
        None,
        scaling=inputs[0].shape[-1] ** -0.5,
        **layout_keywords(layout, inputs[0].device),
    )
    return [out, *torch.autograd.grad(out, inputs, weight_of(out))]


@torch.no_grad()
def uncompiled(inputs: Sequence[Tensor], layout: Layout) -> Tensor:
    """Values by the code path of CUDA, its kernel not compiled."""
    with patch.object(attention, "_compiled_flex", lambda: flex_attention):
        out, _ = attend(
            torch.nn.Identity(),
            *(tensor.detach() for tensor in inputs),
            None,
            scaling=inputs[0].shape[-1] ** -0.5,
            layout=layout,
            block_mask=block_mask(layout, inputs[0].device),
        )
    return out


def naive(inputs: Sequence[Tensor], layout: Layout) -> list[Tensor]:
    """The same by softmax over a mask, in float32 from the same rounded inputs."""
    query, key, value = (tensor.detach().float()[0].requires_grad_() for tensor in inputs)
    sight = torch.from_numpy(layout.sight).to(query.device)
    places = torch.arange(layout.num_tokens, device=query.device)
    weight = weight_of(inputs[0].transpose(1, 2)).to(inputs[0].dtype).float()[0]
    parts = []
    for at in places.split(_QUERIES):
        group, end, own = (bound[at, None] for bound in sight)
        sees = (places <= at[:, None]) & ((places >= own) | ((places >= group) & (places < end)))
        part = masked(query[:, at], key, value, sees)
        part.backward(weight[at])
        parts.append(part.detach())
    assert query.grad is not None
    assert key.grad is not None
    assert value.grad is not None
    return [torch.cat(parts)[None], query.grad[None], key.grad[None], value.grad[None]]


def masked(query: Tensor, key: Tensor, value: Tensor, sees: Tensor) -> Tensor:
    """[H, Q, D] on [K, L, D] -> [Q, H, D]; H / K query heads share a key head."""
    heads, queries, size = query.shape
    together = query.reshape(len(key), -1, size)
    scores = (together @ key.transpose(1, 2)) * size**-0.5
    scores = scores.view(len(key), -1, queries, key.shape[1]).masked_fill(~sees, float("-inf"))
    out = scores.softmax(-1).flatten(1, 2) @ value
    return out.view(heads, queries, size).transpose(0, 1)


def weight_of(out: Tensor) -> Tensor:
    """The gradient that comes from above: the same for both."""
    torch.manual_seed(1)
    return torch.randn(out.shape, device=out.device).to(out.dtype)
