import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config.fleet import FleetHealthConfig
from cluster.pool.backoff import Backoff
from cluster.pool.restart_budget import RestartBudget

HOUR_S = 3600.0


def budget(**limits: float) -> RestartBudget:
    fields = {"max_restart_attempts": 3, "max_restarts_per_hour": 10, "backoff_base_s": 0}
    return RestartBudget(FleetHealthConfig.model_validate({**fields, **limits}))


def test_backoff_doubles_up_to_its_longest():
    backoff = Backoff(base_s=1, max_s=30)
    assert [backoff.wait_s(n) for n in range(8)] == [0, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.wait_s(10_000) == 30


def test_the_first_restart_comes_at_once_and_later_ones_wait():
    waits = budget(backoff_base_s=2, max_backoff_s=100)
    assert waits.due("r0", died=10, now=10)
    waits.charge("r0", 10)
    assert not waits.due("r0", died=20, now=21.9)
    assert waits.due("r0", died=20, now=22)
    waits.charge("r0", 22)
    assert not waits.due("r0", died=30, now=33.9)
    assert waits.due("r0", died=30, now=34)


def test_a_worker_is_spent_after_its_restarts_of_an_hour_and_others_are_not():
    spent = budget()
    for now in range(3):
        assert not spent.is_spent("r0", now)
        spent.charge("r0", now)
    assert spent.is_spent("r0", 4)
    assert not spent.due("r0", 4, 1000)
    assert spent.due("r1", 4, 4)
    assert not spent.is_spent("r0", HOUR_S + 0.5), "the first is more than an hour ago"


def test_restarts_of_all_wait_when_an_hour_has_had_its_number():
    full = budget(max_restarts_per_hour=2)
    full.charge("r0", 0)
    full.charge("r1", 100)
    assert not full.due("r2", 100, HOUR_S - 1)
    assert not full.is_spent("r2", HOUR_S - 1), "it waits, and is not retired"
    assert full.due("r2", 100, HOUR_S)


def test_what_is_given_back_or_forgotten_costs_a_worker_nothing():
    back = budget(max_restart_attempts=1, max_restarts_per_hour=2)
    back.charge("r0", 0)
    back.give_back("r0")
    assert back.due("r0", 0, 1)
    back.charge("r0", 1)
    back.forget("r0")
    assert not back.is_spent("r0", 2)
    back.charge("r1", 2)
    assert not back.due("r0", 2, 3), "for all, it still counts"


@given(
    st.lists(
        st.tuples(st.sampled_from(["r0", "r1", "r2"]), st.floats(0, 900)), min_size=20, max_size=60
    )
)
def test_no_hour_has_more_restarts_than_allowed(tries: list[tuple[str, float]]):
    limited, now = budget(max_restart_attempts=3, max_restarts_per_hour=5), 0.0
    restarts: list[tuple[float, str]] = []
    for name, later in tries:
        now += later
        if limited.due(name, now, now):
            limited.charge(name, now)
            restarts.append((now, name))
    for start, _ in restarts:
        hour = [name for moment, name in restarts if start <= moment < start + HOUR_S]
        assert len(hour) <= 5
        assert all(hour.count(name) <= 3 for name in hour)


@pytest.mark.parametrize("attempts", [0, 1])
def test_no_restart_is_allowed_where_none_is_wanted(attempts: int):
    none = budget(max_restart_attempts=attempts)
    assert none.is_spent("r0", 0) == (attempts == 0)
