"""Each figure against a case worked by hand, and against scikit-learn on random ones."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sk

from calibrate.metrics import (
    accuracy_at_coverage,
    brier_score,
    confusion_matrix,
    evaluate,
    expected_calibration_error,
    majority_baseline,
    negative_log_likelihood,
    selective_accuracies,
    wilson_interval,
)
from calibrate.predictions import Prediction, from_probabilities
from wire.errors import DataError

NAMES = ("a", "b", "c")


def answer(label: str, predicted: str | None, confidence: float = 0.0) -> Prediction:
    return Prediction(
        sample_id=f"{label}{predicted}",
        label=label,
        predicted=predicted,
        confidence=confidence,
        probabilities=None,
        trace=None,
    )


BY_HAND = [
    answer("a", "a", 0.9),
    answer("a", "a", 0.9),
    answer("a", "b", 0.6),
    answer("b", "b", 0.7),
    answer("b", None),
]


def random_predictions(seed: int, num: int = 200) -> list[Prediction]:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(len(NAMES)) * 0.5, size=num)
    labels = rng.choice(NAMES, size=num).tolist()
    return from_probabilities([str(i) for i in range(num)], labels, probabilities, NAMES)


def test_figures_worked_by_hand() -> None:
    result = evaluate(BY_HAND, NAMES, train_labels=["b", "b", "a"])
    assert result.accuracy == pytest.approx(3 / 5)
    assert result.confusion == ((2, 1, 0, 0), (0, 1, 0, 1), (0, 0, 0, 0))
    assert result.unparsed_frac == pytest.approx(1 / 5)
    assert result.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert result.macro_f1 == pytest.approx((4 / 5 + 2 / 4) / 2)
    assert result.majority_baseline == pytest.approx(2 / 5)
    assert result.best_constant == pytest.approx(3 / 5)
    assert (result.per_label["a"].support, result.per_label["a"].predicted) == (3, 2)
    assert result.per_label["b"].recall == pytest.approx(1 / 2)
    assert (result.per_label["c"].recall, result.per_label["c"].f1) == (None, None)
    assert (result.brier, result.nll, result.probabilities_frac) == (None, None, 0.0)
    # Bins: two at 0.9 both right, one at 0.6 wrong, one at 0.7 right, one at 0 wrong (no gap).
    assert result.ece == pytest.approx((2 * 0.1 + 0.6 + 0.3) / 5)
    # By confidence: right right | right | wrong | wrong; four of five are kept.
    assert result.selective_accuracy == pytest.approx(3 / 4)
    assert result.aurc == pytest.approx((0 + 0 + 0 + 1 / 4 + 2 / 5) / 5)


@pytest.mark.parametrize("seed", range(5))
def test_figures_agree_with_scikit_learn(seed: int) -> None:
    rows = random_predictions(seed)
    truth = [p.label for p in rows]
    said = [p.predicted for p in rows]
    probabilities = np.array([p.probabilities for p in rows])
    result = evaluate(rows, NAMES)
    assert result.accuracy == pytest.approx(sk.accuracy_score(truth, said))
    assert result.macro_f1 == pytest.approx(sk.f1_score(truth, said, average="macro"))
    assert result.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(truth, said))
    assert [row[:-1] for row in result.confusion] == [
        tuple(row) for row in sk.confusion_matrix(truth, said, labels=NAMES).tolist()
    ]
    each = sk.precision_recall_fscore_support(truth, said, labels=NAMES)
    assert [result.per_label[n].recall for n in NAMES] == pytest.approx(each[1].tolist())
    assert [result.per_label[n].f1 for n in NAMES] == pytest.approx(each[2].tolist())
    assert result.nll == pytest.approx(sk.log_loss(truth, probabilities, labels=NAMES))
    expected = sk.brier_score_loss(truth, probabilities, labels=NAMES, scale_by_half=False)
    assert result.brier == pytest.approx(expected)
    interval = binomtest(round(result.accuracy * 200), 200).proportion_ci(0.95, method="wilson")
    assert (result.accuracy_low, result.accuracy_high) == pytest.approx(
        (interval.low, interval.high)
    )


def test_unparsed_answers_agree_with_scikit_learn_on_another_word() -> None:
    truth, said = [p.label for p in BY_HAND], [p.predicted or "?" for p in BY_HAND]
    result = evaluate(BY_HAND, NAMES)
    assert result.macro_f1 == pytest.approx(
        sk.f1_score(truth, said, labels=["a", "b"], average="macro")
    )
    assert result.accuracy == pytest.approx(sk.accuracy_score(truth, said))


def test_wilson_of_a_textbook_case_and_at_the_ends() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 10)[0] == 0.0
    assert wilson_interval(10, 10)[1] == pytest.approx(1.0)


def test_ece_bins_include_their_upper_end() -> None:
    # 0.2 and 0.1 share the bin (0, 0.2]: the mean confidence 0.15 against accuracy 0.5.
    confidence, right = np.array([0.2, 0.1]), np.array([True, False])
    assert expected_calibration_error(confidence, right, num_bins=5) == pytest.approx(0.35)
    assert expected_calibration_error(confidence, right, num_bins=10) == pytest.approx(0.45)


def test_ece_of_a_calibrated_classifier_is_0_and_of_a_sure_liar_1() -> None:
    sure = np.ones(4)
    assert expected_calibration_error(sure, np.ones(4, dtype=bool)) == 0.0
    assert expected_calibration_error(sure, np.zeros(4, dtype=bool)) == 1.0
    right = np.array([True, True, True, False])
    assert expected_calibration_error(sure * 0.75, right) == pytest.approx(0.0)


def test_the_most_confident_answers_are_kept_and_ties_at_the_border_count_as_their_mean() -> None:
    confidence = np.array([0.5, 0.9, 0.5, 0.5, 0.1])
    right = np.array([True, True, False, False, True])
    # 0.9 is right; then three of equal confidence, a third of them right; then 0.1, right.
    expected = [1, (1 + 1 / 3) / 2, (1 + 2 / 3) / 3, (1 + 1) / 4, 3 / 5]
    np.testing.assert_allclose(selective_accuracies(confidence, right), expected)


def test_ties_at_the_border_are_the_mean_over_all_orders() -> None:
    right = [True, True, False, False, True]
    kept = [sum(order[:4]) / 4 for order in itertools.permutations(right)]
    found = selective_accuracies(np.full(5, 0.5), np.array(right))
    assert accuracy_at_coverage(found) == pytest.approx(np.mean(kept))


@pytest.mark.parametrize(("num", "kept"), [(1, 1), (2, 2), (3, 3), (5, 4), (10, 8), (300, 240)])
def test_eighty_percent_of_the_clips_are_kept_never_fewer(num: int, kept: int) -> None:
    which = np.arange(1, num + 1, dtype=np.float64)  # the entry for k says k
    assert accuracy_at_coverage(which) == kept


@pytest.mark.parametrize("tenths", range(1, 11))
def test_rounding_of_the_coverage_keeps_no_clip_too_many(tenths: int) -> None:
    assert accuracy_at_coverage(np.arange(1.0, 11.0), tenths / 10) == tenths
    assert accuracy_at_coverage(np.arange(1.0, 11.0), tenths * 0.1) == tenths


def test_a_confidence_that_knows_its_errors_leaves_them_out() -> None:
    right = np.array([True] * 8 + [False] * 2)
    knowing, liar = np.linspace(0.9, 0.1, 10), np.linspace(0.1, 0.9, 10)
    assert accuracy_at_coverage(selective_accuracies(knowing, right)) == 1.0
    assert accuracy_at_coverage(selective_accuracies(liar, right)) == pytest.approx(6 / 8)
    assert selective_accuracies(knowing, right).mean() > selective_accuracies(liar, right).mean()
    assert accuracy_at_coverage(selective_accuracies(liar, right), 1.0) == pytest.approx(0.8)


def test_brier_and_nll_worked_by_hand() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]])
    truth = np.array([0, 2])
    assert brier_score(probabilities, truth) == pytest.approx((0.09 + 0.04 + 0.01) / 2)
    assert negative_log_likelihood(probabilities, truth) == pytest.approx(-math.log(0.7) / 2)
    assert brier_score(probabilities, np.array([0, 0])) == pytest.approx((0.14 + 2.0) / 2)


def test_a_probability_of_0_for_the_truth_is_a_large_finite_nll() -> None:
    assert negative_log_likelihood(np.array([[0.0, 1.0]]), np.array([0])) == pytest.approx(
        36.04, abs=0.01
    )


def test_the_majority_is_that_of_training_and_ties_go_by_name() -> None:
    assert majority_baseline(["b", "b", "a"], ["a", "a", "b"]) == pytest.approx(1 / 3)
    assert majority_baseline(["b", "a"], ["a", "a", "b"]) == pytest.approx(2 / 3)
    assert majority_baseline(["z"], ["a"]) == 0.0
    assert majority_baseline([], ["a"]) is None


def test_predictions_without_probabilities_are_left_out_of_brier_only_and_told() -> None:
    rows = [*random_predictions(0, num=3), answer("a", None)]
    result = evaluate(rows, NAMES)
    assert result.num_samples == 4
    assert result.probabilities_frac == 0.75
    assert result.brier == evaluate(rows[:3], NAMES).brier


def test_order_of_predictions_changes_nothing() -> None:
    rows = random_predictions(1)
    ahead, back = evaluate(rows, NAMES), evaluate(rows[::-1], NAMES)
    assert ahead.confusion == back.confusion
    assert (ahead.ece, ahead.nll, ahead.brier) == pytest.approx((back.ece, back.nll, back.brier))
    assert (ahead.selective_accuracy, ahead.aurc) == (back.selective_accuracy, back.aurc)


def test_json_is_strict_and_complete() -> None:
    values = json.loads(evaluate(BY_HAND, NAMES).to_json())
    assert values["per_label"]["c"] == {"support": 0, "predicted": 0, "recall": None, "f1": None}
    assert values["label_names"] == list(NAMES)
    assert values["majority_baseline"] is None


def test_wrong_input_is_refused() -> None:
    with pytest.raises(DataError, match="no predictions"):
        evaluate([], NAMES)
    with pytest.raises(DataError, match="expected two of"):
        confusion_matrix([answer("z", "a")], NAMES)
    with pytest.raises(DataError, match="expected two of"):
        confusion_matrix([answer("a", "z")], NAMES)
    with pytest.raises(DataError, match="3 probabilities"):
        evaluate(
            [p for p in random_predictions(0) if {p.label, p.predicted} <= {"a", "b"}], ("a", "b")
        )
