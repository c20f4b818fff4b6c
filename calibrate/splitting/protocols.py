"""Protocol of a text encoder: phrases of labels become vectors; a language or vision-language model
is behind it (calibrate/splitting/text_encoders.py)."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class TextEncoder(Protocol):
    """Encodes short phrases; the same phrase gives the same vector every time."""

    @property
    def name(self) -> str:
        """Name and version of the model, as provenance keeps it."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[N, E], one row per text in their order, *not* normalised: retrieval normalises,
        alignment does not."""
        ...
