"""What the vision tower makes of clips, as a value: computed with the batch, or brought along."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pixels:
    """Patches of C clips, one clip after another, as the vision tower takes them."""

    values: Float[Tensor, "P D"]
    grid_thw: Int[Tensor, "C 3"]

    def to(self, device: torch.device | str) -> "Pixels":
        """The same values where the model is."""
        values = self.values.to(device, non_blocking=True)
        return Pixels(values, self.grid_thw.to(device, non_blocking=True))


@dataclass(frozen=True, slots=True)
class ClipFeatures:
    """The V merged patches of one or more clips, in their order."""

    embeds: Float[Tensor, "V H"]
    """Take the place of the video tokens' embeddings."""
    deepstack: tuple[Float[Tensor, "V H"], ...] = ()
    """Qwen3-VL: added to the hidden states after the first layers of the text model."""

    @classmethod
    def join(cls, parts: Sequence["ClipFeatures"]) -> "ClipFeatures":
        """Of clips one after another; of none: no patch."""
        if not parts:
            return cls(torch.empty(0, 0))
        layers = zip(*(part.deepstack for part in parts), strict=True)
        embeds = torch.cat([part.embeds for part in parts])
        return cls(embeds, tuple(torch.cat(layer) for layer in layers))

    def split(self, sizes: Sequence[int]) -> list["ClipFeatures"]:
        """The inverse of :meth:`join`; ``sizes``: merged patches of each clip. Copies, so that one
        clip does not keep the others in memory."""
        columns = [tensor.split(list(sizes)) for tensor in (self.embeds, *self.deepstack)]
        clips = zip(*columns, strict=True)
        return [
            ClipFeatures(embeds.clone(), tuple(x.clone() for x in rest)) for embeds, *rest in clips
        ]

    def at(self, patches: Tensor) -> "ClipFeatures":
        """Of the patches with these indices, in this order, as often as they occur."""
        return ClipFeatures(self.embeds[patches], tuple(layer[patches] for layer in self.deepstack))

    def to(self, device: torch.device | str) -> "ClipFeatures":
        """The same values where the model is."""
        layers = tuple(layer.to(device, non_blocking=True) for layer in self.deepstack)
        return ClipFeatures(self.embeds.to(device, non_blocking=True), layers)
