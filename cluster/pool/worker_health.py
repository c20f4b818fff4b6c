"""States of a rollout worker's health, and why it changed."""

from enum import StrEnum


class HealthState(StrEnum):
    """State of a worker. Only a HEALTHY one gets requests."""

    HEALTHY = "healthy"
    """It serves: its engine answers, and its weights are proven to be the newest."""
    SUSPECT = "suspect"
    """A probe or a request failed: no new request until a probe is answered."""
    DEAD = "dead"
    """Its actor, its engine or its node is gone, or its engine answers nothing."""
    RESTARTING = "restarting"
    """Its engine is being started, for the first time or anew."""
    STALE = "stale"
    """Its engine runs, with weights that are not proven to be the newest."""
    RETIRED = "retired"
    """It left for good: scaled down, or its restarts are used up."""


class Cause(StrEnum):
    """Why a worker's state changed."""

    STARTED = "started"
    JOINED = "joined"
    WEIGHTS_PROVEN = "weights_proven"
    PROBE_ANSWERED = "probe_answered"
    PROBE_FAILED = "probe_failed"
    REQUEST_FAILED = "request_failed"
    ACTOR_DIED = "actor_died"
    ENGINE_DIED = "engine_died"
    NODE_DIED = "node_died"
    OUT_OF_MEMORY = "out_of_memory"
    START_FAILED = "start_failed"
    UPDATE_FAILED = "update_failed"
    PARITY_FAILED = "parity_failed"
    RESTART = "restart"
    SCALED_DOWN = "scaled_down"
    BUDGET_SPENT = "budget_spent"
