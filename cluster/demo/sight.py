"""The vision tower on many equal clips at once, and the heads that teach it to see.

transformers runs the attention of each temporal patch in a Python loop; equally sized clips can go
through as one batch, which on a CPU is several times faster and gives the same numbers.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cluster.demo.events import EVENTS


def see(visual: Any, pixels: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Video tokens of equal clips: ``[clips, patches, values] -> [clips, tokens, width]``.

    Holds where a frame fits one attention window, as the demo's clips do.
    """
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
        apply_rotary_pos_emb_vision,
        get_vision_position_ids,
    )

    clips, (steps, height, width) = len(pixels), grid
    assert max(height, width) * visual.patch_size <= visual.window_size, "frame wider than a window"
    first = (
        visual.patch_embed.proj
    )  # a convolution over whole patches: a matrix product, but slower
    hidden = F.linear(pixels.reshape(-1, pixels.shape[-1]), first.weight.flatten(1), first.bias)
    hidden = hidden.view(clips * steps, height * width, -1)
    places = get_vision_position_ids(torch.tensor([[1, height, width]]), visual.spatial_merge_size)
    cos, sin = visual.rotary_pos_emb(hidden, places)
    for block in visual.blocks:
        attention = block.attn
        normed = block.norm1(hidden)
        q, k, v = attention.qkv(normed).unflatten(-1, (3, attention.num_heads, -1)).unbind(2)
        q, k = apply_rotary_pos_emb_vision(q, k, cos, sin)
        mixed = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=attention.scaling
        )
        hidden = hidden + attention.proj(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + block.mlp(block.norm2(hidden))
    merged: Tensor = visual.merger(hidden.reshape(-1, hidden.shape[-1]))
    return merged.view(clips, -1, merged.shape[-1])


class SightHeads(nn.Module):
    """Heads that predict a temporal patch's event and the shape's place from its video tokens.

    The position is asked of each token alone, so that every token carries it to the language part.
    """

    def __init__(self, width: int, tokens_per_step: int) -> None:
        super().__init__()
        self._tokens = tokens_per_step
        self._event = nn.Linear(width * tokens_per_step, len(EVENTS))
        self._place = nn.Linear(width, 6)

    def loss(self, tokens: Tensor, events: Tensor, track: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and event accuracy. ``events`` [clips, steps]; ``track`` [clips, frames, 3]."""
        steps = tokens.unflatten(1, (-1, self._tokens))
        logits = self._event(steps.flatten(2))
        first, second = track.unflatten(1, (-1, 2)).unbind(2)
        # A step is about a tenth of the picture: scaled up, or the loss would hardly ask for it.
        wanted = torch.cat([first, (second - first) * 8], -1)[:, :, None]
        place = F.smooth_l1_loss(self._place(steps), wanted.expand(-1, -1, self._tokens, -1))
        loss = F.cross_entropy(logits.flatten(0, 1), events.flatten()) + 3 * place
        return loss, (logits.argmax(-1) == events).float().mean()
