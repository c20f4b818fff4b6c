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
MANIFEST = "manifest"
"""As ``rationales``: the traces of the manifest, written by a teacher."""

_SETTINGS_OF = {
    "own": ("num_groups", "class_balanced"),
    "rationales": ("rationales", "hint", "num_rationales", "as_trace"),
}
"""Settings that hold for one kind of data alone."""


class SftStage(Stage, ColdstartConfig, ClipInputConfig):
    """Supervised fine-tuning: on teacher traces, on labels, on the policy's own right traces, or on
    rationales."""

    command: ClassVar[str] = "coldstart"
    section: ClassVar[str] = "coldstart"
    answer_metrics: ClassVar[tuple[str, ...]] = (*ANSWER_METRICS, "val/nll")
    kind: Literal["sft"] = "sft"
    data: Literal["teacher", "labels", "own", "rationales"] = "teacher"
    """``teacher``: the manifest's traces; ``labels``: the label alone, asked and measured without
    a trace; ``own``: traces that the policy writes here and that earn the full reward (rejection
    sampling; Yuan et al. 2023, arXiv 2308.01825); ``rationales``: what a ``rationales`` stage has
    kept, measured as ``labels`` (RB-FT, arXiv 2511.15923)."""
    rationales: str | None = None
    """The earlier stage whose rationales or captions are learned, or ``manifest``: the manifest's
    traces, as a teacher's rationales; not set: the last such stage before it."""
    hint: Literal["remove", "keep"] = "remove"
    """Whether the prompt of a rationale tells the label while it is learned; however it was
    written. RB-FT's release keeps it; without it the rationale has to come from the clip."""
    num_rationales: int | None = Field(default=None, ge=1)
    """Rationales learned of each clip, the first that were kept; not set: all."""
    with_labels: bool = False
    """Learn the label of every clip in the same run, each as one more example, and be measured by
    it: with rationales both stages of RB-FT in one; with the teacher's traces one policy that gives
    the label when asked for it, and an explanation when asked for a trace."""
    as_trace: bool = False
    """Learn each rationale as the reasoning of a trace that ends with the clip's label, asked and
    measured as traces are: a cold start for GRPO without a teacher."""
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
    def _has_settings_of_its_data_alone(self) -> Self:
        for data, names in _SETTINGS_OF.items():
            given = [n for n in names if getattr(self, n) != type(self).model_fields[n].default]
            if self.data != data and given:
                raise ValueError(
                    f'{given[0]} is for data = "{data}", not {self.data!r}; leave it out'
                )
        return self

    @model_validator(mode="after")
    def _has_texts_beside_labels(self) -> Self:
        if self.with_labels and self.data not in ("teacher", "rationales"):
            raise ValueError(
                f'with_labels adds labels to data = "teacher" or "rationales", not to '
                f"{self.data!r}; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _is_one_kind_of_prompt(self) -> Self:
        if self.as_trace and self.rationales == MANIFEST:
            raise ValueError(f'rationales = "{MANIFEST}" are traces already; set data = "teacher"')
        other = "with_labels = true" if self.with_labels else "hint = 'keep'"
        if self.as_trace and (self.with_labels or self.hint == "keep"):
            raise ValueError(
                f"as_trace = true learns them in the prompt of traces, and {other} is for that of "
                "rationales; leave one of them out"
            )
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
        """Where it is taught labels, now or by a later stage."""
        if self.data == "rationales":
            return not self.as_trace
        return self.data == "labels" or self.with_labels

    @property
    def learns_traces(self) -> bool:
        """Whether it learns from the traces of the manifest."""
        return self.data == "teacher" or self.rationales == MANIFEST

    @property
    def names_label(self) -> bool:
        """Whether its prompts name the true label."""
        return self.hint == "keep"

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
        if self.data != "rationales":
            also = " and on labels" if self.with_labels else ""
            return f"supervised {on[self.data]}{also}{self.in_words}"
        of = "the teacher's rationales" if self.rationales == MANIFEST else f"{self.rationales}"
        also = ", the label told" if self.hint == "keep" else ""
        also += " as traces" if self.as_trace else " and on labels" if self.with_labels else ""
        return f"supervised on {of}{also}{self.in_words}"

    def data_faults(self, samples: Sequence[Sample]) -> Iterator[UserError]:
        """Clips, and traces to learn from where it learns from a teacher."""
        faults = list(faults_of(self.clips, samples))
        yield from faults
        if self.learns_traces and not faults:
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
        """``own`` and ``rationales``: an upper bound, as if every trace earned the full reward and
        every rationale was kept."""
        groups = (self.num_groups or 0) if self.data == "own" else 0
        rollouts = groups * rollout.group_size
        learns_from = self.taught if self.learns_traces else self.clips.of
        clips = None if samples is None else len(learns_from(samples))
        examples = rollouts if self.data == "own" else clips
        if self.data in ("teacher", "rationales") and samples is not None and clips is not None:
            written = 1 if self.learns_traces else self.num_rationales or 1  # read_stage knows
            labels = len(self.clips.of(samples)) if self.with_labels else 0
            examples = clips * written + labels
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
