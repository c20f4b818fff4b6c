"""Prediction sets against MAPIE's and crepes', their promise by simulation, and the edges."""

import numpy as np
import pytest
from crepes import ConformalClassifier
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mapie.classification import SplitConformalClassifier
from numpy.typing import NDArray
from scipy.stats import betabinom

from calibrate.conformal import (
    Kind,
    PredictionSets,
    _as_classifier,
    fit_sets,
    measure_coverage,
    num_needed,
    order_statistic,
    promised_range,
)
from wire.errors import DataError

NAMES = ("a", "b", "c")
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def clips(seed: int, num: int, num_labels: int = 3, grid: int = 0) -> tuple[Floats, Ints]:
    """Probabilities and true labels drawn from them; ``grid``: rounded, so that scores tie."""
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet(np.full(num_labels, 0.5), size=num)
    truth = np.array([rng.choice(num_labels, p=row) for row in rows], dtype=np.int64)
    return (np.round(rows * grid) / grid if grid else rows), truth


@given(
    st.integers(0, 10_000),
    st.integers(30, 120),
    st.integers(2, 4),
    st.sampled_from([0.5, 0.7, 0.8, 0.9, 0.95]),
    st.sampled_from([0, 4, 20]),
)
@settings(max_examples=40, deadline=None)
def test_marginal_sets_are_mapies(
    seed: int, num: int, num_labels: int, coverage: float, grid: int
) -> None:
    rows, truth = clips(seed, num, num_labels, grid)
    names = [str(label) for label in range(num_labels)]
    if grid:  # MAPIE wants rows that sum to 1
        rows = rows / rows.sum(axis=1, keepdims=True)
        assume(np.isfinite(rows).all())
    library = SplitConformalClassifier(
        _as_classifier(num_labels), confidence_level=coverage, conformity_score="lac", prefit=True
    )
    library.conformalize(rows, truth)
    fresh = clips(seed + 1, 50, num_labels)[0]
    both = np.concatenate([fresh, rows])
    ours = fit_sets(rows, truth, names, coverage).sets(both)
    np.testing.assert_array_equal(ours, library.predict_set(both)[1][:, :, 0])


@given(
    st.integers(0, 10_000),
    st.integers(10, 80),
    st.integers(2, 4),
    st.sampled_from([0.5, 0.7, 0.8, 0.9, 0.95]),
    st.sampled_from([0, 4, 20]),
)
@settings(max_examples=40, deadline=None)
def test_class_conditional_sets_are_those_of_crepes_p_values(
    seed: int, num: int, num_labels: int, coverage: float, grid: int
) -> None:
    """A label is in the set if its p-value is above alpha; ties and absent labels included."""
    rows, truth = clips(seed, num, num_labels, grid)
    fresh = np.concatenate([clips(seed + 1, 30, num_labels, grid)[0], rows])
    ours = fit_sets(rows, truth, [str(n) for n in range(num_labels)], coverage, "class_conditional")
    inside = ours.sets(fresh)
    for label in range(num_labels):
        own = truth == label
        if not own.any():
            assert inside[:, label].all()
            continue
        library = ConformalClassifier().fit(1 - rows[own, label])
        p_values = library.predict_p((1 - fresh)[:, [label]], smoothing=False)[:, 0]
        np.testing.assert_array_equal(inside[:, label], p_values > 1 - coverage + 1e-12)


@pytest.mark.parametrize(
    ("coverage", "needed"), [(0.9, 9), (0.95, 19), (0.8, 4), (0.99, 99), (0.5, 1), (0.85, 6)]
)
def test_the_least_n_is_one_over_alpha_minus_1(coverage: float, needed: int) -> None:
    assert num_needed(coverage) == needed
    assert order_statistic(needed, coverage) <= needed
    assert order_statistic(needed - 1, coverage) > needed - 1


@pytest.mark.parametrize("coverage", [0.9, 0.95, 0.8, 0.7])
def test_the_limit_is_the_order_statistic_of_the_scores(coverage: float) -> None:
    for num in (num_needed(coverage), 57, 199):
        rows, truth = clips(num, num)
        scores = np.sort(1 - rows[np.arange(num), truth])
        limit = fit_sets(rows, truth, NAMES, coverage).limits[0]
        assert limit == scores[order_statistic(num, coverage) - 1]


def test_too_few_clips_are_an_answer_with_the_number_needed() -> None:
    rows, truth = clips(0, 8)
    sets = fit_sets(rows, truth, NAMES, 0.9)
    assert sets.limits == (None, None, None)
    assert not sets.attainable
    assert sets.sets(rows).all()
    assert "not attainable with 8 held-out clips (9 needed)" in sets.explanation
    assert fit_sets(*clips(0, 9), NAMES, 0.9).attainable
    assert not fit_sets(np.zeros((0, 3)), [], NAMES, 0.9).attainable


def test_the_words_say_what_one_draw_may_bring() -> None:
    sets = fit_sets(*clips(0, 50), NAMES, 0.9)
    assert sets.one_draw == promised_range(50, 0.9)
    assert "one draw of 50 covers 81% to 97% in 95 of 100 cases" in sets.explanation
    each = fit_sets(*clips(0, 120), NAMES, 0.9, "class_conditional")
    fewest = min(each.num_per_label)
    assert each.one_draw == promised_range(fewest, 0.9)
    assert f"one draw of {fewest} covers" in each.explanation
    assert fit_sets(*clips(0, 8), NAMES, 0.9).one_draw is None


def test_only_the_label_with_too_few_clips_is_in_every_set() -> None:
    rows, truth = clips(1, 200)
    rows = rows[(truth != 2) | (np.cumsum(truth == 2) <= 4)]
    truth = truth[(truth != 2) | (np.cumsum(truth == 2) <= 4)]
    sets = fit_sets(rows, truth, NAMES, 0.9, "class_conditional")
    assert [limit is None for limit in sets.limits] == [False, False, True]
    assert sets.sets(rows)[:, 2].all()
    assert "c has 4 held-out clips, 9 needed" in sets.explanation


def test_probabilities_of_exactly_0_and_1() -> None:
    rows, truth = np.eye(3)[[0, 1, 2] * 10], np.array([0, 1, 2] * 10)
    kinds: tuple[Kind, Kind] = ("marginal", "class_conditional")
    for kind in kinds:
        sets = fit_sets(rows, truth, NAMES, 0.9, kind)
        np.testing.assert_array_equal(sets.sets(np.eye(3)), np.eye(3, dtype=bool))
        assert not sets.sets([[0.4, 0.3, 0.3]]).any()  # the empty set is an answer, too


def test_coverage_worked_by_hand() -> None:
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1]], dtype=bool)
    measured = measure_coverage(sets, [0, 2, 1, 1], NAMES)
    assert (measured.num_samples, measured.share, measured.mean_size) == (4, 0.5, 1.5)
    assert (measured.single_frac, measured.empty_frac) == (0.25, 0.25)
    assert measured.per_label["b"].share == 0.5
    assert measured.per_label["c"].num_samples == 1
    assert measure_coverage(sets[:2], [0, 0], NAMES).per_label["c"].share is None
    assert measured.low < 0.5 < measured.high


@pytest.mark.parametrize("kind", ["marginal", "class_conditional"])
def test_coverage_over_2000_draws_is_in_the_exact_band(kind: Kind) -> None:
    """Of one draw it is Beta-binomial: the mean over draws is within 4 standard errors of
    ceil((n + 1) c) / (n + 1), and as many draws are in the band as that distribution says."""
    num, num_test, coverage, draws = 50, 100, 0.9, 2000
    rng = np.random.default_rng(0)
    rank, hits = order_statistic(num, coverage), []
    for _ in range(draws):
        # scores of the true label: what the guarantee is about; untied
        scores = rng.random(num + num_test)
        rows = np.stack([1 - scores, scores / 2, scores / 2], axis=1)
        truth = np.zeros(num, np.int64)
        limit = np.sort(scores[:num])[rank - 1]
        sets = PredictionSets(
            kind=kind,
            coverage=coverage,
            label_names=NAMES,
            num_samples=num,
            num_per_label=(num, 0, 0),
            limits=(float(limit), None, None),
            num_needed=9,
        )
        if len(hits) < 5:  # what is simulated is what is fitted
            assert fit_sets(rows[:num], truth, NAMES, coverage, kind).limits[0] == limit
        hits.append(int(sets.sets(rows[num:])[:, 0].sum()))
    expected = betabinom(num_test, rank, num + 1 - rank)
    error = expected.std() / np.sqrt(draws)
    assert abs(np.mean(hits) - expected.mean()) < 4 * error
    assert np.mean(hits) / num_test >= coverage - 4 * error / num_test
    low, high = expected.ppf(0.025), expected.ppf(0.975)
    inside = np.mean([(low <= hit <= high) for hit in hits])
    assert inside == pytest.approx(expected.cdf(high) - expected.cdf(low - 1), abs=0.02)


def test_the_range_of_one_draw_is_the_beta_distributions() -> None:
    rng = np.random.default_rng(1)
    shares = [np.sort(rng.random(50))[order_statistic(50, 0.9) - 1] for _ in range(4000)]
    assert promised_range(50, 0.9) == pytest.approx(
        tuple(np.quantile(shares, [0.025, 0.975])), abs=0.01
    )
    assert promised_range(8, 0.9) == (1.0, 1.0)


def test_wrong_input_is_refused() -> None:
    rows, truth = clips(2, 20)
    with pytest.raises(DataError, match="of a clip without a trace"):
        fit_sets(np.full((20, 3), np.nan), truth, NAMES)
    with pytest.raises(DataError, match=r"expected \[N, 3\]"):
        fit_sets(rows, truth, NAMES).sets(rows[:, :2])
    with pytest.raises(DataError, match="not in"):
        fit_sets(rows, truth, NAMES, 1.0)
    with pytest.raises(DataError, match="20 rows"):
        fit_sets(rows, truth[:-1], NAMES)
    with pytest.raises(DataError, match="no clips"):
        measure_coverage(np.zeros((0, 3), bool), [], NAMES)
