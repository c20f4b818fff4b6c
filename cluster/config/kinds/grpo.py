"""Stages of GRPO."""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from cluster.config.clip_selection import ClipSelection, faults_of
from cluster.config.kinds.clip_input import ClipInputConfig
from cluster.config.kinds.stage import Stage
from cluster.config.stage_work import StageWork
from cluster.config.stages import GrpoConfig
from cluster.config.validation import ANSWER_METRICS
from rollout.config import RolloutConfig
from wire.errors import UserError
from wire.types import Sample


class GrpoStage(Stage, GrpoConfig, ClipInputConfig):
    """GRPO on groups of traces that the rollout workers write."""

    command: ClassVar[str] = "grpo"
    section: ClassVar[str] = "grpo"
    answer_metrics: ClassVar[tuple[str, ...]] = ANSWER_METRICS
    kind: Literal["grpo"] = "grpo"
    clips: ClipSelection = ClipSelection()
    """The clips to ask about."""

    @property
    def leaves_policy(self) -> bool:
        """The policy of its last step."""
        return True

    @property
    def num_versions(self) -> int:
        """The one that it starts from, one per step, and the best once more if it goes back."""
        return self.num_steps + 1 + self.validation.restore_best

    @property
    def kept_checkpoints(self) -> int:
        """The last and the best ones."""
        return self.keep_last + self.keep_best + self.validation.restore_best

    def describe(self) -> str:
        """Its settings in words."""
        other = "" if self.clips == ClipSelection() else f" on clips with {self.clips}"
        return f"GRPO{other}, the answer it writes{self.in_words}"

    def data_faults(self, samples: Sequence[Sample]) -> Iterator[UserError]:
        """Clips to ask about."""
        yield from faults_of(self.clips, samples)

    def work(self, samples: Sequence[Sample] | None, rollout: RolloutConfig) -> StageWork:
        """Groups that dynamic sampling asks again are not counted."""
        clips = None if samples is None else len(self.clips.of(samples))
        groups = self.num_steps * self.groups_per_step
        rollouts = groups * rollout.group_size
        return StageWork(
            clips=clips,
            epochs=groups / clips if clips else None,
            groups=groups,
            rollouts=rollouts,
            examples=rollouts,
            updates=self.num_steps * self.updates_per_step,
            steps=self.num_steps,
            saves=sum(self.saves_at(step) for step in range(1, self.num_steps + 1)),
            validations=self.validation.num_validations(self.num_steps),
        )
