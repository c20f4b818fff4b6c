"""Stages of supervised fine-tuning."""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from cluster.config.clip_selection import ClipSelection, error_of, faults_of
from cluster.config.kinds.clip_input import ClipInputConfig
from cluster.config.kinds.stage import Stage, updates_of
from cluster.config.stage_work import StageWork
from cluster.config.stages import KEEP_LAST, ColdstartConfig
from cluster.config.validation import ANSWER_METRICS
from rollout.config import RolloutConfig
from wire.errors import DataError, UserError
from wire.types import Sample, Split

COLDSTART_TITLE = "stage 1: supervised on the teacher's traces"


class SftStage(Stage, ColdstartConfig, ClipInputConfig):
    """Supervised fine-tuning: on teacher traces, on labels, or on the policy's own right traces."""

    command: ClassVar[str] = "coldstart"
    section: ClassVar[str] = "coldstart"
    answer_metrics: ClassVar[tuple[str, ...]] = (*ANSWER_METRICS, "val/nll")
    kind: Literal["sft"] = "sft"
    data: Literal["teacher", "labels", "own"] = "teacher"
    """``teacher``: the manifest's traces; ``labels``: the label alone, asked and measured without
    a trace; ``own``: traces that the policy writes here and that earn the full reward (rejection
    sampling; Yuan et al. 2023, arXiv 2308.01825)."""
    epochs: int = Field(default=5, ge=1)
    """Passes over the examples."""
    num_groups: int | None = Field(default=None, ge=1)
    """Groups of ``rollout.group_size`` traces to choose from, over the clips in turn; ``own`` only;
    not set: as many as ``[grpo]`` asks (num_steps x groups_per_step)."""
    class_balanced: bool = False
    """Ask every label equally often; ``own`` only."""
    clips: ClipSelection = ClipSelection()
    """The clips to learn from."""
    split: Split | None = None
    """The clips measured on at its end; not set: ``evaluate.split``."""

    @model_validator(mode="after")
    def _own_settings(self) -> Self:
        given = [name for name in ("num_groups", "class_balanced") if getattr(self, name)]
        if self.data != "own" and given:
            raise ValueError(f'{given[0]} is for data = "own", not {self.data!r}; leave it out')
        return self

    @property
    def leaves_policy(self) -> bool:
        """A policy that answers as it was taught to."""
        return True

    @property
    def loads_engines(self) -> bool:
        """Only ``own`` writes traces before it trains."""
        return self.data == "own"

    @property
    def asks_labels(self) -> bool:
        """Where it is taught labels."""
        return self.data == "labels"

    @property
    def num_versions(self) -> int:
        """The one that it ends with."""
        return 1

    @property
    def kept_checkpoints(self) -> int:
        """The last, the one before it, and the best if it goes back to that."""
        return KEEP_LAST + self.validation.restore_best

    def describe(self) -> str:
        """Its settings in words."""
        on = {
            "teacher": "on the teacher's traces",
            "labels": "on labels alone",
            "own": "on its own traces with full reward",
        }
        return f"supervised {on[self.data]}{self.in_words}"

    def data_faults(self, samples: Sequence[Sample]) -> Iterator[UserError]:
        """Clips, and traces to learn from where it learns from a teacher."""
        faults = list(faults_of(self.clips, samples))
        yield from faults
        if self.data == "teacher" and not faults:
            yield from error_of(self.taught, samples)

    def taught(self, samples: Sequence[Sample]) -> list[Sample]:
        """Its clips that have a teacher's trace. Raises DataError if none has."""
        with_trace = [sample for sample in self.clips.of(samples) if sample.trace]
        if not with_trace:
            which = "train sample" if self.clips == ClipSelection() else f"sample with {self.clips}"
            is_default = self.title == COLDSTART_TITLE
            who = "the cold start" if is_default else f"stage {self.name}"
            how = " with coldstart.epochs = 0" if is_default else ""
            raise DataError(
                f"no {which} has a trace, and {who} learns from traces; "
                f"add a 'trace' column, or leave this stage out{how}"
            )
        return with_trace

    def work(self, samples: Sequence[Sample] | None, rollout: RolloutConfig) -> StageWork:
        """``own``: an upper bound, as if every trace earned the full reward."""
        groups = (self.num_groups or 0) if self.data == "own" else 0
        rollouts = groups * rollout.group_size
        learns_from = self.taught if self.data == "teacher" else self.clips.of
        clips = None if samples is None else len(learns_from(samples))
        examples = rollouts if self.data == "own" else clips
        updates = updates_of(examples, self.epochs, self.batch_size)
        return StageWork(
            clips=clips,
            epochs=self.epochs,
            groups=groups,
            rollouts=rollouts,
            examples=examples,
            updates=updates,
            validations=None if updates is None else self.validation.num_validations(updates),
        )
