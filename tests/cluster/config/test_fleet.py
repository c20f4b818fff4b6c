import pytest

from cluster.config.fleet import FleetHealthConfig, RolloutFailureConfig
from rollout.config import RolloutConfig


def test_a_backoff_that_ends_below_its_beginning_is_refused():
    with pytest.raises(ValueError, match="max_backoff_s=1 is less than backoff_base_s=2"):
        FleetHealthConfig(backoff_base_s=2, max_backoff_s=1)
    with pytest.raises(ValueError, match=r"rollout_failure\.max_backoff_s=1 is less"):
        RolloutFailureConfig(backoff_base_s=2, max_backoff_s=1)


@pytest.mark.parametrize(("low", "number", "high"), [(3, 2, None), (None, 4, 2)])
def test_a_pool_starts_within_its_bounds(low: int | None, number: int, high: int | None):
    with pytest.raises(ValueError, match=f"num_workers={number} is not between"):
        RolloutConfig(min_workers=low, num_workers=number, max_workers=high)


def test_a_pool_is_elastic_only_where_its_bounds_differ():
    assert not RolloutConfig(num_workers=2).is_elastic
    assert not RolloutConfig(min_workers=2, num_workers=2, max_workers=2).is_elastic
    assert RolloutConfig(num_workers=2, max_workers=3).is_elastic
    assert RolloutConfig(min_workers=1, num_workers=2).is_elastic
