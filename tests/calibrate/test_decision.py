import numpy as np
import pytest

from calibrate.calibration import Calibration
from calibrate.calibrator import Calibrator
from calibrate.conformal import PredictionSets
from calibrate.decision import decide
from calibrate.risk import fit_threshold
from wire.errors import DataError

NAMES = ("a", "b", "c")


def calibration(limit: float | None = 0.6, threshold: bool = True) -> Calibration:
    sets = PredictionSets(
        kind="marginal",
        coverage=0.9,
        label_names=NAMES,
        num_samples=100,
        num_per_label=(40, 30, 30),
        limits=(limit,) * 3,
        num_needed=9,
    )
    fitted = fit_threshold(np.full(100, 0.8), np.ones(100) > 0, 0.1, start=0.8)
    return Calibration(
        calibrator=Calibrator(label_names=NAMES, weights={"policy": 1.0}),
        sets=(sets,),
        thresholds=(fitted,) if threshold else (),
    )


def codes(row: list[float], of: Calibration, **how: object) -> list[str]:
    decision = decide(row, of, **how)  # type: ignore[arg-type]
    assert (decision.action == "auto") == (not decision.reasons)
    return [reason.code for reason in decision.reasons]


def test_a_sure_clip_is_decided_automatically() -> None:
    decision = decide([0.1, 0.85, 0.05], calibration())
    assert (decision.label, decision.confidence, decision.action) == ("b", 0.85, "auto")
    assert decision.prediction_set == ("b",)
    assert decision.probabilities == {"a": 0.1, "b": 0.85, "c": 0.05}


def test_each_thing_that_lacks_is_a_reason() -> None:
    unsure, sure = [0.45, 0.45, 0.1], [0.95, 0.05, 0.0]
    lax = calibration()
    assert codes(sure, lax) == []
    low = Calibration(calibrator=lax.calibrator, sets=lax.sets, thresholds=())
    assert codes(sure, low) == ["no_threshold"]
    assert codes(sure, lax, parsed=False) == ["unparsed"]
    assert codes(sure, lax, alarm="traces are longer") == ["shift_alarm"]
    assert codes([0.35, 0.33, 0.32], lax) == ["empty_set"]
    assert codes(unsure, lax, single_label_only=True) == ["several_labels"]
    unattainable = Calibration(
        calibrator=lax.calibrator, thresholds=(fit_threshold([0.9], [True], 0.1),)
    )
    assert codes(sure, unattainable) == ["no_threshold"]
    strict = Calibration(
        calibrator=lax.calibrator,
        thresholds=(fit_threshold([0.9] * 50 + [0.5] * 50, np.arange(100) < 50, 0.1, start=0.9),),
    )
    assert codes(unsure, strict) == ["below_threshold"]


def test_a_clip_without_a_trace_is_uniform_and_reviewed() -> None:
    decision = decide([np.nan] * 3, calibration())
    assert decision.probabilities == dict.fromkeys(NAMES, 1 / 3)
    assert decision.reasons[0].code == "no_trace"
    assert decision.action == "review"


def test_a_tie_goes_to_the_first_label_and_unattainable_sets_have_all() -> None:
    decision = decide([0.4, 0.4, 0.2], calibration(limit=None))
    assert decision.label == "a"
    assert decision.prediction_set == NAMES


def test_an_alarm_is_told_in_its_own_words() -> None:
    decision = decide([1.0, 0.0, 0.0], calibration(), alarm="half of the answers are unparsed")
    assert [reason.text for reason in decision.reasons] == ["half of the answers are unparsed"]


def test_another_number_of_labels_is_refused() -> None:
    with pytest.raises(DataError, match=r"expected \[3\]"):
        decide([0.5, 0.5], calibration())
