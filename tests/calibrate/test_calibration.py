import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrate.calibration import (
    Calibration,
    SplitFigures,
    automatic_by_group,
    coverage_by_group,
)
from calibrate.calibrator import Calibrator, Source
from calibrate.conformal import fit_sets
from calibrate.figures import measure
from calibrate.risk import choose_start, fit_threshold
from calibrate.selection import fit_candidates, plateau, select
from wire.errors import DataError
from wire.whole_file import write_json

NAMES = ("a", "b", "c")


def whole(num: int = 80) -> Calibration:
    """A calibration with everything, fitted to random clips."""
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=num)
    ids = [f"clip-{n}" for n in range(num)]
    logprobs: dict[Source, object] = {}
    for source in ("policy", "verdict"):
        rows = rng.normal(size=(num, 3))
        rows[np.arange(num), truth] += 1.5
        logprobs[source] = rows
    selection = select(fit_candidates(logprobs, truth, NAMES, ids), truth, ids)  # type: ignore[arg-type]
    calibrator = selection.candidate().calibrator
    probabilities = calibrator.probabilities(logprobs)  # type: ignore[arg-type]
    figures = measure(probabilities, truth)
    right = probabilities.argmax(axis=1) == truth
    confidence = probabilities.max(axis=1)
    sets = tuple(
        fit_sets(probabilities, truth, NAMES, 0.9, kind)
        for kind in ("marginal", "class_conditional")
    )
    return Calibration(
        calibrator=calibrator,
        sets=sets,
        thresholds=(
            fit_threshold(confidence, right, 0.3),
            fit_threshold(confidence, right, 0.01),
            fit_threshold(
                confidence, right, 0.3, start=choose_start(confidence, right, 0.3, 0.9, num)
            ),
        ),
        selection=selection,
        plateau=plateau([1, 2, 3, 4, 5], [2.0, 1.5, 1.2, 1.19, 1.19]),
        figures=(SplitFigures(split="test", before=figures, after=figures),),
        coverage=coverage_by_group(sets[0], probabilities, truth, ["old", "new"] * (num // 2)),
        automatic=automatic_by_group(
            fit_threshold(confidence, right, 0.3), confidence, right, ["old", "new"] * (num // 2)
        ),
        num_samples={"val": num},
    )


def test_json_keeps_every_bit(tmp_path: Path) -> None:
    calibration = whole()
    text = json.dumps(calibration.to_json(), allow_nan=False)
    assert Calibration.from_json(text) == calibration
    assert Calibration.from_json(json.loads(text)) == calibration
    write_json(tmp_path / "calibration.json", calibration.to_json())
    assert Calibration.from_json((tmp_path / "calibration.json").read_bytes()) == calibration


@given(st.floats(0, 1e300), st.floats(0, 1, exclude_min=True))
@settings(deadline=None)
def test_any_weight_and_limit_comes_back_as_it_was(weight: float, limit: float) -> None:
    calibration = whole_once()
    sets = replace(calibration.sets[0], limits=(limit, None, limit))
    changed = replace(
        calibration,
        calibrator=Calibrator(label_names=NAMES, weights={"policy": weight}),
        sets=(sets,),
    )
    assert Calibration.from_json(json.dumps(changed.to_json())) == changed


_ONCE: list[Calibration] = []


def whole_once() -> Calibration:
    if not _ONCE:
        _ONCE.append(whole())
    return _ONCE[0]


def test_a_small_calibration_is_one_too() -> None:
    small = Calibration(calibrator=Calibrator(label_names=NAMES, weights={"head": 0.5}))
    assert Calibration.from_json(small.to_json()) == small


def test_coverage_is_measured_for_each_group_beside_the_promise() -> None:
    rows = np.eye(3)[[0, 1, 2] * 20]
    sets = fit_sets(rows, [0, 1, 2] * 20, NAMES)
    truth, groups = np.array([0, 1, 2] * 20), np.array(["old looks", "new looks"] * 30)
    truth[groups == "new looks"] = (truth[groups == "new looks"] + 1) % 3
    rows_of = {one.group: one for one in coverage_by_group(sets, rows, truth, groups.tolist())}
    assert list(rows_of) == ["all", "new looks", "old looks"]
    assert [one.measured.share for one in rows_of.values()] == [0.5, 0.0, 1.0]
    assert {one.promise for one in rows_of.values()} == {0.9}
    assert len(coverage_by_group(sets, rows, truth, ["x"] * 60)) == 1
    with pytest.raises(DataError, match="one of each per clip"):
        coverage_by_group(sets, rows, truth, ["x"])


def test_errors_of_automatic_decisions_are_measured_for_each_group() -> None:
    threshold = fit_threshold([0.9] * 60, [True] * 60, 0.1, start=0.9)
    confidence = [0.95, 0.9, 0.2, np.nan, 0.95, 0.1]
    right = [True, False, False, True, True, True]
    groups = ["old", "new", "old", "new", "old", "old"]
    rows = {one.group: one for one in automatic_by_group(threshold, confidence, right, groups)}
    counts = {
        name: (one.measured.num_samples, one.measured.num_automatic, one.measured.num_wrong)
        for name, one in rows.items()
    }
    value = threshold.value
    assert value is not None
    assert value < 0.1  # all right, so every confidence is enough
    assert counts == {"all": (6, 5, 2), "new": (2, 1, 1), "old": (4, 4, 1)}
    assert (rows["new"].promise, rows["new"].measured.error) == (0.1, 1.0)
    nothing = automatic_by_group(threshold, [np.nan], [True], ["old"])[0].measured
    assert (nothing.num_automatic, nothing.error, nothing.low) == (0, None, None)
    few = fit_threshold([0.9], [True], 0.1)
    assert automatic_by_group(few, confidence, right, groups) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("calibrator"), "calibrator"),
        (lambda v: v.update(format=2), "format 2, expected 1"),
        (lambda v: v.update(extra=1), "extra"),
        (lambda v: v["calibrator"]["weights"].update(oracle=1.0), "policy"),
        (lambda v: v["calibrator"]["weights"].update(policy="1"), "number"),
        (lambda v: v["calibrator"]["weights"].update(policy=-1.0), "weight -1.0"),
        (lambda v: v["sets"][0].update(label_names=["a", "b", "d"]), "prediction sets are of"),
        (lambda v: v["sets"][0].update(limits=[0.5]), "prediction sets are of"),
        (lambda v: v["sets"][0].update(limits=[float("nan"), 0.5, 0.5]), "JSON compliant"),
        (lambda v: v["thresholds"][0].update(value=float("inf")), "JSON compliant"),
    ],
)
def test_what_is_no_calibration_is_refused(change: object, message: str) -> None:
    values = json.loads(json.dumps(whole_once().to_json()))
    change(values)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        Calibration.from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 1}', "null"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(DataError):
        Calibration.from_json(text)
