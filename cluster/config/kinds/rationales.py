"""Stages that let a policy write rationales, or captions, of labelled clips: RB-FT's first step."""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from cluster.config.clip_selection import ClipSelection, faults_of
from cluster.config.kinds.stage import Stage
from cluster.config.stage_work import StageWork
from cluster.config.stages import RationalesConfig
from rollout.config import RolloutConfig
from rollout.prompt import PromptKind, RationalePrompt
from wire.errors import UserError
from wire.types import Sample


class RationalesStage(Stage, RationalesConfig):
    """Writes rationales, or captions, of labelled clips with a policy; filters and keeps them."""

    command: ClassVar[str] = "rationales"
    section: ClassVar[str] = "rationales"
    kind: Literal["rationales"] = "rationales"
    task: Literal["rationale", "caption"] = "rationale"
    """``rationale``: why the label fits (``prompts.rationale``); ``caption``: what the clip shows
    (``prompts.caption``), which names no label."""
    hint: bool = True
    """Whether the prompt names the true label (``prompts.hint``), as in RB-FT's released data; that
    of captions never does."""
    clips: ClipSelection = ClipSelection()
    """The clips to write about."""

    @property
    def ask(self) -> PromptKind:
        """The kind of prompt that it asks with."""
        return "caption" if self.task == "caption" else RationalePrompt(hint=self.hint)

    @property
    def names_label(self) -> bool:
        """Whether its prompt names the true label."""
        return self.task == "rationale" and self.hint

    def describe(self) -> str:
        """Its settings in words."""
        if self.task == "caption":
            return "captions that the policy writes"
        how = "with the label as a hint" if self.hint else "without a hint"
        return f"rationales that the policy writes, {how}"

    def data_faults(self, samples: Sequence[Sample]) -> Iterator[UserError]:
        """Clips to write about."""
        yield from faults_of(self.clips, samples)

    def work(self, samples: Sequence[Sample] | None, rollout: RolloutConfig) -> StageWork:
        """It writes, and trains nothing."""
        if samples is None:
            return StageWork(clips=None, groups=None, rollouts=None)
        clips = len(self.clips.of(samples))
        return StageWork(
            clips=clips,
            groups=clips,
            rollouts=clips * self.num_rationales,
            max_length=self.max_length,
        )
