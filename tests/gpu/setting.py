"""The device that a check runs on, and how large it may be there."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Setting:
    """``cuda``: sizes of real models. ``cpu``: the same code in small, within seconds."""

    device: str
    peak_tflops: float | None = None
    """Of the card in bfloat16, if the user gave it."""

    @property
    def small(self) -> bool:
        """Whether sizes are those of a machine without a card."""
        return self.device == "cpu"

    def wait(self) -> None:
        """Wait for the card."""
        if not self.small:
            import torch

            torch.cuda.synchronize()

    def seconds(self, act: Callable[[], object]) -> float:
        """Seconds of an act, the card's work included."""
        self.wait()
        start = time.perf_counter()
        act()
        self.wait()
        return time.perf_counter() - start


def gap(one: "Tensor", other: "Tensor") -> float:
    """Norm of the difference over the norm of ``other``."""
    one, other = one.detach().double(), other.detach().double()
    return float((one - other).norm() / other.norm())
