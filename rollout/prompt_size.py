"""Sizes of prompts in tokens, and what makes a long one long.

messages + clip -> PromptSize -> "the prompt has 10568 tokens, 26 of them video, ..." + remedy
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSize:
    """Tokens of a prompt.

    Example:
        PromptSize(total=10568, video=26, labels=10480, data=0)
    """

    total: int
    video: int
    labels: int
    """Names and definitions of the labels, where the prompt shows them."""
    data: int
    """Side text and columns of the sample."""

    def __str__(self) -> str:
        parts = [f"{self.total} tokens", f"{self.video} of them video"]
        if self.labels > self.video:
            parts.append(f"{self.labels} labels and their definitions")
        if self.data > self.video:
            parts.append(f"{self.data} side text or columns")
        return ", ".join(parts)

    @property
    def remedy(self) -> str:
        """What makes the largest part of the prompt shorter."""
        shorten = {
            "lower video.max_frames or video.max_pixels": self.video,
            "shorten the labels' definitions": self.labels,
            "shorten the side texts and columns that it shows": self.data,
        }
        largest = max(shorten, key=lambda remedy: shorten[remedy])
        own = self.total - self.video - self.labels - self.data
        return largest if own < shorten[largest] else "shorten the texts of [prompts]"
