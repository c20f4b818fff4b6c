"""Inference cost of an answer: mean tokens and seconds per clip, as a stage measured them.

    prompts, answers of the clips of a measurement -> TokenCount -> InferenceCost -> done.json
        -> `deepintuit compare`

Seconds are wall-clock seconds of the whole measurement divided by its clips: at the concurrency and
on the machine of the run.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from wire.types import Prompt, TraceGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceCost:
    """Cost of one answer, the mean over clips.

    Example:
        InferenceCost(prompt_tokens=96.0, video_tokens=24.0, generated_tokens=31.5,
                      scored_tokens=0.0, seconds=0.02)
    """

    prompt_tokens: float
    """Of all prompts about a clip, its video tokens among them."""
    video_tokens: float
    """Of these, tokens that stand for the clip, the two that enclose it among them."""
    generated_tokens: float
    """Written one after another: what an answer takes time for."""
    scored_tokens: float
    """Tokens of label codes, scored in the pass over their prompt."""
    seconds: float | None
    """None: some of the answers were there already."""

    def __add__(self, other: Self) -> "InferenceCost":
        """Cost of both, where a method does one after the other."""
        known = self.seconds is not None and other.seconds is not None
        return InferenceCost(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            video_tokens=self.video_tokens + other.video_tokens,
            generated_tokens=self.generated_tokens + other.generated_tokens,
            scored_tokens=self.scored_tokens + other.scored_tokens,
            seconds=(self.seconds or 0) + (other.seconds or 0) if known else None,
        )

    @classmethod
    def of_result(cls, result: dict[str, Any]) -> "InferenceCost | None":
        """The cost in a stage's done.json; None where it was not measured."""
        values = result.get("inference")
        return cls(**values) if values else None

    def price(self, per_hour: float) -> float | None:
        """Price of 1,000 clips on machines that cost ``per_hour``; None without seconds."""
        return None if self.seconds is None else self.seconds * 1000 / 3600 * per_hour


class TokenCount:
    """Token count of a measurement's prompts and answers."""

    def __init__(self, around_clip: Callable[[Prompt], Sequence[int]]) -> None:
        """``around_clip``: a prompt's tokens but for its clip (``Renderer.around_clip``)."""
        self._around_clip = around_clip
        self._num_prompt = self._num_video = self._num_generated = self._num_scored = 0

    def add(self, prompt: Prompt, *, generated: int = 0, scored: int = 0) -> None:
        """Count one prompt, and the tokens that answered it."""
        length = len(prompt.token_ids)
        self._num_prompt += length
        self._num_video += length - len(self._around_clip(prompt))
        self._num_generated += generated
        self._num_scored += scored

    def add_groups(self, groups: Iterable[TraceGroup]) -> None:
        """Count groups, one at a time in memory."""
        for group in groups:
            self.add_group(group)

    def counted(self, groups: Iterable[TraceGroup]) -> Iterator[TraceGroup]:
        """The groups, each counted as it is taken."""
        for group in groups:
            self.add_group(group)
            yield group

    def add_group(self, group: TraceGroup) -> None:
        """Count a group's prompt and all its traces; nothing of a failed clip."""
        if group.prompt is not None and group.traces:
            lengths = [len(trace.completion.token_ids) for trace in group.traces]
            self.add(group.prompt, generated=sum(lengths))

    def cost(self, num_clips: int, seconds: float | None) -> InferenceCost | None:
        """Cost per clip; ``seconds``: of all. None without clips."""
        if not num_clips:
            return None
        return InferenceCost(
            prompt_tokens=self._num_prompt / num_clips,
            video_tokens=self._num_video / num_clips,
            generated_tokens=self._num_generated / num_clips,
            scored_tokens=self._num_scored / num_clips,
            seconds=None if seconds is None else seconds / num_clips,
        )
