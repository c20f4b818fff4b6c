"""Protocol of the embeddings of clips that engines and learner share. Knows neither."""

from typing import TYPE_CHECKING, Protocol

from video.processor import ProcessedClip
from wire.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


class SharedEmbeddings(Protocol):
    """Embeddings that a frozen vision tower made of clips. cluster/actors/embeddings_of_node.py
    implements it."""

    def find(self, prompt: Prompt) -> "Tensor | None":
        """Embeddings of a prompt's clip, [video tokens, width] as the engine's tower returns them;
        None if the tower has to run."""

    def keep(self, prompt: Prompt, clip: ProcessedClip, embeddings: "Tensor") -> None:
        """Keep what the engine's tower made of a prompt's clip."""
