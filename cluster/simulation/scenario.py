"""Scenario of a simulation: the recipe's settings, timings, faults, the size of the fleet."""

from dataclasses import dataclass, replace
from typing import Any, Self

from cluster.config.controls import grpo_of
from cluster.config.fleet import FleetHealthConfig, RolloutFailureConfig
from cluster.config.recipe import RunConfig
from cluster.config.stages import GrpoConfig
from cluster.simulation.faults import FaultRates
from cluster.simulation.timings import Lengths, Timings
from cluster.stages.grpo.step_limits import StepLimits
from rollout.config import RolloutConfig

_NO_FAULTS = FaultRates()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is simulated."""

    rollout: RolloutConfig
    grpo: GrpoConfig
    health: FleetHealthConfig
    failure: RolloutFailureConfig
    max_failure_frac: float
    transfer: str
    num_ranks: int
    max_learner_restarts: int
    """Heals of the learner, after which a run ends."""
    start_timeout_s: float
    timings: Timings
    faults: FaultRates = _NO_FAULTS
    num_steps: int = 20
    workers_per_node: int = 8
    seed: int = 0

    @classmethod
    def of(cls, config: RunConfig, timings: Timings, **more: Any) -> Self:
        """The scenario of a recipe: as many workers as it has."""
        return cls(
            rollout=config.rollout,
            grpo=grpo_of(config),
            health=config.fleet_health,
            failure=config.rollout_failure,
            max_failure_frac=config.reward.max_failure_frac,
            transfer=config.transfer.kind,
            num_ranks=config.learner.num_ranks,
            max_learner_restarts=config.learner.max_restarts,
            start_timeout_s=config.cluster.start_timeout_s,
            timings=timings,
            **more,
        )

    @property
    def workers(self) -> int:
        """Workers at the start."""
        return self.rollout.num_workers

    @property
    def most_workers(self) -> int:
        """Workers that there is ever room for, and that the recipe allows."""
        return max([self.workers, *(change.workers for change in self.faults.changes)])

    @property
    def weights_sends(self) -> float:
        """How often new weights go through the network of the learner's node: of the nodes with
        engines, one is the learner's."""
        if self.timings.weights_sends is not None:
            return self.timings.weights_sends
        others = -(-self.workers // self.workers_per_node) - 1
        return {"object_store": others, "nccl": min(1, others)}.get(self.transfer, 0)

    @property
    def limits(self) -> StepLimits:
        """What a step may lack, and how old its traces may be."""
        return StepLimits(
            max_staleness=self.grpo.max_staleness,
            attempt=0,
            groups_per_step=self.grpo.groups_per_step,
            max_failure_frac=self.max_failure_frac,
            failure=self.failure,
        )

    @property
    def lengths(self) -> Lengths:
        """Lengths of answers."""
        return Lengths(
            mean=self.timings.response_length,
            sigma=self.timings.response_length_sigma,
            longest=self.rollout.max_response_length,
            seed=self.seed,
        )

    def with_timings(self, timings: Timings) -> Self:
        """The same with other timings."""
        return replace(self, timings=timings)

    def with_workers(self, count: int) -> Self:
        """The same with another number of workers."""
        update = {"num_workers": count, "min_workers": None, "max_workers": None}
        return replace(self, rollout=self.rollout.model_copy(update=update))

    def with_grpo(self, **settings: Any) -> Self:
        """The same with other settings of GRPO."""
        return replace(self, grpo=self.grpo.model_copy(update=settings))

    def without_faults(self) -> Self:
        """The same without faults, and with as much room as at the start."""
        return replace(self, faults=_NO_FAULTS)
