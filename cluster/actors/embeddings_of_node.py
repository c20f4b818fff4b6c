"""Embeddings of clips that the engines and the learner ranks of a node share: the learner's store,
as engines use it.

    engine's tower -> [tokens, (1 + deepstack layers) x width] <-> SeenClip, under the learner's key
"""

from pathlib import Path

import torch
from torch import Tensor

from cluster.config.recipe import RunConfig
from learner.model.embedding_cache import embedding_key
from learner.model.embedding_store import RECENT_BYTES, EmbeddingStore, SeenClip
from learner.shared_prefix.clip_features import ClipFeatures
from video.processor import ProcessedClip
from wire.types import Prompt

_ENGINES_RECENT_BYTES = 2**28


def open_store(config: RunConfig, folder: Path, recent_bytes: int = RECENT_BYTES) -> EmbeddingStore:
    """The store of a node, beside its clips in ``folder``; ``recent_bytes``: of them in memory."""
    max_bytes = int(config.learner.embedding_cache_max_gb * 2**30)
    return EmbeddingStore(folder / "embeddings", max_bytes, recent_bytes=recent_bytes)


class EmbeddingsOfNode:
    """rollout's SharedEmbeddings on the store of a node."""

    def __init__(self, store: EmbeddingStore, tower: str, width: int) -> None:
        """``tower``: names the tower in the learner's keys; ``width``: of the text model."""
        self._store, self._tower, self._width = store, tower, width

    @classmethod
    def open(
        cls, config: RunConfig, folder: Path, tower: str, model_dir: Path
    ) -> "EmbeddingsOfNode":
        """Of the node where this process runs."""
        from transformers import AutoConfig

        width = AutoConfig.from_pretrained(model_dir).get_text_config().hidden_size
        return cls(open_store(config, folder, _ENGINES_RECENT_BYTES), tower, width)

    def find(self, prompt: Prompt) -> Tensor | None:
        """Embeddings of a prompt's clip; None if the tower has to run."""
        seen = self._store.get(embedding_key(prompt, self._tower))
        if seen is None:
            return None
        return torch.cat((seen.features.embeds, *seen.features.deepstack), dim=1)

    def keep(self, prompt: Prompt, clip: ProcessedClip, embeddings: Tensor) -> None:
        """Keep what the engine's tower made of a prompt's clip."""
        embeds, *deepstack = (part.contiguous() for part in embeddings.split(self._width, dim=1))
        seen = SeenClip(
            key=embedding_key(prompt, self._tower),
            features=ClipFeatures(embeds, tuple(deepstack)),
            grid_thw=clip.grid_thw,
            seconds_per_grid=clip.seconds_per_grid,
        )
        self._store.put(seen)
