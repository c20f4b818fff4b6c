"""Limits of a GRPO step: traces too old to be trained, and groups that it may lack.

    groups of a step -> refused, if the fleet failed too many -> traces within max_staleness -> rows

The buffer bounds staleness when places are reserved (cluster/buffer.py); here each trace is held
against the bound once more when it is trained, whatever brought it: a trace that is too old is left
out, its siblings are trained.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster.config.fleet import RolloutFailureConfig
from cluster.config.recipe import RunConfig
from cluster.config.stages import GrpoConfig
from cluster.loop import DynamicSampling, StepGroups
from learner.objective.credit import has_signal
from reward.stats import refuse_too_many_failures
from wire.errors import TooManyFailures
from wire.types import Completion, TraceGroup

_MOST_TAKEN = 2
"""Times ``groups_per_step`` that a step takes at most to replace dropped groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    """Limits of the steps of one training.

    Example:
        StepLimits(max_staleness=1, attempt=0, groups_per_step=8, max_failure_frac=0.2,
                   failure=RolloutFailureConfig(min_step_batch_fraction=0.75))
    """

    max_staleness: int
    attempt: int
    """Of the run. What earlier attempts wrote has been chosen by its version when the run was
    resumed (cluster/resume/archived_groups.py)."""
    groups_per_step: int
    max_failure_frac: float
    failure: RolloutFailureConfig

    @classmethod
    def of(cls, config: RunConfig, grpo: GrpoConfig, attempt: int) -> "StepLimits":
        """Limits of a recipe's training."""
        return cls(
            max_staleness=grpo.max_staleness,
            attempt=attempt,
            groups_per_step=grpo.groups_per_step,
            max_failure_frac=config.reward.max_failure_frac,
            failure=config.rollout_failure,
        )

    def refuse(self, taken: StepGroups) -> None:
        """Raise TooManyFailures if too many scores failed, or if the step lacks more groups that
        the fleet dropped than it may."""
        refuse_too_many_failures(taken.all, self.max_failure_frac)
        dropped = [group for group in taken.all if group.is_dropped]
        good = sum(not group.is_dropped for group in taken.trained)
        lacking = min(len(dropped), self.groups_per_step - good)
        share = self.failure.min_step_batch_fraction
        least = 1 - self.max_failure_frac if share is None else share
        needed = math.ceil(least * self.groups_per_step - 1e-9)
        if lacking <= self.groups_per_step - needed:
            return
        first = dropped[0].failures[0]
        limit = (
            f"reward.max_failure_frac={self.max_failure_frac:g}"
            if share is None
            else f"rollout_failure.min_step_batch_fraction={share:g}"
        )
        raise TooManyFailures(
            f"{len(dropped)} groups of a step of {self.groups_per_step} could not be written, and "
            f"it needs {needed} ({limit}); the first: {first.kind.value} of {first.culprit}: "
            f"{first.reason}"
        )

    def fresh(
        self, groups: Sequence[TraceGroup], trained_from: int
    ) -> tuple[list[TraceGroup], int]:
        """Groups without the traces that are more than ``max_staleness`` versions older than the
        weights ``trained_from`` that a step updates; and the number of these traces."""
        kept, num_stale = [], 0
        for group in groups:
            traces = tuple(t for t in group.traces if self._is_fresh(t.completion, trained_from))
            num_stale += len(group.traces) - len(traces)
            if traces or not group.traces:  # all stale: nothing is left to train
                kept.append(replace(group, traces=traces) if traces else group)
        return kept, num_stale

    def _is_fresh(self, completion: Completion, trained_from: int) -> bool:
        oldest = completion.policy_version
        return oldest.attempt != self.attempt or trained_from - oldest.step <= self.max_staleness


def replacing_of(grpo: GrpoConfig, failure: RolloutFailureConfig) -> DynamicSampling | None:
    """Which groups a step replaces by others: those without signal (dynamic sampling), or those
    that the fleet dropped (``on_dropped``); None: it trains what it takes."""
    if grpo.filter_groups.enable:  # a dropped group has no signal
        return DynamicSampling(
            has_signal=lambda group: has_signal(group, grpo.loss),
            max_groups=grpo.filter_groups.max_num_gen_batches * grpo.groups_per_step,
        )
    if failure.on_dropped == "replace":
        return DynamicSampling(
            has_signal=lambda group: not group.is_dropped,
            max_groups=_MOST_TAKEN * grpo.groups_per_step,
        )
    return None
