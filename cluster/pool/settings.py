"""Settings of the pool's rules, taken from a recipe."""

from dataclasses import dataclass, field

from cluster.config.fleet import FleetHealthConfig, RolloutFailureConfig
from cluster.config.recipe import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """Settings of the pool.

    Example:
        PoolSettings(num_workers=4, min_workers=2, max_workers=20, start_with=2, default_workers=20)
    """

    num_workers: int
    """Workers at the start."""
    min_workers: int
    """Able workers that a run needs to go on."""
    max_workers: int
    start_with: int
    """Workers that must serve before the run starts."""
    default_workers: int
    """Workers wanted while nobody has asked for another number."""
    max_concurrency: int = 32
    """Requests in work per serving worker."""
    health: FleetHealthConfig = field(default_factory=FleetHealthConfig)
    failure: RolloutFailureConfig = field(default_factory=RolloutFailureConfig)
    start_timeout_s: float = 600.0
    update_timeout_s: float = 600.0

    @classmethod
    def of(cls, config: RunConfig) -> "PoolSettings":
        """Settings of a run."""
        rollout = config.rollout
        elastic = rollout.is_elastic
        lowest, highest = rollout.min_workers or 1, rollout.max_workers or rollout.num_workers
        return cls(
            num_workers=rollout.num_workers,
            min_workers=lowest,
            max_workers=highest,
            start_with=lowest if elastic else rollout.num_workers,
            default_workers=highest,
            max_concurrency=rollout.max_concurrency,
            health=config.fleet_health,
            failure=config.rollout_failure,
            start_timeout_s=config.cluster.start_timeout_s,
            # all chunks of one worker's weights; each has a deadline of its own
            update_timeout_s=max(rollout.update_timeout_s, config.cluster.start_timeout_s),
        )
