"""Context of a built-in reward: its input beside completion and label. Plain values, no Ray.

Sample + Completions of one group -> a RewardContext per completion -> f(text, label, context)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wire.labels import LabelSet


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardContext:
    """Context of a completion: its group, its clip, its task.

    Example:
        RewardContext(labels=labels, extra={"severity": 2}, texts=("<think>...", "<think>..."),
                      index=1, num_tokens=312, is_truncated=False, max_response_length=2048,
                      video="clips/7.mp4")
    """

    labels: LabelSet
    """The task's labels."""
    extra: Mapping[str, Any]
    """Further manifest columns of the sample."""
    texts: tuple[str, ...]
    """All completions of the group, in order, this one included."""
    index: int
    """Index in ``texts`` of the completion that is being scored."""
    num_tokens: int
    """Sampled tokens of this completion."""
    is_truncated: bool
    """Whether the token limit cut it."""
    max_response_length: int | None
    """The token limit; None where the caller has none."""
    video: str
    """Path of the clip, as the sample names it (it may end in ``#view=...``)."""
