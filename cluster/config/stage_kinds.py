"""Kinds of stages: what each needs of the data, whether it leaves a policy, how much work it is.

    [[stages]] -> EvaluateStage | SftStage | GrpoStage | CalibrateStage -> Chain (chain.py)

A kind is declared here, once; cluster/stages/stage_functions.py says how it runs. A control arm is
a stage off the main line (controls.py).
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from calibrate.splits import ClipParts
from cluster.config.clip_selection import ClipSelection, error_of, faults_of
from cluster.config.stage_work import StageWork
from cluster.config.stages import (
    KEEP_LAST,
    CalibrationConfig,
    ColdstartConfig,
    EvaluateConfig,
    GrpoConfig,
    num_updates,
)
from cluster.config.validation import (
    ANSWER_METRICS,
    LABEL_METRICS,
    ValidateConfig,
    ValidatedConfig,
)
from rollout.config import RolloutConfig
from video.address import View
from wire.config import Config
from wire.errors import DataError, UserError
from wire.types import Sample, Split

COLDSTART_TITLE = "stage 1: supervised on the teacher's traces"
_LABELS = {  # in charts
    "base": "Base model",
    "coldstart": "Cold start",
    "grpo": "GRPO",
    "calibrated": "Calibrated verdict",
    "head": "Linear head",
    "classifier": "Published classifier",
}


class Stage(Config):
    """One stage of a chain."""

    command: ClassVar[str]
    """The command that runs the stages of this kind alone."""
    section: ClassVar[str]
    """The table of the recipe that gives what the stage does not set itself."""
    answer_metrics: ClassVar[tuple[str, ...]] = ()
    """Metrics of a validation by written answers, where it trains a policy that writes."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """What it is called in commands, metrics and the run directory."""
    kind: str
    """What it does; chooses this table."""
    from_: str | None = Field(default=None, alias="from")
    """The earlier stage whose policy it starts from, or "base", the recipe's model; not set: the
    last stage before it that leaves a policy."""
    title: str = ""
    """What tables and the report say of it; not set: its kind and settings."""

    @property
    def text(self) -> str:
        """A line about it for tables."""
        return self.title or self.describe()

    def describe(self) -> str:
        """Its kind and settings in words."""
        return self.kind

    @property
    def label(self) -> str:
        """Its name for charts."""
        return label_of(self.name)

    @property
    def leaves_policy(self) -> bool:
        """Whether a later stage can start from what it leaves."""
        return False

    @property
    def loads_engines(self) -> bool:
        """Whether the rollout engines must hold the weights that it starts from."""
        return True

    @property
    def asks_labels(self) -> bool:
        """Whether a model is asked for labels by their tokens."""
        return False

    @property
    def kept_checkpoints(self) -> int:
        """Checkpoints that it keeps at once."""
        return 0

    @property
    def validated(self) -> ValidateConfig:
        """How it is validated while it trains; off, if it trains nothing."""
        if isinstance(self, ValidatedConfig) and self.validation_metrics:
            return self.validation
        return ValidateConfig()

    @property
    def validation_metrics(self) -> tuple[str, ...]:
        """Metrics that its validations log, but those of reward parts; empty: it trains nothing."""
        return LABEL_METRICS if self.asks_labels else self.answer_metrics

    @property
    def num_versions(self) -> int:
        """Versions of the policy that it serves: the last is what it leaves, and of several the
        first is what it starts from."""
        return 0

    def data_faults(self, samples: Sequence[Sample]) -> Iterator[UserError]:
        """What the manifest lacks for it."""
        yield from ()

    def work(self, samples: Sequence[Sample] | None, rollout: RolloutConfig) -> StageWork:
        """How much it does; ``samples``: the manifest's, None without it."""
        return StageWork()


class EvaluateStage(Stage, EvaluateConfig):
    """Measures a policy: the answer that it writes after reasoning, or the label asked directly."""

    command: ClassVar[str] = "evaluate"
    section: ClassVar[str] = "evaluate"
    kind: Literal["evaluate"] = "evaluate"
    answer: Literal["trace", "label"] = "trace"
    """``trace``: the answer at the end of a written trace; ``label``: the label asked directly,
    scored over all labels, without a trace."""
    view: View | None = None
    """What is shown instead of the clips; not set: the clips."""

    @property
    def loads_engines(self) -> bool:
        """Labels are scored by the learner."""
        return not self.asks_labels

    @property
    def asks_labels(self) -> bool:
        """Instead of a trace."""
        return self.answer == "label"

    def describe(self) -> str:
        """Its settings in words."""
        asked = "the answer it writes" if self.answer == "trace" else "the label asked directly"
        shown = f", {self.view.value} clips" if self.view else ""
        return f"{asked} on {self.split.value}{shown}"

    def data_faults(self, samples: Sequence[Sample]) -> Iterator[UserError]:
        """It measures on its split."""
        yield from faults_of(ClipSelection(splits=(self.split,)), samples)


class SftStage(Stage, ColdstartConfig):
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
        return f"supervised {on[self.data]}"

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
        updates = _updates(examples, self.epochs, self.batch_size)
        return StageWork(
            clips=clips,
            epochs=self.epochs,
            groups=groups,
            rollouts=rollouts,
            examples=examples,
            updates=updates,
            validations=None if updates is None else self.validation.num_validations(updates),
        )


class GrpoStage(Stage, GrpoConfig):
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
        return f"GRPO{other}, the answer it writes"

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


class CalibrateStage(Stage, CalibrationConfig):
    """Classifiers fitted to the policy's own traces: verdict and head."""

    command: ClassVar[str] = "calibrate"
    section: ClassVar[str] = "calibrate"
    kind: Literal["calibrate"] = "calibrate"

    @property
    def head_name(self) -> str:
        """Name of the head's predictions and figures."""
        return "head" if self.name == "calibrated" else f"{self.name}_head"

    @property
    def classifier_name(self) -> str:
        """Name of the published classifier's predictions and figures."""
        return "classifier" if self.name == "calibrated" else f"{self.name}_classifier"

    @property
    def also_predicted(self) -> tuple[str, str]:
        """Names of the predictions of its head and of its published classifier."""
        return self.head_name, self.classifier_name

    @property
    def asks_labels(self) -> bool:
        """The verdict does, the head does not."""
        return "verdict" in self.methods

    @property
    def kept_checkpoints(self) -> int:
        """Those of the verdict's fine-tuning."""
        return KEEP_LAST + self.validation.restore_best if "verdict" in self.methods else 0

    @property
    def clips(self) -> ClipSelection:
        """Clips to learn from."""
        return ClipSelection(splits=(Split(self.split),))

    def describe(self) -> str:
        """Its settings in words."""
        return f"{' and '.join(self.methods)} on its own traces"

    def data_faults(self, samples: Sequence[Sample]) -> Iterator[UserError]:
        """Clips, of two labels for a head."""
        faults = list(faults_of(self.clips, samples))
        yield from faults
        labels = set() if faults else {sample.label for sample in self.clips.of(samples)}
        if "head" in self.methods and len(labels) == 1:
            what = f"all samples with split={self.split!r} have the label {labels}"
            yield DataError(f"{what}; a head needs two labels or more")

    def work(self, samples: Sequence[Sample] | None, rollout: RolloutConfig) -> StageWork:
        """The verdict's updates; a head takes none. Test clips are those of every measurement."""
        parts = None if samples is None else ClipParts.of(samples, self)
        traces = None if parts is None else len(parts.learned) * self.num_traces
        epochs = self.epochs if self.asks_labels else 0
        updates = _updates(traces, epochs, self.batch_size)
        return StageWork(
            clips=None if parts is None else len(parts.learned),
            epochs=epochs,
            groups=None if parts is None else parts.num_groups(self),
            rollouts=None if parts is None else parts.num_rollouts(self),
            examples=traces,
            updates=updates,
            validations=None if updates is None else self.validated.num_validations(updates),
        )


STAGE_KINDS: dict[str, type[Stage]] = {
    "evaluate": EvaluateStage,
    "sft": SftStage,
    "grpo": GrpoStage,
    "calibrate": CalibrateStage,
}
"""Kinds that ``[[stages]]`` may name."""


def label_of(name: str) -> str:
    """Label in charts of a stage, a head or a published classifier."""
    return _LABELS.get(name, name.replace("_", " "))


def _updates(examples: int | None, epochs: int, batch_size: int) -> int | None:
    return None if examples is None else num_updates(examples, epochs, batch_size)
