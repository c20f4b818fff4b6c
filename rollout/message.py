"""Chat messages: their text, in parts, of which some are other people's.

    template + values (rollout/prompt_template.py) -> parts (ours | Foreign) -> Message
        -> (rollout/render.py) -> token ids

No part may become a control token of the chat. Our own text, and what a model wrote, may hold the
tags of a trace, which are tokens in some tokenizers; in other people's text they are only shown.
"""

from dataclasses import dataclass
from typing import Literal

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
"""Tags of a trace."""

Parts = tuple[str, ...]
"""Consecutive parts of a text."""


class Foreign(str):
    """Text that came with the data: of the labels, or side text and columns of a sample.

    Example:
        Foreign("- fall: ends on the ground", of="labels")
    """

    of: Literal["labels", "sample"]

    def __new__(cls, text: str, of: Literal["labels", "sample"] = "sample") -> "Foreign":
        """``of``: what it belongs to."""
        made = super().__new__(cls, text)
        made.of = of
        return made


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn; ``has_video`` puts the clip in front of the text.

    Example:
        Message("user", ("Labels:\\n", Foreign("- fall", of="labels")), has_video=True)
    """

    role: Literal["system", "user", "assistant"]
    parts: Parts
    has_video: bool = False

    @property
    def text(self) -> str:
        """The whole text, as a person reads it."""
        return "".join(self.parts)
