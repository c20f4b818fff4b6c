"""Segment encoder: the frozen tower's features of a clip become one vector per segment.

    features [V, H] -> pool_segments -> segments [T, S, H] -> encoder -> unit vectors [T, D]
                                                              decoder <-

A segment is a few temporal patches, averaged into S places. Encoder and decoder are small networks
of ours (docs/semantic-tokens.md); the tower itself never changes.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from video.semantic_tokens.config import SemanticTokensConfig
from wire.errors import DataError


def pool_segments(features: Tensor, grid: tuple[int, int, int], spatial: int, steps: int) -> Tensor:
    """Segments of a clip: ``[V, H] -> [T, S, H]``, float32, T = ceil(t / steps), S = spatial**2.

    ``grid``: (t, h, w) after the tower merged patches, so that V = t * h * w. Where a side has
    fewer patches than places, neighbouring places share them.
    """
    t, h, w = grid
    if features.ndim != 2 or len(features) != t * h * w or not len(features):
        raise ValueError(
            f"features of shape {tuple(features.shape)} do not fill the grid {grid}; expected "
            f"[{t * h * w}, width]: one row per merged patch"
        )
    planes = features.float().view(t, h, w, -1).permute(0, 3, 1, 2)
    places = F.adaptive_avg_pool2d(planes, spatial).flatten(2).transpose(1, 2)  # [t, S, H]
    return torch.stack([part.mean(0) for part in places.split(steps)])


def num_segments(temporal_patches: int, steps: int) -> int:
    """Number of segments of a clip with so many temporal patches."""
    return math.ceil(temporal_patches / steps)


class SegmentEncoder(nn.Module):
    """Encoder network: standardise, one hidden layer, neighbours if asked for, a unit vector."""

    mean: Tensor
    scale: Tensor

    def __init__(self, places: int, width: int, config: SemanticTokensConfig) -> None:
        """``places``: of a segment (S); ``width``: of the tower's features (H)."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(places * width))
        self.register_buffer("scale", torch.ones(places * width))
        self.inner = nn.Linear(places * width, config.hidden)
        self.neighbours = (
            nn.Conv1d(
                config.hidden,
                config.hidden,
                config.context,
                padding=config.context // 2,
                groups=config.hidden,
            )
            if config.context > 1
            else None
        )
        self.norm = nn.LayerNorm(config.hidden)
        self.out = nn.Linear(config.hidden, config.dim)

    def standardise(self, segments: Tensor) -> Tensor:
        """Standardised features ``[..., S, H] -> [..., S * H]``: mean 0 and variance 1 over the
        training segments."""
        return (segments.flatten(-2) - self.mean) / self.scale

    def restore(self, standardised: Tensor) -> Tensor:
        """Features of the tower's scale ``[..., S * H]``, the reverse of standardise without its
        shape."""
        return standardised * self.scale + self.mean

    def forward(self, standardised: Tensor, is_segment: Tensor) -> Tensor:
        """Unit vectors ``[B, T, S * H] -> [B, T, D]``; ``is_segment`` [B, T] is false where a
        shorter clip was padded."""
        hidden = F.gelu(self.inner(standardised)) * is_segment[..., None]
        if self.neighbours is not None:
            mixed = self.neighbours(hidden.transpose(1, 2)).transpose(1, 2)
            hidden = hidden + F.gelu(mixed)
        return F.normalize(self.out(self.norm(hidden)), dim=-1)


class SegmentDecoder(nn.Module):
    """Decoder network: recovers the standardised features of a segment from its vector."""

    def __init__(self, places: int, width: int, config: SemanticTokensConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(config.dim, config.hidden)
        self.out = nn.Linear(config.hidden, places * width)

    def forward(self, vectors: Tensor) -> Tensor:
        """Standardised features ``[..., D] -> [..., S * H]``."""
        features: Tensor = self.out(F.gelu(self.inner(vectors)))
        return features


def check_segments(segments: Tensor, places: int, width: int) -> None:
    """Raise DataError unless segments ``[T, S, H]`` have the tokenizer's places and width."""
    if segments.ndim != 3 or not len(segments) or tuple(segments.shape[1:]) != (places, width):
        raise DataError(
            f"segments of shape {tuple(segments.shape)}; the tokenizer expects at least one of "
            f"[{places}, {width}]: pool the features of its own model with its own spatial setting"
        )
