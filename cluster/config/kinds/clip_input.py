"""Input of a stage's policy: the video of each clip, or its narrative in semantic tokens."""

from typing import Literal, Self

from pydantic import model_validator

from wire.config import Config


class ClipInputConfig(Config):
    """Input of a policy: videos, or narratives in their place."""

    input: Literal["video", "tokens"] = "video"
    """``video``: its video tokens; ``tokens``: in their place the narrative that a stage of kind
    ``semantic_tokens`` made of it."""
    tokens: str | None = None
    """The stage whose tokenizer makes the narratives; not set: the last one of kind
    ``semantic_tokens`` before it."""

    @model_validator(mode="after")
    def _names_what_it_uses(self) -> Self:
        if self.tokens is not None and self.input != "tokens":
            raise ValueError(
                f'tokens = {self.tokens!r} is for input = "tokens", and the input is the video; '
                "set input, or leave tokens out"
            )
        return self

    @property
    def in_words(self) -> str:
        """The input in words that follow others; empty for the video."""
        return ", clips as narratives" if self.input == "tokens" else ""
