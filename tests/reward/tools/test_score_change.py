"""What changed between two rewards, as a pure function."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from reward.tools.score_change import change_of, flips, rank_correlation
from reward.tools.score_file import Outcome, RescoredGroup

FAILED = Outcome(total=None, parts={}, failure="f: it broke", is_failed=True)
Totals = tuple[float | None, ...]


def outcome(total: float | None) -> Outcome:
    return FAILED if total is None else Outcome(total=total, parts={"accuracy": 2 * total})


def judged(before: Totals, now: Totals, label: str = "fall", number: int = 0) -> RescoredGroup:
    return RescoredGroup(
        key=(0, 1, f"g{number}", 0),
        purpose="train",
        sample_id="s",
        label=label,
        before=tuple(map(outcome, before)),
        now=tuple(map(outcome, now)),
    )


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=20))
def test_the_rank_correlation_is_spearmans(pairs: list[tuple[float, float]]):
    rho = rank_correlation(pairs)
    varies = all(len({pair[side] for pair in pairs}) > 1 for side in (0, 1))
    assert (rho is None) == (not varies)
    if rho is not None:
        assert rho == pytest.approx(spearmanr(*zip(*pairs, strict=True)).statistic)


@pytest.mark.parametrize(
    ("pairs", "flipped"),
    [
        ([(1, 0), (0, 1)], True),
        ([(1, 1), (0, 0)], False),
        ([(1, 0), (1, 1), (0, 0)], False),  # one of two best ones is still the best
        ([(1, 0.5), (0, 0.5)], False),  # a tie now: the best one before is among the best
        ([(1, 0), (0.5, 1), (0, 0)], True),
    ],
)
def test_a_group_flips_if_none_of_its_best_traces_stays_one(
    pairs: list[tuple[float, float]], flipped: bool
):
    assert flips(pairs) is flipped


def test_means_are_per_part_and_label_over_the_traces_that_have_the_part():
    change = change_of(
        [judged((1.0, 0.0), (0.0, None)), judged((1.0, 1.0), (1.0, 1.0), label="walk", number=1)]
    )
    rows = {(row.part, row.label): row for row in change.means}
    assert (rows["total", None].before, rows["total", None].now) == (0.75, pytest.approx(2 / 3))
    assert (rows["accuracy", "fall"].before, rows["accuracy", "fall"].now) == (1.0, 0.0)
    assert (rows["accuracy", "fall"].num_before, rows["accuracy", "fall"].num_now) == (2, 1)


def test_a_part_that_one_reward_has_not_has_no_mean_there():
    new = Outcome(total=1.0, parts={"judge": 1.0})
    group = judged((1.0,), (1.0,))
    mixed = RescoredGroup(
        **{name: getattr(group, name) for name in group.__slots__} | {"now": (new,)}
    )
    rows = {row.part: row for row in change_of([mixed]).means if row.label is None}
    assert (rows["accuracy"].before, rows["accuracy"].now) == (2.0, None)
    assert (rows["judge"].before, rows["judge"].now) == (None, 1.0)


def test_signal_and_failures_are_counted_on_either_side():
    groups = [judged((1.0, 0.0), (1.0, 1.0)), judged((1.0, None), (0.0, 1.0), number=1)]
    change = change_of(groups)
    assert (change.num_with_signal_before, change.num_with_signal_now) == (1, 1)
    assert (change.num_failed_before, change.num_failed_now) == (1, 0)
    assert (change.num_comparable, change.num_flipped) == (1, 0)


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=5))
def test_a_reward_compared_with_itself_changes_nothing(groups: list[list[float]]):
    change = change_of(
        [judged(tuple(g), tuple(g), number=number) for number, g in enumerate(groups)]
    )
    assert change.num_flipped == 0
    assert change.rank_correlation is None or math.isclose(change.rank_correlation, 1.0)
    assert all(row.before == row.now for row in change.means)
