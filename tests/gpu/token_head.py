"""Output head by tiles against full logits, at the 151,936 words of Qwen's models.

Peak memory is that beyond the inputs: of the allocator on CUDA; on CPU, where none is counted, the
largest tensor that exists.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from learner.model.token_head import TokenHead
from tests.benchmarks.figures import Figure
from tests.gpu.setting import Setting, gap
from tests.learner.tensor_sizes import largest_tensor

_WORDS = 151_936
_LIMITS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""In bfloat16 logits are rounded to 8 bits, by sums in another order."""


def figures(setting: Setting) -> Iterator[Figure]:
    """Gaps of logprob, entropy and gradients, and memory, in both precisions."""
    for dtype in _LIMITS:
        yield from _in_precision(setting, dtype)


def _in_precision(setting: Setting, dtype: torch.dtype) -> Iterator[Figure]:
    places, width = (128, 32) if setting.small else (4096, 2048)
    name = f"token_head/{str(dtype).removeprefix('torch.')}"
    torch.manual_seed(0)
    lm_head = nn.Linear(width, _WORDS, bias=False, device=setting.device, dtype=dtype)
    nn.init.normal_(lm_head.weight, std=width**-0.5)
    hidden = torch.randn(places, width, device=setting.device).to(dtype).requires_grad_()
    target = torch.randint(_WORDS, (places,), device=setting.device)
    head = TokenHead(lm_head, places=64) if setting.small else TokenHead(lm_head)
    inputs = (hidden, lm_head.weight)
    ours, tiled = measured(lambda: head(hidden, target), inputs, setting)
    full, whole = measured(lambda: full_scores(hidden, lm_head, target), inputs, setting)
    parts = ("logprob", "entropy", "gradient_hidden", "gradient_weight")
    for part, one, other in zip(parts, ours, full, strict=True):
        yield Figure(f"{name}/{part}", gap(one, other), "gap", _LIMITS[dtype], "below")
    warm = torch.full((places,), 0.7, device=setting.device)
    hot = zip(
        with_gradients(lambda: head(hidden, target, warm), inputs),
        with_gradients(lambda: full_scores(hidden, lm_head, target, 0.7), inputs),
        strict=True,
    )
    away = max(gap(one, other) for one, other in hot)
    yield Figure(f"{name}/at_temperature_0.7", away, "gap", _LIMITS[dtype], "below")
    unit = "M numbers" if setting.small else "MiB"
    yield Figure(f"{name}/peak", tiled, unit)
    yield Figure(f"{name}/peak_of_full_logits", whole, unit)
    yield Figure(f"{name}/peak_to_full_logits", tiled / whole, "", 0.5, "below")


def full_scores(
    hidden: Tensor, lm_head: nn.Linear, target: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Logprob and entropy from all logits at once."""
    logp = (lm_head(hidden).float() / temperature).log_softmax(-1)
    return logp.gather(1, target[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


def measured(
    act: Callable[[], tuple[Tensor, Tensor]], inputs: tuple[Tensor, Tensor], setting: Setting
) -> tuple[list[Tensor], float]:
    """Values and gradients, and the memory that they took at most."""
    if setting.small:
        with largest_tensor() as largest:
            made = with_gradients(act, inputs)
        return made, largest.numel / 1e6
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    made = with_gradients(act, inputs)
    torch.cuda.synchronize()
    return made, (torch.cuda.max_memory_allocated() - before) / 2**20


def with_gradients(
    act: Callable[[], tuple[Tensor, Tensor]], inputs: tuple[Tensor, Tensor]
) -> list[Tensor]:
    logp, entropy = act()
    loss = -logp.mean() - 0.1 * entropy.mean()
    return [logp.detach(), entropy.detach(), *torch.autograd.grad(loss, inputs)]
