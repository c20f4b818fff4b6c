"""Settings of validation: what is measured on val clips while a stage trains, how often, and what
follows from it.

    [validate] -> [coldstart.validate] | [grpo.validate] | [calibrate.validate] -> a stage's own
"""

import re
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, field_validator

from cluster.config.migration.hint import hint
from wire.config import Config, merge, validate
from wire.errors import ConfigError
from wire.types import Split

Mode = Literal["max", "min"]
"""Whether the highest or the lowest value of a metric is the best."""

PREFIX = "val/"
"""What the names of all metrics of a validation begin with."""
ANSWER_METRICS = (
    "val/accuracy",
    "val/macro_f1",
    "val/balanced_accuracy",
    "val/unparsed_frac",
    "val/failed_frac",
    "val/reward/mean",
    "val/response_length/mean",
    "val/truncated_frac",
)
"""Metrics of written answers; one per reward part beside them."""
LABEL_METRICS = ("val/accuracy", "val/macro_f1", "val/balanced_accuracy", "val/nll")
"""Metrics of labels that are asked without a trace, or by a verdict."""

_SECTIONS = ("coldstart", "grpo", "calibrate")
_LOWER = re.compile(
    r"(.*/)?(nll|kl|kl_ref|ece|brier|policy_loss|grad_norm|update_skipped)|.*frac(_zero_std)?"
    r"|(parity|timing_s|staleness|rollout_probs_diff|guard)/.*"
)


class ValidateConfig(Config):
    """Validation while a stage trains: every so many steps the policy is asked about the same val
    clips. Off until ``every`` is set. ``[coldstart.validate]``, ``[grpo.validate]`` and
    ``[calibrate.validate]`` override ``[validate]`` for the stages of their kind."""

    every: int = Field(default=0, ge=0)
    """Steps (GRPO) or updates (cold start, verdict) between validations (verl: test_freq); 0: none.
    The last step is always validated."""
    num_clips: int = Field(default=128, ge=1)
    """Clips asked about, at most: the same ones in every validation, chosen by ``seed``, with each
    label's share in the split."""
    before_training: bool = True
    """Validate the weights that the stage starts from, too (verl: val_before_train)."""
    split: Split = Split.VAL
    """The clips to choose from. Never ``test``: who chooses by it has no test left."""
    metric: str = "val/accuracy"
    """The metric by which the best weights are chosen, and by which training stops early."""
    mode: Mode | None = None
    """Whether its highest or its lowest value is the best; not set: as the metric's name says."""
    patience: int | None = Field(default=None, ge=1)
    """Early stop: validations in a row without a better value after which the stage ends; not set:
    it trains to its end."""
    min_delta: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """What a value must be better by to count for ``patience``."""
    restore_best: bool = False
    """Whether the stage leaves the weights of its best validation (TRL: load_best_model_at_end);
    off: the last. Every validated step is then saved, too."""

    @field_validator("split")
    @classmethod
    def _never_test(cls, split: Split) -> Split:
        if split is Split.TEST:
            raise ValueError(
                "weights that were chosen by test clips cannot be measured on them; give rows of "
                "their own as split 'val'"
            )
        return split

    @property
    def is_on(self) -> bool:
        """Whether anything is validated."""
        return self.every > 0

    @property
    def best_mode(self) -> Mode:
        """Whether the highest or the lowest value is the best."""
        return self.mode or mode_of(self.metric)

    def is_due(self, step: int, last: int) -> bool:
        """Whether the weights after ``step`` are validated; ``last``: the training's last step."""
        if not self.is_on:
            return False
        return self.before_training if step == 0 else step % self.every == 0 or step == last

    def num_validations(self, last: int) -> int:
        """Number of validations of a training without an early stop."""
        return self.before_training + -(-last // self.every) if self.is_on else 0


class ValidatedConfig(Config):
    """A training that can be validated."""

    validation: ValidateConfig = Field(default=ValidateConfig(), alias="validate")
    """What differs from ``[validate]``."""


def mode_of(metric: str) -> Mode:
    """Whether the highest or the lowest value of a metric is the best, by its name."""
    return "min" if _LOWER.fullmatch(metric) else "max"


def with_inherited(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe's plain values where each section of a training has what ``[validate]`` sets and it
    does not set itself. Raises ConfigError for a mistake in ``[validate]``."""
    common = recipe.get("validate")
    if not isinstance(common, dict):
        return recipe
    validate(ValidateConfig, common, "validate", hint)  # or each section would repeat its faults
    inherited = {}
    for name in _SECTIONS:
        section = recipe.get(name, {})
        own = section.get("validate", {}) if isinstance(section, dict) else None
        if isinstance(own, dict):
            inherited[name] = {**section, "validate": merge(common, own)}
    return {**recipe, **inherited}


def refuse_unused(common: ValidateConfig, trainings: Iterable[ValidateConfig]) -> None:
    """Raise ConfigError if validation is to stop a training, or to choose its weights, and none is
    validated."""
    every = list(trainings)
    asked = [c for c in (common, *every) if c.patience is not None or c.restore_best]
    if asked and not any(config.is_on for config in every):
        name = "restore_best" if asked[0].restore_best else "patience"
        raise ConfigError(
            f"validate.{name} is set, but validate.every = 0: nothing is validated; set every to a "
            "number of steps"
        )
