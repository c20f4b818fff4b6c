"""Calibrated probabilities against scikit-learn's, scipy's softmax, and cases worked by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax
from scipy.special import softmax as scipy_softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from calibrate.calibrator import Calibrator, fit_pool, fit_temperature
from calibrate.metrics import negative_log_likelihood
from wire.errors import DataError

NAMES = ("a", "b", "c")
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def clips(
    seed: int, num: int = 200, num_labels: int = 3, scale: float = 3.0, signal: float = 1.5
) -> tuple[Floats, Ints]:
    """Logprobs that are ``scale`` times too sure, and the true labels."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(num_labels, size=num)
    logits = rng.normal(size=(num, num_labels))
    logits[np.arange(num), truth] += signal
    return log_softmax(logits * scale, axis=1), truth


class Identity(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted classifier whose decision function is its features."""

    def __init__(self, num_labels: int) -> None:
        self.num_labels = num_labels
        self.classes_ = np.arange(num_labels)
        self.is_fitted_ = True

    def fit(self, _x: Any, _y: Any) -> "Identity":
        return self

    def decision_function(self, x: Floats) -> Floats:
        return x if self.num_labels > 2 else (x[:, 1] - x[:, 0]) / 2

    def predict(self, x: Floats) -> Ints:
        return x.argmax(axis=1)


@pytest.mark.parametrize("num_labels", [2, 3, 7])
@pytest.mark.parametrize("seed", range(4))
def test_probabilities_after_temperature_are_those_of_scikit_learn(
    seed: int, num_labels: int
) -> None:
    logprobs, truth = clips(seed, num_labels=num_labels, scale=0.3 + seed)
    names = tuple("abcdefg"[:num_labels])
    library = CalibratedClassifierCV(FrozenEstimator(Identity(num_labels)), method="temperature")
    library.fit(logprobs, truth)
    calibrator = fit_temperature(logprobs, truth, names, "policy")
    fresh, _ = clips(seed + 100, num_labels=num_labels)
    np.testing.assert_allclose(
        calibrator.probabilities({"policy": fresh}), library.predict_proba(fresh), atol=1e-7
    )


def test_a_temperature_of_logits_that_were_scaled_is_the_scale() -> None:
    logprobs, truth = clips(0, num=20_000, scale=1.0)
    before = fit_temperature(logprobs, truth, NAMES, "verdict").temperature
    after = fit_temperature(logprobs * 3, truth, NAMES, "verdict").temperature
    assert before is not None
    assert after == pytest.approx(3 * before, rel=1e-5)


def test_what_looks_like_probabilities_is_taken_as_logits() -> None:
    """scikit-learn takes the logarithm of rows in [0, 1] that sum to 1 (its issue 34313)."""
    logits = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6], [0.5, 0.1, 0.4]] * 9)
    truth = np.array([0, 1, 2, 1] * 9)
    fitted = fit_temperature(logits, truth, NAMES, "head")
    shifted = fit_temperature(logits - 1, truth, NAMES, "head")
    assert fitted.weights["head"] == pytest.approx(shifted.weights["head"], rel=1e-6)


@given(
    st.integers(1, 20),
    st.integers(2, 5),
    st.floats(0.01, 10),
    st.floats(0, 10),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=100, deadline=None)
def test_serving_is_the_softmax_of_the_weighted_sum(
    num: int, num_labels: int, one: float, other: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    policy, verdict = rng.normal(size=(2, num, num_labels)) * 20
    calibrator = Calibrator(
        label_names=tuple("abcde"[:num_labels]), weights={"policy": one, "verdict": other}
    )
    expected = scipy_softmax(one * policy + other * verdict, axis=1)
    probabilities = calibrator.probabilities({"verdict": verdict, "policy": policy - 5.0})
    np.testing.assert_allclose(probabilities, expected, atol=1e-12)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_pool_has_the_least_nll_of_all_weights(seed: int) -> None:
    policy, truth = clips(seed, scale=3.0)
    verdict, _ = clips(seed + 50, scale=0.5)
    verdict[np.arange(len(truth)), truth] += 0.4
    pool = fit_pool({"policy": policy, "verdict": verdict}, truth, NAMES)

    def loss(weights: Floats) -> float:
        probabilities = scipy_softmax(weights[0] * policy + weights[1] * verdict, axis=1)
        return negative_log_likelihood(probabilities, truth)

    best = minimize(loss, [0.1, 0.1], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12})
    assert [pool.weights["policy"], pool.weights["verdict"]] == pytest.approx(best.x, abs=1e-4)


def test_a_source_that_misleads_gets_weight_0_and_is_not_read() -> None:
    policy, truth = clips(1, num=500)
    misleading = -policy
    pool = fit_pool({"policy": policy, "verdict": misleading * 0.1}, truth, NAMES)
    alone = fit_temperature(policy, truth, NAMES, "policy")
    # the difference of the weights is what counts; a negative one alone cannot be had
    only = fit_pool({"verdict": misleading}, truth, NAMES)
    assert only.weights["verdict"] == 0.0
    assert only.sources == ()
    assert only.probabilities({"verdict": misleading}) == pytest.approx(1 / 3)
    together = pool.probabilities({"policy": policy, "verdict": misleading * 0.1})
    np.testing.assert_allclose(together, alone.probabilities({"policy": policy}), atol=1e-4)


def test_a_clip_without_a_trace_is_uniform_and_changes_no_fit() -> None:
    logprobs, truth = clips(2)
    holed = np.concatenate([logprobs, np.full((5, 3), np.nan)])
    known = fit_temperature(logprobs, truth, NAMES, "policy")
    fitted = fit_temperature(holed, np.concatenate([truth, [0] * 5]), NAMES, "policy")
    assert fitted == known
    assert fitted.probabilities({"policy": holed})[-1].tolist() == [1 / 3] * 3


def test_a_label_that_cannot_be_has_probability_exactly_0() -> None:
    logprobs, truth = clips(3)
    logprobs[:, 2] = -np.inf
    calibrator = fit_temperature(logprobs, truth, NAMES, "head")
    some = truth != 2
    two = fit_temperature(logprobs[some][:, :2], truth[some], NAMES[:2], "head")
    assert calibrator.weights["head"] == pytest.approx(two.weights["head"], rel=1e-6)
    assert (calibrator.probabilities({"head": logprobs})[:, 2] == 0).all()
    nothing = np.full((1, 3), -np.inf)
    assert calibrator.probabilities({"head": nothing}) == pytest.approx(1 / 3)


def test_clips_all_answered_right_give_laplaces_confidence_not_certainty() -> None:
    logprobs, _ = clips(4, num=30)
    truth = logprobs.argmax(axis=1)
    for calibrator in (
        fit_temperature(logprobs, truth, NAMES, "policy"),
        fit_pool({"policy": logprobs, "verdict": logprobs * 2}, truth, NAMES),
    ):
        given = {"policy": logprobs, "verdict": logprobs * 2}
        confidence = calibrator.probabilities(given).max(axis=1)
        assert confidence.mean() == pytest.approx(31 / 32)


def test_one_label_may_be_absent_and_no_clip_at_all_leaves_the_source_as_it_is() -> None:
    logprobs, truth = clips(5)
    some = truth != 1
    assert fit_temperature(logprobs[some], truth[some], NAMES, "policy").weights["policy"] > 0
    nothing = fit_temperature(np.zeros((0, 3)), [], NAMES, "policy")
    assert nothing.weights == {"policy": 1.0}
    assert fit_pool({"policy": np.zeros((0, 3))}, [], NAMES).weights == {"policy": 1.0}


def test_all_ties_leave_the_temperature_at_1() -> None:
    fitted = fit_temperature(np.zeros((10, 3)), [0] * 10, NAMES, "vote")
    assert fitted.temperature == 1.0


def test_wrong_input_is_refused() -> None:
    calibrator = Calibrator(label_names=NAMES, weights={"policy": 1.0, "verdict": 1.0})
    rows = np.zeros((2, 3))
    with pytest.raises(DataError, match=r"\['verdict'\] are missing"):
        calibrator.probabilities({"policy": rows})
    with pytest.raises(DataError, match="one row for each clip"):
        calibrator.probabilities({"policy": rows, "verdict": np.zeros((3, 3))})
    with pytest.raises(DataError, match=r"\[N, L\]"):
        calibrator.probabilities({"policy": rows[0], "verdict": rows})
    half = rows.copy()
    half[0, 0] = np.nan
    with pytest.raises(DataError, match="NaN for some labels"):
        calibrator.probabilities({"policy": half, "verdict": rows})
    with pytest.raises(DataError, match="indices below 3"):
        fit_temperature(rows, [0, 3], NAMES, "policy")
    with pytest.raises(DataError, match="expected a finite weight"):
        Calibrator(label_names=NAMES, weights={"policy": -1.0})
    with pytest.raises(DataError, match="two or more"):
        Calibrator(label_names=("a", "a"), weights={"policy": 1.0})
