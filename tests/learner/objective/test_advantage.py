import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.objective.advantage import group_advantages

rewards = st.one_of(st.none(), st.floats(-10, 10).map(lambda x: round(x, 3)))


def test_a_case_worked_by_hand():
    # mean 1, deviations 1 0 0 -1, sample variance 2/3
    scale = math.sqrt(2 / 3) + 1e-6
    assert group_advantages([2.0, 1.0, 1.0, 0.0], 1e-6) == pytest.approx(
        [1 / scale, 0, 0, -1 / scale]
    )


def test_two_members_use_the_sample_deviation():
    assert group_advantages([1.0, 0.0], 0.0) == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)])


@pytest.mark.parametrize("group", [[1.0] * 8, [0.1 + 0.2] * 3, [None, 2.0], [None, None], [5.0]])
def test_without_a_difference_there_is_no_signal(group: list[float | None]):
    assert group_advantages(group, 1e-6) == [0.0] * len(group)


def test_a_member_without_reward_changes_no_other():
    with_hole = group_advantages([2.0, None, 0.0, 1.0], 1e-6)
    assert with_hole[1] == 0.0
    assert [with_hole[i] for i in (0, 2, 3)] == group_advantages([2.0, 0.0, 1.0], 1e-6)


@given(st.lists(rewards, max_size=12))
def test_advantages_have_mean_zero_and_at_most_unit_deviation(group: list[float | None]):
    found = group_advantages(group, 1e-6)
    known = [a for a, reward in zip(found, group, strict=True) if reward is not None]
    assert math.fsum(found) == pytest.approx(0, abs=1e-6)
    assert all(math.isfinite(a) for a in found)
    if len({reward for reward in group if reward is not None}) > 1:
        assert 0.99 < statistics.stdev(known) <= 1.0 + 1e-9


@given(st.lists(st.integers(0, 2).map(float), min_size=2, max_size=8), st.randoms())
def test_order_does_not_matter(group: list[float], random):
    order = list(range(len(group)))
    random.shuffle(order)
    found, shuffled = (
        group_advantages(group, 1e-6),
        group_advantages([group[i] for i in order], 1e-6),
    )
    assert shuffled == pytest.approx([found[i] for i in order])
