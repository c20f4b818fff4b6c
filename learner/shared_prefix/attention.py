"""Shared-prefix attention, registered with transformers under ``NAME``.

    model.forward(..., layout=Layout) -> every layer's attention -> attend

On CPU a group takes one causal call for its prompt, one unmasked call of all response tokens on the
prompt, and a causal call per response on itself; a token's two partial results are merged by their
log-sum-exp. No mask of the row exists, and nothing of the prompt is copied per response.

The backward pass takes the same calls with the *merged* output and log-sum-exp, which makes each
part's gradient exact: with P = exp(S - lse) over all keys, dS = P * (dP - rowsum(dO * O)) needs of
the other part nothing but lse and O (FlashAttention-2, Dao 2023, section 3.1.2; over parts as in
Ring Attention, Liu et al. 2023).

On CUDA: FlexAttention, with a block mask made from the layout.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from learner.shared_prefix.layout import Call, Layout

NAME = "deepintuit_shared_prefix"

_BLOCK = 128  # FlexAttention's own default

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def use_shared_prefix(vlm: Any) -> None:
    """Let the text model of a transformers VLM attend by layout; its vision tower stays as it is.

    A call without a layout attends as before, by SDPA.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)  # None (no mask) for an unpadded causal row
    vlm.set_attn_implementation({"text_config": NAME})


def layout_keywords(layout: Layout, device: torch.device) -> dict[str, Any]:
    """Keyword arguments of a model's forward call that reach :func:`attend`."""
    if device.type == "cpu":
        return {"layout": layout}
    return {"layout": layout, "block_mask": block_mask(layout, device)}


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    layout: Layout | None = None,
    block_mask: BlockMask | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: [1, heads, L, d] -> [1, L, heads, d]."""
    if layout is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **rest
        )
    assert dropout == 0, "attention dropout would make shared prefix differ from the naive layout"
    if block_mask is None:
        out = _SharedPrefix.apply(  # type: ignore[no-untyped-call]
            query, key, value, layout.calls, scaling
        )
    else:
        out = _compiled_flex()(
            query, key, value, block_mask=block_mask, scale=scaling, enable_gqa=True
        )
    return out.transpose(1, 2), None


class _SharedPrefix(torch.autograd.Function):
    """Attention of a packed row on CPU. H query heads share K key heads."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        query: Float[Tensor, "1 H L D"],
        key: Float[Tensor, "1 K L D"],
        value: Float[Tensor, "1 K L D"],
        calls: Sequence[Call],
        scaling: float,
    ) -> Float[Tensor, "1 H L D"]:
        out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
        out = out.transpose(1, 2)  # places before heads in memory, as the next layer reads it
        lse = query.new_empty(query.shape[:3], dtype=_accumulated(query.dtype))
        done = 0
        for (start, end), keys, causal in calls:
            on = slice(*keys)
            part, part_lse = _flash(
                query[:, :, start:end], key[:, :, on], value[:, :, on], 0.0, causal, scale=scaling
            )
            here = (slice(None), slice(None), slice(start, end))
            if start >= done:
                out[here], lse[here] = part, part_lse
                done = end
            else:  # a response on itself, after all of its group on the prompt
                out[here], lse[here] = _merge(out[here], lse[here], part, part_lse)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.calls, ctx.scaling = calls, scaling  # type: ignore[attr-defined]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        grads = [torch.zeros_like(tensor) for tensor in (query, key, value)]
        for queries, keys, causal in ctx.calls:
            at, on = slice(*queries), slice(*keys)
            gradients = _flash_backward(
                grad_out[:, :, at],
                query[:, :, at],
                key[:, :, on],
                value[:, :, on],
                out[:, :, at],
                lse[:, :, at],
                0.0,
                causal,
                scale=ctx.scaling,
            )
            for grad, part, where in zip(grads, gradients, (at, on, on), strict=True):
                grad[:, :, where] += part
        return (*grads, None, None)


def _merge(
    first: Tensor, first_lse: Tensor, second: Tensor, second_lse: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention over the keys of two parts from that over each."""
    lse = torch.logaddexp(first_lse, second_lse)
    weights = [(part - lse).exp()[..., None] for part in (first_lse, second_lse)]
    return first * weights[0] + second * weights[1], lse


def _accumulated(dtype: torch.dtype) -> torch.dtype:
    """The precision in which kernels keep log-sum-exps."""
    return torch.promote_types(dtype, torch.float32)


def block_mask(layout: Layout, device: torch.device | str) -> BlockMask:
    """FlexAttention's block mask of a layout: which blocks to visit, and which of them need the
    mask.

    Made from the layout's intervals; no [L, L] tensor exists.
    """
    seen = torch.from_numpy(layout.seen_in_blocks(_BLOCK))
    whole = seen == _BLOCK**2
    some = (seen > 0) & ~whole
    group, end_of_prompt, own = torch.from_numpy(layout.sight).to(device)

    return BlockMask.from_kv_blocks(
        *_listed(some, device),
        *_listed(whole, device),
        BLOCK_SIZE=_BLOCK,
        # a lambda: the tests' jaxtyping hook wraps functions, which torch.compile cannot trace
        mask_mod=lambda _batch, _head, query, key: (
            (key <= query)
            & ((key >= own[query]) | ((key >= group[query]) & (key < end_of_prompt[query])))
        ),
        seq_lengths=(layout.num_tokens, layout.num_tokens),
    )


def _listed(blocks: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Per block of queries: how many blocks of keys are marked, and their numbers first."""
    order = blocks.int().argsort(dim=1, descending=True, stable=True).int()
    return blocks.sum(1).int()[None, None].to(device), order[None, None].contiguous().to(device)


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention)
