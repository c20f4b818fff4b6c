import pytest

from cluster.pool.failure_budget import FleetFailures
from wire.errors import TooManyFailures


def test_more_failures_in_a_row_than_allowed_end_the_run_and_an_answer_ends_the_row():
    failures = FleetFailures(limit=2)
    for _ in range(3):
        failures.failed("clip 7", "rollout-1 died")
        failures.failed("clip 8", "rollout-1 died")
        failures.answered()
    failures.failed("clip 7", "rollout-1 died")
    failures.failed("clip 8", "rollout-1 died")
    with pytest.raises(TooManyFailures, match=r"3 requests in a row.*clip 9: rollout-2 died"):
        failures.failed("clip 9", "rollout-2 died")
    assert failures.total == 9


def test_without_a_limit_they_are_counted_only():
    failures = FleetFailures(limit=0)
    for _ in range(100):
        failures.failed("clip", "died")
    assert failures.in_a_row == failures.total == 100
