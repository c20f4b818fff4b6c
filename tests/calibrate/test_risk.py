"""Thresholds against MAPIE's controller, exact binomial bounds, and the promise by simulation."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.risk_control import BinaryClassificationController
from numpy.typing import NDArray
from scipy.stats import binom, binomtest

from calibrate.risk import (
    binomial_p_values,
    choose_start,
    fit_threshold,
    threshold_grid,
)
from wire.errors import DataError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def clips(seed: int, num: int, knowing: float = 1.0) -> tuple[Floats, Bools]:
    """Confidences, and answers that are right that often; ``knowing`` 0: whatever is said."""
    rng = np.random.default_rng(seed)
    confidence = rng.beta(4, 1.5, size=num)
    rate = knowing * confidence + (1 - knowing) * 0.79
    return confidence, rng.random(num) < rate


@given(st.integers(0, 10_000), st.integers(50, 400), st.sampled_from([0.05, 0.1, 0.2, 0.3]))
@settings(max_examples=12, deadline=None)
def test_one_sequence_is_mapies_fixed_sequence(seed: int, num: int, max_error: float) -> None:
    confidence, right = clips(seed, num)
    start = 0.9
    grid = threshold_grid()
    tested = grid[grid <= start]
    library = BinaryClassificationController(
        lambda rows: np.stack([1 - rows, rows], axis=1),
        risk="precision",  # of what is at or above the threshold, the share that is right
        target_level=1 - max_error,
        confidence_level=0.9,
        list_predict_params=tested,
        fwer_method="fixed_sequence",
    )
    with warnings.catch_warnings():  # that nothing, or everything, is attainable
        warnings.simplefilter("ignore", UserWarning)
        library.calibrate(confidence, right.astype(int))
    wrong = np.array([(~right[confidence >= t]).sum() for t in tested])
    counts = np.array([(confidence >= t).sum() for t in tested])
    ours, theirs = binomial_p_values(wrong, counts, max_error), library.p_values.ravel()
    # MAPIE multiplies the error rate back to a count, and rounding may make it an error more
    one_more = binom.cdf(wrong + 1, np.maximum(counts, 1), max_error)
    assert ((theirs >= ours - 1e-9) & (theirs <= one_more + 1e-9)).all()
    if np.allclose(ours, theirs, atol=1e-9):
        expected = library.valid_predict_params
        threshold = fit_threshold(confidence, right, max_error, 0.9, start=start)
        assert threshold.value == (expected.min() if len(expected) else None)


@given(st.integers(1, 300), st.integers(0, 300), st.floats(0.01, 0.99))
@settings(deadline=None)
def test_the_test_is_the_exact_binomial_one(num: int, wrong: int, rate: float) -> None:
    wrong = min(wrong, num)
    p_value = binomial_p_values(np.array([wrong]), np.array([num]), rate)[0]
    assert p_value == pytest.approx(binom.cdf(wrong, num, rate), abs=1e-12)


def test_the_bound_is_clopper_pearsons_and_below_the_target() -> None:
    confidence, right = clips(0, 400)
    threshold = fit_threshold(confidence, right, 0.2, 0.9, start=0.9)
    above = confidence >= threshold.value
    assert (threshold.num_automatic, threshold.num_wrong) == (above.sum(), (~right[above]).sum())
    interval = binomtest(threshold.num_wrong, threshold.num_automatic).proportion_ci(0.8, "exact")
    assert threshold.bound == pytest.approx(interval.high)  # one-sided 90% is two-sided 80%
    assert threshold.bound is not None
    assert threshold.bound <= 0.2
    assert threshold.coverage == above.mean()
    np.testing.assert_array_equal(threshold.is_automatic(confidence), above)


@pytest.mark.parametrize("chosen", [False, True])
@pytest.mark.parametrize("knowing", [1.0, 0.0])
def test_the_target_is_missed_no_more_often_than_promised(chosen: bool, knowing: float) -> None:
    """500 draws of held-out clips; the true error rate of a threshold is known. With ``knowing`` 0
    confidence says nothing, and no threshold has an error below 21%."""
    grid, max_error, confidence, draws = threshold_grid(), 0.2, 0.9, 500
    many, right = clips(10**6, 400_000, knowing)
    true_error = {t: (~right[many >= t]).mean() for t in grid if (many >= t).any()}
    missed = automatic = 0
    for seed in range(draws):
        held, hits = clips(seed, 150, knowing)
        other, answers = clips(seed + draws, 100, knowing)
        start = choose_start(other, answers, max_error, confidence, 150) if chosen else None
        threshold = fit_threshold(held, hits, max_error, confidence, start=start)
        if threshold.value is not None:
            automatic += 1
            missed += true_error[threshold.value] > max_error
    # a rate of 10% over 500 draws is below 13.6% in all but one of 10,000 such tests
    assert missed / draws <= 0.136
    if knowing and chosen:
        assert automatic / draws > 0.6  # and not because nothing is ever automatic


def test_a_start_chosen_on_other_clips_decides_more() -> None:
    shared, own = [], []
    for seed in range(100):
        held, hits = clips(seed, 200)
        start = choose_start(*clips(seed + 100, 200), 0.2, 0.9, 200)
        shared.append(fit_threshold(held, hits, 0.2).coverage)
        own.append(fit_threshold(held, hits, 0.2, start=start).coverage)
    assert np.mean(own) > np.mean(shared) + 0.05 > 0.1


def test_not_attainable_says_how_many_clips_it_takes() -> None:
    sure = np.ones(43)
    assert fit_threshold(sure, sure > 0, 0.1, 0.9).num_needed == 44
    threshold = fit_threshold(sure, sure > 0, 0.1, 0.9)
    assert (threshold.value, threshold.coverage) == (None, 0.0)
    assert "not attainable with these 43 held-out clips" in threshold.explanation
    assert "44 confident clips" in threshold.explanation
    assert not threshold.is_automatic(sure).any()
    enough = fit_threshold(np.ones(44), np.ones(44) > 0, 0.1, 0.9)
    assert enough.value is not None
    assert "100.0% of 44 held-out clips" in enough.explanation
    assert fit_threshold(np.ones(22), np.ones(22) > 0, 0.1, 0.9, start=1.0).attainable
    assert not fit_threshold(np.ones(21), np.ones(21) > 0, 0.1, 0.9, start=1.0).attainable
    assert not fit_threshold([], [], 0.1, 0.9).attainable


def test_a_clip_of_nan_is_never_automatic_and_counts_in_the_share() -> None:
    confidence = np.array([1.0] * 60 + [np.nan] * 20)
    threshold = fit_threshold(confidence, np.arange(80) < 60, 0.1)
    assert (threshold.num_automatic, threshold.coverage) == (60, 0.75)
    assert threshold.is_automatic(confidence).sum() == 60


def test_ties_are_decided_together() -> None:
    confidence, right = np.array([0.9] * 50 + [0.5] * 50), np.arange(100) < 50
    threshold = fit_threshold(confidence, right, 0.1, start=0.95)
    assert threshold.value is None  # a sequence stops where a threshold has no clips
    threshold = fit_threshold(confidence, right, 0.1, start=0.9)
    assert threshold.num_automatic == 50
    assert threshold.value == pytest.approx(0.505)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(DataError, match="differ"):
        fit_threshold([0.5], [True, False], 0.1)
    with pytest.raises(DataError, match="must both be"):
        fit_threshold([0.5], [True], 0.0)
    with pytest.raises(DataError, match="must be in"):
        fit_threshold([1.5], [True], 0.1)
    with pytest.raises(DataError, match="no threshold"):
        fit_threshold([0.5], [True], 0.1, start=2.0)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=200),
    st.sampled_from([0.05, 0.2, 0.5]),
    st.sampled_from([None, 0.0, 0.333, 0.8, 1.0]),
)
@settings(deadline=None)
def test_whatever_the_clips_a_value_keeps_its_bound_and_counts_what_it_says(
    clips_: list[tuple[float, bool]], max_error: float, start: float | None
) -> None:
    confidence = np.array([one for one, _ in clips_])
    right = np.array([hit for _, hit in clips_], dtype=bool)
    threshold = fit_threshold(confidence, right, max_error, start=start)
    assert threshold == fit_threshold(confidence[::-1], right[::-1], max_error, start=start)
    if threshold.value is None:
        assert not threshold.is_automatic(confidence).any()
        return
    above = confidence >= threshold.value
    assert (threshold.num_automatic, threshold.num_wrong) == (above.sum(), (~right[above]).sum())
    assert threshold.bound is not None
    assert threshold.bound <= max_error + 1e-12
    assert start is None or threshold.value <= start


def test_a_start_between_two_thresholds_is_the_laxer() -> None:
    confidence, right = np.full(60, 0.332), np.ones(60, bool)
    assert fit_threshold(confidence, right, 0.1, start=0.333).attainable
    assert not fit_threshold(confidence, right, 0.1, start=0.336).attainable
