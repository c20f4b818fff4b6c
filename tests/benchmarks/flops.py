"""Floating-point operations of a training step over packed rows: the ideal that time is held to.

    Sizes of a model, Work of a batch -> Flops of forward and backward

A multiplication and an addition are two. Backward is counted as twice forward; what is computed
again to save memory is not counted (as in MFU, PaLM, Chowdhery et al. 2022, appendix B).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from learner.shared_prefix.layout import Layout


class Flops(NamedTuple):
    vision: float
    attention: float
    mlp: float
    """All other products of the text layers with weights too: queries, keys, values, outputs."""
    head: float

    @property
    def total(self) -> float:
        return sum(self)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Weights are those of matrices that every token (patch, merged patch) is multiplied by."""

    text_weights: int
    text_width: int
    """Query heads times their size, over all layers."""
    head_weights: int
    vision_weights: int
    vision_width: int
    merger_weights: int
    merge: int
    """Patches per merged patch."""

    @classmethod
    def of(cls, vlm: Any) -> "Sizes":
        text, visual = vlm.config.text_config, vlm.model.visual
        head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        vision = vlm.config.vision_config
        merger = _matrices(visual.merger)
        return cls(
            text_weights=_matrices(vlm.model.language_model.layers),
            text_width=text.num_hidden_layers * text.num_attention_heads * head_size,
            head_weights=vlm.lm_head.weight.numel(),
            vision_weights=_matrices(visual) - merger,
            vision_width=vision.depth * getattr(vision, "embed_dim", vision.hidden_size),
            merger_weights=merger,
            merge=vision.spatial_merge_size**2,
        )


@dataclass(frozen=True, kw_only=True)
class Work:
    tokens: int
    pairs: int
    """Of a token and one that it sees."""
    predicted: int
    patches: int
    patch_pairs: int
    """Of patches that see each other; full attention within a temporal patch."""

    @classmethod
    def of(cls, layout: Layout, grids: Sequence[Sequence[int]]) -> "Work":
        """``grids``: of every clip that the tower looks at, [t, h, w] in patches."""
        return cls(
            tokens=layout.num_tokens,
            pairs=sum(
                (b - a) * (b - a + 1) // 2 if causal else (b - a) * (d - c)
                for (a, b), (c, d), causal in layout.calls
            ),
            predicted=len(layout.predict_at),
            patches=sum(t * h * w for t, h, w in grids),
            patch_pairs=sum(t * (h * w) ** 2 for t, h, w in grids),
        )


def flops(sizes: Sizes, work: Work) -> Flops:
    """Of forward and backward, with a tower that is trained."""
    merged = work.patches // sizes.merge
    return Flops(
        vision=6.0 * (sizes.vision_weights * work.patches + sizes.merger_weights * merged)
        + 12.0 * sizes.vision_width * work.patch_pairs,
        attention=12.0 * sizes.text_width * work.pairs,
        mlp=6.0 * sizes.text_weights * work.tokens,
        head=6.0 * sizes.head_weights * work.predicted,
    )


def _matrices(module: nn.Module) -> int:
    """Weights of linear layers, and of convolutions that cover their input once."""
    kinds = (nn.Linear, nn.Conv3d)
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, kinds))
