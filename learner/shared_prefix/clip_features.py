"""Vision-tower features of a batch's clips: computed in the forward pass, or read from the
embedding cache."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device. Only copies to a GPU are left to run on: the GPU's later work waits for
    them by itself, while the CPU would read bytes that have not arrived."""
    return tensor.to(device, non_blocking=torch.device(device).type != "cpu")


@dataclass(frozen=True, slots=True)
class Pixels:
    """Patches of C clips, one clip after another, as the vision tower takes them."""

    values: Float[Tensor, "P D"]
    grid_thw: Int[Tensor, "C 3"]

    def to(self, device: torch.device | str) -> "Pixels":
        """Move the pixels to the model's device."""
        return Pixels(moved(self.values, device), moved(self.grid_thw, device))


@dataclass(frozen=True, slots=True)
class ClipFeatures:
    """Vision-tower features of one or more clips: V merged patches, in the clips' order."""

    embeds: Float[Tensor, "V H"]
    """Embeddings that take the place of the video tokens'."""
    deepstack: tuple[Float[Tensor, "V H"], ...] = ()
    """Qwen3-VL: features added to the hidden states after the first layers of the text model."""

    @classmethod
    def join(cls, parts: Sequence["ClipFeatures"]) -> "ClipFeatures":
        """Concatenate the features of clips; without clips, no patch."""
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
        """Features of the patches with these indices, in this order, as often as they occur."""
        return ClipFeatures(self.embeds[patches], tuple(layer[patches] for layer in self.deepstack))

    def to(self, device: torch.device | str) -> "ClipFeatures":
        """Move the features to a device; on the CPU they have arrived when this returns."""
        layers = tuple(moved(layer, device) for layer in self.deepstack)
        return ClipFeatures(moved(self.embeds, device), layers)
