"""Settings of the stages by kind: cold start, rationales, GRPO, evaluation."""

import re
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from calibrate.config import CalibrateConfig
from cluster.config.validation import PREFIX, Mode, ValidatedConfig, mode_of
from learner.config import GrpoLossConfig, LoraConfig, OptimConfig
from rollout.rationales.leak import LEAK_PATTERNS
from wire.config import Config
from wire.types import Split

KEEP_LAST = 2
"""Checkpoints kept in supervised training: the last, and the one before in case it is damaged."""


def num_updates(num_rows: int, epochs: int, batch_size: int) -> int:
    """Number of updates of a supervised training; the last batch of an epoch may be smaller."""
    return epochs * -(-num_rows // batch_size)


class TrainedConfig(Config):
    """A training with an optimiser of its own."""

    @field_validator("optim", mode="before", check_fields=False)
    @classmethod
    def _keep_defaults(cls, values: Any) -> Any:
        """A stage's own defaults stay where a recipe sets only some keys of its optimiser."""
        default = cls.model_fields["optim"].default.model_dump()
        return {**default, **values} if isinstance(values, dict) else values


class ColdstartConfig(TrainedConfig, ValidatedConfig):
    """Stage 1: supervised fine-tuning on the train samples that have a trace."""

    epochs: int = Field(default=5, ge=0)
    """Passes over the traces; 0 leaves the stage out: GRPO starts from the base model."""
    batch_size: int = Field(default=64, ge=1)
    """Traces per update, over all ranks."""
    save_every: int | None = Field(default=None, ge=1)
    """Updates between checkpoints; none: one after each epoch."""
    optim: OptimConfig = OptimConfig(learning_rate=2e-5, decay="linear")
    """DeepIntuit: 2e-5, linear decay."""
    lora: LoraConfig | None = None
    """Train additions of low rank instead of the weights, in this stage alone; none: as
    ``learner.lora``. Engines get the model with them added in."""


class RationaleFilters(Config):
    """Which rationales are not kept. Each is counted whether it is on or off; an empty text is
    never kept."""

    contradiction: bool = True
    """Not those that end with another label than the clip's."""
    parse: bool = True
    """Not those that end with no label (captions name none, and are not asked to)."""
    leak: bool = True
    """Not those that speak of the label that they were given (``leak_patterns``)."""
    truncated: bool = True
    """Not those that the token limit cut."""
    duplicate: bool = True
    """Each text of a clip once."""


class RationalesConfig(Config):
    """Rationales: a policy explains the labels of clips, for an ``sft`` stage to learn from (RB-FT,
    arXiv 2511.15923)."""

    num_rationales: int = Field(default=1, ge=1, le=64)
    """Rationales per clip (RB-FT: 1)."""
    temperature: float = Field(default=1.0, gt=0, le=2)
    """Sampling temperature."""
    max_length: int | None = Field(default=None, ge=1)
    """Most tokens of one; not set: ``rollout.max_response_length``, which it may not exceed."""
    filters: RationaleFilters = RationaleFilters()
    """Which ones are not kept."""
    closing: str = Field(default="Classification", min_length=1, pattern=r"^[^\n:]*\w[^\n:]*$")
    """Word before the colon of the line that names the label, as the prompt asks for it; an
    ``<answer>`` block is read, too."""
    leak_patterns: tuple[str, ...] = LEAK_PATTERNS
    """Regular expressions of phrases that speak of the given label; case is ignored."""
    min_kept_frac: float = Field(default=0.1, ge=0, le=1)
    """Share of the rationales that must be kept; with fewer the run ends."""

    @field_validator("leak_patterns")
    @classmethod
    def _are_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
            if re.search(pattern, ""):
                raise ValueError(f"{pattern!r} fits every text; write the phrase that it looks for")
        return patterns


class FilterGroupsConfig(Config):
    """Dynamic sampling (DAPO): a group whose rewards are all equal teaches nothing, and another
    clip is asked in its stead."""

    enable: bool = False
    """Whether to."""
    max_num_gen_batches: int = Field(default=10, ge=1)
    """A step asks at most this times ``groups_per_step`` clips, and then trains on the groups with
    signal that it has."""


class GrpoConfig(TrainedConfig, ValidatedConfig):
    """Stage 2: GRPO on the train samples."""

    num_steps: int = Field(default=240, ge=1)
    """Training steps; each consumes ``groups_per_step`` groups."""
    groups_per_step: int = Field(default=64, ge=1)
    """Clips per step (verl: train_batch_size)."""
    groups_per_update: int | None = Field(default=None, ge=1)
    """Clips per optimizer update (verl: ppo_mini_batch_size); none: one update per step."""
    ppo_epochs: int = Field(default=1, ge=1)
    """Passes of a step over its groups, of ``groups_per_update`` each."""
    filter_groups: FilterGroupsConfig = FilterGroupsConfig()
    """Dynamic sampling."""
    class_balanced: bool = False
    """Ask every label equally often, however many train clips it has."""
    max_staleness: int = Field(default=0, ge=0)
    """Versions that a trace may lag behind the weights it trains; 0: synchronous, on-policy."""
    save_every: int = Field(default=50, ge=1)
    """Steps between checkpoints; the last step is always saved."""
    keep_last: int = Field(default=2, ge=1)
    """Checkpoints kept, the newest ones (verl: max_actor_ckpt_to_keep)."""
    keep_best: int = Field(default=1, ge=0)
    """Checkpoints kept beside them, the best ones. They also stay when the stage has ended with
    other weights."""
    keep_best_by: str = "reward/mean"
    """The metric by which they are the best: a metric of training, by its mean over the steps since
    the checkpoint before; or one of validation, such as ``val/accuracy``: every validated step is
    then saved, too."""
    keep_best_mode: Mode | None = None
    """Whether its highest or its lowest value is the best; not set: as the metric's name says."""
    optim: OptimConfig = OptimConfig(learning_rate=1e-6, warmup_steps=10)
    """DeepIntuit: 1e-6, 10 steps of warm-up, weight decay 0.1, gradient norm 1."""
    loss: GrpoLossConfig = GrpoLossConfig()
    """What is optimised."""

    @property
    def best_mode(self) -> Mode:
        """Whether the highest or the lowest value of ``keep_best_by`` is the best."""
        return self.keep_best_mode or mode_of(self.keep_best_by)

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint follows a step."""
        by_validation = self.validation.restore_best or self.keep_best_by.startswith(PREFIX)
        validated = by_validation and self.validation.is_due(step, self.num_steps)
        return step % self.save_every == 0 or step == self.num_steps or validated

    @property
    def updates_per_step(self) -> int:
        """Optimizer updates made with the groups of one step."""
        return self.ppo_epochs * self.updates_per_epoch

    @property
    def updates_per_epoch(self) -> int:
        """Those of one pass over the groups."""
        return self.groups_per_step // (self.groups_per_update or self.groups_per_step)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        update = self.groups_per_update
        if update is not None and self.groups_per_step % update:
            raise ValueError(
                f"groups_per_step={self.groups_per_step} is no multiple of "
                f"groups_per_update={update}; change one of them"
            )
        return self


class CalibrationConfig(CalibrateConfig, ValidatedConfig):
    """Stage 3: k traces per clip from the refined policy, then verdict and head. Validation is that
    of the verdict."""

    lora: LoraConfig | None = None
    """Train the verdict as additions of low rank to the policy, whatever ``learner.lora`` says: one
    engine then serves both; none: as ``learner.lora``."""


class EvaluateConfig(Config):
    """How each stage is measured."""

    split: Split = Split.TEST
    """The clips measured on."""
    temperature: float = Field(default=0.01, gt=0)
    """One trace per clip at this temperature (DeepIntuit: 0.01)."""
