"""Values of a training's validations: which is the best, how many since it have been no better.

Pure, and all that an early stop is decided by: a resumed training decides as one that nothing
interrupted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.config.validation import Mode, ValidateConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """One validation, as a checkpoint remembers it.

    Example:
        Validated(step=40, figures={"val/accuracy": 0.71})
    """

    step: int
    """Step or update whose weights were validated; 0: those that the stage started from."""
    figures: Mapping[str, float]
    """The metrics that something is decided by, where they are finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best value of a metric, and the step it was measured at."""

    step: int
    value: float


def best_of_validations(validations: Sequence[Validated], metric: str, mode: Mode) -> Best | None:
    """The best of the validations; of equal ones the newest. None: none has the metric."""
    known = [
        Best(step=one.step, value=one.figures[metric])
        for one in validations
        if math.isfinite(one.figures.get(metric, math.nan))
    ]
    sign = 1 if mode == "max" else -1
    return max(known, key=lambda one: (sign * one.value, one.step), default=None)


def num_without_gain(validations: Sequence[Validated], config: ValidateConfig) -> int:
    """Number of validations since the last one that was better by more than ``min_delta``; one
    without the metric is no gain."""
    sign, best, since = (1 if config.best_mode == "max" else -1), -math.inf, 0
    for one in validations:
        value = sign * one.figures.get(config.metric, math.nan)
        if value > best + config.min_delta or (best == -math.inf and math.isfinite(value)):
            best, since = value, 0
        else:
            since += 1
    return since
