"""Paired comparison: cases worked by hand, published ones, and what must hold for all answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp

from calibrate.compare import (
    Flips,
    compare,
    compare_seeds,
    count_flips,
    mcnemar_p_value,
    paired_interval,
)
from calibrate.predictions import Prediction
from wire.errors import DataError


def make_prediction(name: str, right: bool, label: str = "normal") -> Prediction:
    return Prediction(
        sample_id=name,
        label=label,
        predicted=label if right else None,
        confidence=0.5 if right else 0.0,
        probabilities=None,
        trace=None,
    )


def make_pair(outcomes: list[tuple[bool, bool]]) -> tuple[list[Prediction], list[Prediction]]:
    """Before and after, from (right before, right after) of each clip."""
    return (
        [make_prediction(str(i), before) for i, (before, _) in enumerate(outcomes)],
        [make_prediction(str(i), after) for i, (_, after) in enumerate(outcomes)],
    )


def make_flips(both_right: int, right_to_wrong: int, wrong_to_right: int, both_wrong: int) -> Flips:
    return Flips(
        both_right=both_right,
        both_wrong=both_wrong,
        wrong_to_right=wrong_to_right,
        right_to_wrong=right_to_wrong,
        p_value=mcnemar_p_value(wrong_to_right, right_to_wrong),
    )


outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)
counts = st.integers(0, 300)


def test_flips_are_counted_by_sample_in_any_order() -> None:
    before = [make_prediction(n, n in "ab") for n in "abcdef"]
    after = [make_prediction(n, n in "acde") for n in "fedcba"]
    flips = count_flips(before, after)
    assert (flips.both_right, flips.both_wrong) == (1, 1)
    assert (flips.wrong_to_right, flips.right_to_wrong) == (3, 1)
    assert flips.p_value == pytest.approx(2 * (1 + 4) / 16)


def test_a_comparison_worked_by_hand() -> None:
    before = [make_prediction(n, n in "ab") for n in "abcdef"]
    after = [make_prediction(n, n in "acde") for n in "fedcba"]
    found = compare(before, after)
    assert found.num_samples == 6
    assert (found.accuracy_before, found.accuracy_after) == pytest.approx((2 / 6, 4 / 6))
    assert found.difference == pytest.approx(2 / 6)
    assert found.flips == count_flips(before, after)
    assert (found.difference_low, found.difference_high) == paired_interval(found.flips)


def test_both_need_the_same_clips_once_with_the_same_label() -> None:
    one = [make_prediction("a", True), make_prediction("b", True)]
    with pytest.raises(DataError, match="of 2 and 1 clips 1 are shared, and 'b', for one, is not"):
        compare(one, one[:1])
    with pytest.raises(DataError, match="'b' has several predictions"):
        compare([*one, one[1]], one)
    with pytest.raises(DataError, match=r"label of clip 'a' is 'normal' .* 'odd'"):
        compare(one, [make_prediction("a", True, label="odd"), one[1]])
    with pytest.raises(DataError, match="no clips"):
        compare([], [])


def test_mcnemar_worked_by_hand() -> None:
    assert mcnemar_p_value(0, 0) == 1.0
    assert mcnemar_p_value(5, 0) == pytest.approx(2 / 32)
    assert mcnemar_p_value(3, 3) == 1.0
    assert mcnemar_p_value(1, 8) == mcnemar_p_value(8, 1) == pytest.approx(2 * 10 / 512)


@given(counts, counts)
def test_mcnemar_is_the_binomial_test(gained: int, lost: int) -> None:
    changed = gained + lost
    expected = binomtest(gained, changed, 0.5).pvalue if changed else 1.0
    assert mcnemar_p_value(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_very_many_clips_is_a_number() -> None:
    assert mcnemar_p_value(0, 5000) == 0.0
    assert mcnemar_p_value(9900, 10100) == pytest.approx(
        binomtest(9900, 20000, 0.5).pvalue, rel=1e-6
    )


def test_the_interval_is_the_published_one() -> None:
    # Newcombe 1998, his example of 50 pairs with 12 and 2 changed: 0.0569 to 0.3404.
    assert paired_interval(make_flips(36, 2, 12, 0)) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_the_interval_with_correlated_answers_worked_by_hand() -> None:
    # 20 right twice, 2 lost, 12 gained, 16 wrong twice. Wilson: 32/50 is .5014 to .7586, 22/50 is
    # .3116 to .5769. phi = (20*16 - 2*12 - 25) / sqrt(32 * 18 * 22 * 28) = .4550
    down = (0.1386**2 - 2 * 0.4550 * 0.1386 * 0.1369 + 0.1369**2) ** 0.5
    up = (0.1186**2 - 2 * 0.4550 * 0.1186 * 0.1284 + 0.1284**2) ** 0.5
    found = paired_interval(make_flips(20, 2, 12, 16))
    assert found == pytest.approx((0.2 - down, 0.2 + up), abs=2e-4)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    shares = [0.55, 0.05, 0.15, 0.25]  # both right, lost, gained, both wrong: the truth is +0.10
    drawn = [[int(n) for n in row] for row in random.multinomial(100, shares, size=2000)]
    intervals = [paired_interval(make_flips(*row)) for row in drawn]
    covered = np.mean([low <= 0.10 <= high for low, high in intervals])
    assert 0.94 < covered < 0.98


def test_the_interval_of_a_difference_without_flips_is_not_a_point() -> None:
    low, high = paired_interval(make_flips(50, 0, 0, 0))
    assert low < 0 < high


@given(outcomes, st.randoms(use_true_random=False))
def test_the_order_of_clips_does_not_matter(drawn: list[tuple[bool, bool]], random) -> None:
    before, after = make_pair(drawn)
    expected = compare(before, after)
    random.shuffle(before)
    random.shuffle(after)
    assert compare(before, after) == expected


@given(outcomes)
def test_swapping_the_two_negates_the_difference(drawn: list[tuple[bool, bool]]) -> None:
    before, after = make_pair(drawn)
    ahead, back = compare(before, after), compare(after, before)
    assert back.difference == -ahead.difference
    assert (back.difference_low, back.difference_high) == pytest.approx(
        (-ahead.difference_high, -ahead.difference_low)
    )
    assert back.flips.wrong_to_right == ahead.flips.right_to_wrong
    assert back.flips.p_value == ahead.flips.p_value


@given(outcomes)
def test_a_classifier_does_not_differ_from_itself(drawn: list[tuple[bool, bool]]) -> None:
    before, _ = make_pair(drawn)
    found = compare(before, before)
    assert (found.difference, found.flips.p_value) == (0.0, 1.0)
    assert found.difference_low <= 0.0 <= found.difference_high


@given(outcomes)
def test_the_interval_holds_the_difference_and_stays_in_range(
    drawn: list[tuple[bool, bool]],
) -> None:
    found = compare(*make_pair(drawn))
    assert -1.0 <= found.difference_low <= found.difference <= found.difference_high <= 1.0


def test_seeds_worked_by_hand() -> None:
    gains = make_pair([(False, True)] * 3 + [(True, True)])  # +3 of 4
    draws = make_pair([(True, False), (False, True)])  # 0 of 2
    loses = make_pair([(True, False)] + [(True, True)] * 3)  # -1 of 4
    found = compare_seeds([gains, draws, loses])
    assert found.differences == (0.75, 0.0, -0.25)
    assert found.mean_difference == pytest.approx(0.5 / 3)  # each seed alike, not each clip
    assert (found.flips.wrong_to_right, found.flips.right_to_wrong) == (4, 2)
    assert (found.flips.both_right, found.flips.both_wrong) == (4, 0)
    assert found.flips.p_value == pytest.approx(2 * (1 + 6 + 15) / 64)


def test_the_interval_over_seeds_is_students() -> None:
    found = compare_seeds([make_pair([(False, True)] * n + [(True, True)] * 8) for n in range(4)])
    expected = ttest_1samp(found.differences, 0.0).confidence_interval(0.95)
    assert (found.mean_low, found.mean_high) == pytest.approx((expected.low, expected.high))


def test_one_seed_says_nothing_of_others() -> None:
    pair = make_pair([(False, True)] * 3 + [(True, True)])
    found, alone = compare_seeds([pair]), compare(*pair)
    assert (found.mean_low, found.mean_high) == (None, None)
    assert (found.mean_difference, found.flips) == (alone.difference, alone.flips)


@given(st.lists(outcomes, min_size=2, max_size=4))
def test_the_order_of_seeds_does_not_matter_and_swapping_negates(
    drawn: list[list[tuple[bool, bool]]],
) -> None:
    pairs = [make_pair(one) for one in drawn]
    found = compare_seeds(pairs)
    turned = compare_seeds(pairs[::-1])
    assert turned.differences == found.differences[::-1]
    assert (turned.mean_difference, turned.flips) == (found.mean_difference, found.flips)
    swapped = compare_seeds([(after, before) for before, after in pairs])
    assert swapped.mean_difference == -found.mean_difference
    assert swapped.flips.p_value == found.flips.p_value


def test_seeds_must_be_given_and_each_be_comparable() -> None:
    with pytest.raises(DataError, match="no seeds"):
        compare_seeds([])
    whole = make_pair([(True, True)] * 2)
    with pytest.raises(DataError, match="1 are shared"):
        compare_seeds([whole, (whole[0], whole[1][:1])])
