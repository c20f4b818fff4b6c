"""Hidden states -> logprob and entropy of response tokens, a tile of logits at a time.

    hidden [N, H], head's weight [V, H], target [N] -> logprob [N], entropy [N]

Full logits [N, V] never exist, neither forward nor backward: the forward pass keeps a running
maximum and sums over tiles of the vocabulary (online softmax, Milakov and Gimelshein 2018), the
backward pass makes each tile again from the saved log-sum-exp. Sums are float32 whatever the
weights are; logits are rounded to the weights' precision first, as the rollout engine's are.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_PLACES, _WORDS = 2048, 8192  # a tile of logits: 64 MiB in float32


class TokenScores(NamedTuple):
    """Logprob and entropy of each response token of a batch. Both carry exact gradients; an unused
    one costs nothing."""

    logp: Float[Tensor, " N"]
    entropy: Float[Tensor, " N"]
    """Entropy of the distribution that the token was drawn from, in nats."""


class TokenHead(nn.Module):
    """The output head, applied to the hidden states that predict a response token.

    One call of this module per batch, however many tiles it has: under ZeRO-3 every module call
    gathers its weights from all ranks, and ranks whose batches differ in tiles would wait for each
    other forever. The weight is this module's own too, so that this call gathers it; not by one of
    DeepSpeed's leaf modules, which lose what a tied embedding adds to its gradient.
    """

    def __init__(self, lm_head: nn.Linear, places: int = _PLACES, words: int = _WORDS) -> None:
        super().__init__()
        name = type(lm_head).__name__
        assert name == "Linear", f"the head is a {name}, not a plain Linear"
        assert lm_head.bias is None, "the output head has a bias"
        self.weight: nn.Parameter = lm_head.weight
        self._tile: tuple[int, int] = (places, words)

    def forward(
        self,
        hidden: Float[Tensor, "N H"],
        target: Int[Tensor, " N"],
        temperature: Float[Tensor, " N"] | None = None,
    ) -> TokenScores:
        """Logprob of each target, and entropy, of logits that are divided by ``temperature``; none:
        by 1."""
        scores = _Scores.apply(  # type: ignore[no-untyped-call]
            hidden, self.weight, target, temperature, *self._tile
        )
        return TokenScores(*scores)


class _Scores(torch.autograd.Function):
    """Autograd function of the tiled scores. With l the logits, p their softmax, H its entropy:

    d logp / dl = onehot(target) - p        d H / dl = -p * (log p + H)
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "N H"],
        weight: Float[Tensor, "V H"],
        target: Int[Tensor, " N"],
        temperature: Float[Tensor, " N"] | None,
        places: int,
        words: int,
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        scale = None if temperature is None else 1 / temperature
        parts = [
            _online(hidden[on], weight, target[on], None if scale is None else scale[on], words)
            for on in _tiles(len(hidden), places)
        ]
        logp, entropy, lse = (torch.cat(column) for column in zip(*parts, strict=True))
        ctx.save_for_backward(hidden, weight, target, lse, entropy, scale)
        ctx.tile = places, words
        ctx.set_materialize_grads(False)
        return logp, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_logp: Tensor | None, of_entropy: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, target, lse, entropy, scale = ctx.saved_tensors
        (places, words), (for_hidden, for_weight, *_) = ctx.tile, ctx.needs_input_grad
        grad_hidden = torch.zeros_like(hidden, dtype=lse.dtype)
        grad_weight = torch.zeros_like(weight) if for_weight else None
        for first in range(0, len(weight), words):
            tile = weight[first : first + words]
            grad_tile = torch.zeros_like(tile, dtype=lse.dtype)
            for on in _tiles(len(hidden), places):
                of_place = None if scale is None else scale[on]
                grad = _grad_of_logits(
                    _logits(hidden[on], tile, of_place).sub_(lse[on, None]),
                    _inside(target[on], first, len(tile)),
                    None if of_logp is None else of_logp[on],
                    None if of_entropy is None else (of_entropy[on], entropy[on]),
                )
                if of_place is not None:
                    grad *= of_place[:, None]
                grad = grad.to(tile.dtype)
                if for_hidden:
                    _add_product(grad_hidden[on], grad, tile)
                if for_weight:
                    _add_product(grad_tile, grad.T, hidden[on])
            if grad_weight is not None:
                grad_weight[first : first + words] = grad_tile
        of_hidden = grad_hidden.to(hidden.dtype) if for_hidden else None
        return of_hidden, grad_weight, None, None, None, None


def _tiles(count: int, size: int) -> list[slice]:
    """Consecutive places, ``size`` at a time; one tile of none where there are none."""
    return [slice(start, start + size) for start in range(0, max(count, 1), size)]


def _logits(
    hidden: Float[Tensor, "C H"], tile: Float[Tensor, "W H"], scale: Float[Tensor, " C"] | None
) -> Float[Tensor, "C W"]:
    """Logits of some words, at the temperature of each place, in float32."""
    logits = (hidden @ tile.T).to(torch.promote_types(hidden.dtype, torch.float32))
    return logits if scale is None else logits.mul_(scale[:, None])


def _online(
    hidden: Float[Tensor, "C H"],
    weight: Float[Tensor, "V H"],
    target: Int[Tensor, " C"],
    scale: Float[Tensor, " C"] | None,
    words: int,
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Logprob, entropy and log-sum-exp, over tiles of the vocabulary."""
    kind = torch.promote_types(hidden.dtype, torch.float32)
    top = hidden.new_full(target.shape, float("-inf"), dtype=kind)
    total, moment, chosen = (torch.zeros_like(top) for _ in range(3))  # sums of e^l and of l e^l
    for first in range(0, len(weight), words):
        logits = _logits(hidden, weight[first : first + words], scale)
        row, column = _inside(target, first, logits.shape[1])
        chosen[row] = logits[row, column]
        higher = torch.maximum(top, logits.amax(-1))
        shrink = (top - higher).exp()
        masses = (logits - higher[:, None]).exp_()
        total = total * shrink + masses.sum(-1)
        moment = moment * shrink + masses.mul_(logits).sum(-1)
        top = higher
    lse = top + total.log()
    return chosen - lse, lse - moment / total, lse


def _grad_of_logits(
    log_p: Float[Tensor, "C W"],
    wanted: tuple[Int[Tensor, " F"], Int[Tensor, " F"]],
    of_logp: Float[Tensor, " C"] | None,
    entropy: tuple[Float[Tensor, " C"], Float[Tensor, " C"]] | None,
) -> Float[Tensor, "C W"]:
    """Gradient of one tile of logits. ``wanted``: rows whose target lies in it, and where;
    ``entropy``: the gradient of the entropy, and its value."""
    p = log_p.exp()
    if entropy is None:
        assert of_logp is not None, "a backward pass without a gradient"
        grad = p.mul_(-of_logp[:, None])
    else:
        of_entropy, value = entropy
        both = of_entropy * value if of_logp is None else of_entropy * value + of_logp
        grad = log_p.mul_(of_entropy[:, None]).add_(both[:, None]).mul_(p).neg_()
    if of_logp is not None:
        grad[wanted] += of_logp[wanted[0]]
    return grad


def _inside(
    target: Int[Tensor, " C"], first: int, count: int
) -> tuple[Int[Tensor, " F"], Int[Tensor, " F"]]:
    """Rows whose target is one of the words ``first .. first + count``, and their columns."""
    column = target - first
    (row,) = torch.where((column >= 0) & (column < count))
    return row, column[row]


def _add_product(total: Float[Tensor, "A B"], left: Tensor, right: Tensor) -> None:
    """``total += left @ right``, in float32 whatever precision the factors have."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
