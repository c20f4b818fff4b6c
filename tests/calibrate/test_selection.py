"""Selection of the best candidate, its guards, and the plateau of a validation curve."""

import numpy as np
import pytest
from numpy.typing import NDArray

from calibrate.calibrator import Source
from calibrate.selection import (
    Measure,
    ValidatedCandidate,
    fit_candidates,
    plateau,
    pools_of,
    select,
    stable_folds,
)
from wire.errors import DataError

NAMES = ("a", "b", "c")
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def val(seed: int, num: int, **signals: float) -> tuple[dict[Source, Floats], Ints, list[str]]:
    """Val clips on which each source knows the label that well, independently of the others."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=num)
    sources: dict[Source, Floats] = {}
    for name, signal in signals.items():
        rows = rng.normal(size=(num, 3))
        rows[np.arange(num), truth] += signal
        sources[name] = rows * 2  # type: ignore[index]
    return sources, truth, [f"clip-{n}" for n in range(num)]


def chosen(seed: int, num: int, by: Measure = "nll", **signals: float) -> str:
    sources, truth, ids = val(seed, num, **signals)
    return select(fit_candidates(sources, truth, NAMES, ids), truth, ids, by).chosen


def test_a_verdict_that_is_worse_than_the_answer_it_reads_is_not_chosen() -> None:
    sources, truth, ids = val(0, 200, policy=1.5, verdict=0.0)
    selection = select(fit_candidates(sources, truth, NAMES, ids), truth, ids)
    assert selection.chosen != "verdict"
    assert selection.candidates[-1].name == "verdict"
    verdict = next(one for one in selection.differences if one.name == "verdict")
    assert verdict.nll_low > 0
    assert verdict.accuracy_high < 0
    assert "verdict" in selection.explanation


def test_two_sources_that_know_different_things_are_combined() -> None:
    for by in ("nll", "accuracy", "brier", "macro_f1"):
        assert chosen(1, 400, by, policy=1.5, verdict=1.5) == "policy+verdict"  # type: ignore[arg-type]


def test_a_combination_that_has_nothing_to_gain_is_not_chosen() -> None:
    """The verdict knows nothing. In-sample the pool's NLL is never higher, and for every second val
    lower: without cross-fitting it would be chosen there."""
    pools = tempted = 0
    for seed in range(40):
        sources, truth, ids = val(seed, 40, policy=1.5, verdict=0.0)
        candidates = fit_candidates(sources, truth, NAMES, ids)
        pools += select(candidates, truth, ids).chosen != "policy"
        tempted += "policy+verdict" in {one.candidate.name for one in candidates}
    assert pools <= 8 < 14 <= tempted


def test_a_pool_in_which_a_source_has_no_weight_is_no_candidate() -> None:
    sources, truth, ids = val(8, 200, policy=1.5, verdict=-1.0)  # more often wrong than chance
    names = {one.candidate.name for one in fit_candidates(sources, truth, NAMES, ids)}
    assert names == {"policy", "verdict"}


def test_figures_are_of_clips_that_were_not_fitted_to() -> None:
    sources, truth, ids = val(2, 60, policy=1.0, verdict=0.5)
    one = {c.candidate.name: c for c in fit_candidates(sources, truth, NAMES, ids)}
    pool = one["policy+verdict"]
    in_sample = pool.candidate.calibrator.probabilities(sources)
    own = -np.log(in_sample[np.arange(60), truth]).mean()
    assert pool.candidate.figures.nll > own
    assert pool.candidate.cross_fitted


def test_of_equal_candidates_the_simpler_is_chosen_and_said() -> None:
    sources, truth, ids = val(3, 50, policy=1.0)
    sources["verdict"] = sources["policy"]
    selection = select(fit_candidates(sources, truth, NAMES, ids), truth, ids, "accuracy")
    assert selection.chosen == "policy"
    assert "equal to" in selection.explanation
    assert "simpler" in selection.explanation


def test_a_val_that_is_too_small_tries_no_combination_and_says_so() -> None:
    sources, truth, ids = val(4, 24, policy=1.0, verdict=1.0)
    selection = select(fit_candidates(sources, truth, NAMES, ids), truth, ids)
    assert {one.name for one in selection.candidates} == {"policy", "verdict"}
    assert not selection.candidate().cross_fitted
    assert "no combination was tried" in selection.explanation


def test_a_difference_that_may_be_chance_is_said() -> None:
    sources, truth, ids = val(5, 40, policy=1.0, verdict=1.0)
    selection = select(fit_candidates(sources, truth, NAMES, ids), truth, ids)
    assert "may be chance" in selection.explanation
    sources, truth, ids = val(5, 2000, policy=3.0, verdict=0.5)
    selection = select(fit_candidates(sources, truth, NAMES, ids, pools=[]), truth, ids)
    assert "chance" not in selection.explanation


def test_one_clip_and_one_source_are_enough_to_select() -> None:
    selection = select(fit_candidates({"head": [[0.0, 1.0, 0.0]]}, [1], NAMES, ["x"]), [1], ["x"])
    assert selection.chosen == "head"
    assert "the only candidate" in selection.explanation


def test_the_order_of_the_clips_changes_no_bit() -> None:
    sources, truth, ids = val(6, 80, policy=1.0, verdict=1.0, vote=0.8)
    order = np.random.default_rng(0).permutation(80)

    def shuffled(values: Floats) -> Floats:
        return values[order]

    straight = fit_candidates(sources, truth, NAMES, ids)
    other = fit_candidates(
        {name: shuffled(rows) for name, rows in sources.items()},
        truth[order],
        NAMES,
        [ids[n] for n in order],
    )
    for one, two in zip(straight, other, strict=True):
        assert one.candidate == two.candidate
        np.testing.assert_array_equal(one.probabilities[order], two.probabilities)


def test_folds_are_stratified_and_go_by_the_sample_alone() -> None:
    truth = np.array([0] * 25 + [1] * 15 + [2] * 3)
    ids = [f"clip-{n}" for n in range(43)]
    folds = stable_folds(truth, ids)
    for label, num in ((0, 5), (1, 3)):
        assert np.bincount(folds[truth == label], minlength=5).tolist() == [num] * 5
    assert np.bincount(folds).min() >= 8
    back = stable_folds(truth[::-1], ids[::-1])
    np.testing.assert_array_equal(folds, back[::-1])


def test_clips_without_a_trace_and_an_absent_label_are_selected_on_alike() -> None:
    sources, truth, ids = val(7, 60, policy=1.0, verdict=1.5)
    truth = np.where(truth == 2, 1, truth)
    for rows in sources.values():
        rows[:5] = np.nan
    selection = select(fit_candidates(sources, truth, NAMES, ids), truth, ids)
    assert np.isfinite(selection.candidate().figures.nll)


def test_pools_join_an_answer_and_its_reader() -> None:
    assert pools_of(["verdict", "policy"]) == [("policy", "verdict")]
    assert ("policy", "vote") not in pools_of(["policy", "vote", "head"])
    assert pools_of(["policy"]) == []


def test_nothing_to_select_from_is_refused() -> None:
    nothing: list[ValidatedCandidate] = []
    with pytest.raises(DataError, match="no candidates"):
        select(nothing, [], [])
    with pytest.raises(DataError, match="each clip once"):
        fit_candidates({"head": np.zeros((2, 3))}, [0, 1], NAMES, ["x", "x"])


def test_a_curve_that_is_flat_at_its_end_has_reached_its_plateau() -> None:
    steps = list(range(0, 101, 10))
    curve = [1.6 * np.exp(-step / 12) + 0.5 for step in steps]
    reached = plateau(steps, curve)
    assert reached.reached
    assert "has stopped improving" in reached.explanation
    assert plateau(steps, [1 - value / 3 for value in curve], "accuracy").reached


def test_a_curve_that_still_falls_has_not() -> None:
    steps = list(range(0, 101, 10))
    rising = plateau(steps, [2 - step / 100 for step in steps])
    assert rising.reached is False
    assert rising.last_gain == pytest.approx(0.3)
    assert "still improving" in rising.explanation
    assert not plateau(steps, [step / 100 for step in steps], "accuracy").reached


def test_a_curve_that_turned_has_its_best_before() -> None:
    turned = plateau([0, 1, 2, 3, 4, 5, 6, 7], [2, 1, 0.8, 0.8, 0.9, 1, 1.1, 1.2])
    assert turned.reached
    assert (turned.best_step, turned.last_step) == (2, 7)


def test_too_few_validations_say_nothing_and_none_better_says_so() -> None:
    assert plateau([1, 2, 3], [3.0, 2.0, 1.0]).reached is None
    assert plateau([], []).reached is None
    worse = plateau([1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0])
    assert worse.reached is False
    assert "never improved" in worse.explanation
    with pytest.raises(DataError, match="rising"):
        plateau([2, 1], [1.0, 2.0])
