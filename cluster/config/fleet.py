"""Settings of the cluster and of the fleet of rollout workers: health, failures, the watchdog."""

from typing import Literal, Self

from pydantic import Field, model_validator

from rollout.config import RolloutConfig
from wire.config import Config


class ClusterConfig(Config):
    """Where the workers run."""

    address: str | None = None
    """Ray's address; none: the cluster this process belongs to, or else a local Ray of its own."""
    start_timeout_s: float = Field(default=600.0, gt=0)
    """Workers that are not up by then have failed."""
    object_store_mb: float = Field(default=512.0, ge=100)
    """Object store of a local Ray."""
    role_resources: bool = False
    """Rollout workers also ask for 1 of the Ray resource ``rollout_worker``, learner ranks (and
    pairs) for 1 of ``learner_rank``, so that they run only on nodes that offer it: ``ray start
    --resources='{"rollout_worker": 8}'``. Keeps ranks off nodes that come and go."""


class FleetHealthConfig(Config):
    """Health of the rollout workers: how it is watched, and what a worker that fails may cost."""

    probe_interval_s: float = Field(default=5.0, gt=0)
    """Seconds between probes of a worker that has not answered anything meanwhile. A probe asks the
    engine for one token."""
    probe_timeout_s: float = Field(default=30.0, gt=0)
    """A probe that is not answered by then has failed."""
    unhealthy_threshold: int = Field(default=3, ge=1)
    """Failed probes in a row, or requests, or weight updates, after which a worker is dead; after
    the first it gets no new request."""
    healthy_threshold: int = Field(default=1, ge=1)
    """Probes in a row that make a suspect healthy again."""
    max_restart_attempts: int = Field(default=5, ge=0)
    """Restarts of one worker that may fail or end in another death, within the last hour; then it
    is retired."""
    max_restarts_per_hour: int = Field(default=60, ge=0)
    """Restarts of all workers in an hour, at most; more wait."""
    backoff_base_s: float = Field(default=1.0, ge=0)
    """Wait before a worker's second restart; doubled for each further one."""
    max_backoff_s: float = Field(default=30.0, ge=0)
    """Longest wait before a restart."""
    drain_timeout_s: float = Field(default=60.0, ge=0)
    """A worker that leaves has so long to finish what it has in work; then others do it."""

    @model_validator(mode="after")
    def _backoff_fits(self) -> Self:
        refuse_short_backoff("fleet_health", self.backoff_base_s, self.max_backoff_s)
        return self


class RolloutFailureConfig(Config):
    """Groups that could not be written: how often they are tried again, and how many a step may
    lack. Failures of the fleet (an engine, a node, the network) and of the data (a clip, a prompt)
    have budgets of their own."""

    max_infra_attempts: int = Field(default=5, ge=1)
    """Times that a group is asked for, at most, where the fleet fails it."""
    max_data_attempts: int = Field(default=1, ge=1)
    """Times that a sample is asked for, at most, where its clip cannot be decoded or its prompt
    does not fit; then it is in ``quarantine.jsonl`` for the rest of the run, and for those that
    resume it."""
    backoff_base_s: float = Field(default=1.0, ge=0)
    """Wait before a group's second try; doubled for each further one."""
    max_backoff_s: float = Field(default=30.0, ge=0)
    """Longest wait before a try."""
    max_consecutive_dropped: int = Field(default=0, ge=0)
    """Groups in a row that the fleet may fail for good before the run ends; 0: any number, within
    what ``min_step_batch_fraction`` leaves a step."""
    min_step_batch_fraction: float | None = Field(default=None, gt=0, le=1)
    """Share of ``grpo.groups_per_step`` that a step needs to be trained. Groups that the fleet
    failed for good are dropped: they are in the archive with their failure, and are counted. With
    fewer the run ends. None: 1 - ``reward.max_failure_frac``."""
    on_dropped: Literal["shrink", "replace"] = "shrink"
    """A step lacks what was dropped, or asks for other groups in their place: up to twice
    ``groups_per_step`` in all, or as many as ``grpo.filter_groups`` allows, which replaces them in
    any case."""

    @model_validator(mode="after")
    def _backoff_fits(self) -> Self:
        refuse_short_backoff("rollout_failure", self.backoff_base_s, self.max_backoff_s)
        return self


class WatchdogConfig(Config):
    """Watchdog of a training: what happens when no step ends."""

    interval_s: float = Field(default=30.0, gt=0)
    """Seconds between looks."""
    stall_timeout_s: float = Field(default=1800.0, gt=0)
    """When no step has ended for so long, the stacks of all processes go to ``stalls/`` in the run
    directory."""
    stall_action: Literal["dump", "end"] = "dump"
    """After that the run goes on waiting, or ends with an error."""


def refuse_short_backoff(section: str, base_s: float, max_s: float) -> None:
    """Raise ValueError where a backoff would end below its beginning."""
    if max_s < base_s:
        raise ValueError(
            f"{section}.max_backoff_s={max_s:g} is less than backoff_base_s={base_s:g}; raise the "
            "first or lower the second"
        )


def refuse_elastic_pairs(rollout: RolloutConfig, *, colocated: bool) -> None:
    """Raise ValueError where engines may come and go that share GPUs with learner ranks."""
    if colocated and rollout.is_elastic:
        raise ValueError(
            f"rollout.min_workers={rollout.min_workers} and max_workers={rollout.max_workers} let "
            "engines come and go, but each shares a GPU with a learner rank (num_gpus of both add "
            "up to at most 1); leave both out, or give engines GPUs of their own"
        )
