"""Synthetic segments and tokenizers. (No test file.)"""

import numpy as np
import torch

from video.semantic_tokens.config import SemanticTokensConfig
from video.semantic_tokens.description import TokenizerDescription
from video.semantic_tokens.tokenizer import SemanticTokenizer, TokenizerNetwork

PLACES, WIDTH = 4, 6


def config(**values: object) -> SemanticTokensConfig:
    return SemanticTokensConfig.model_validate(
        {"num_codes": 8, "dim": 5, "hidden": 16, "spatial": 2} | values
    )


def tokenizer(seed: int = 0, tower: str = "tower", **values: object) -> SemanticTokenizer:
    """A tokenizer of random weights."""
    settings = config(**values)
    torch.manual_seed(seed)
    names = tuple(f"name {n}" for n in range(settings.num_codes))
    return SemanticTokenizer(
        TokenizerNetwork(PLACES, WIDTH, settings),
        torch.randn(settings.num_codes, WIDTH),
        TokenizerDescription(
            version="",
            tower=tower,
            places=PLACES,
            width=WIDTH,
            names=names,
            nearest=tuple((name, "other") for name in names),
            config=settings,
        ),
    )


def segments(length: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.randn(length, PLACES, WIDTH, generator=torch.Generator().manual_seed(seed))


def arrays(*lengths: int) -> list[np.ndarray]:
    return [segments(length, seed).numpy() for seed, length in enumerate(lengths)]
