"""Small scenarios, whose times can be worked out by hand. (No test file.)"""

from typing import Any

from cluster.config.fleet import FleetHealthConfig, RolloutFailureConfig
from cluster.config.stages import GrpoConfig
from cluster.simulation.scenario import Scenario
from cluster.simulation.timings import Timings
from rollout.config import RolloutConfig

TIMINGS = Timings(
    decode_step_s=0.01,
    response_length=100,
    response_length_sigma=0.0,
    learner_s_per_step=10.0,
    load_weights_s=1.0,
    engine_start_s=5.0,
    learner_restart_s=30.0,
)
"""A group takes 1 s, an update 10 s, new weights 1 s."""


def scenario(*, workers: int = 1, timings: Timings = TIMINGS, **more: Any) -> Scenario:
    grpo = {"groups_per_step": 4, "num_steps": 100, "save_every": 1000} | more.pop("grpo", {})
    rollout = {"num_workers": workers, "group_size": 2, "max_concurrency": 1}
    rollout |= more.pop("rollout", {})
    values = {
        "health": FleetHealthConfig(),
        "failure": RolloutFailureConfig(),
        "max_failure_frac": 0.2,
        "transfer": "object_store",
        "num_ranks": 1,
        "max_learner_restarts": 1000,
        "start_timeout_s": 60.0,
        "num_steps": 6,
        "timings": timings,
    }
    return Scenario(rollout=RolloutConfig(**rollout), grpo=GrpoConfig(**grpo), **values | more)


def timed(**changes: float) -> Timings:
    return TIMINGS.model_copy(update=changes)
