from typing import Any

import pytest

from calibrate.published import PublishedClassifier
from tests.calibrate.classifiers import (
    make_calibration,
    measured_calibration,
    published_result,
)
from wire.errors import DataError


def result(**changes: Any) -> dict[str, Any]:
    """A calibration's done.json."""
    return {"classifier": published_result(**changes)}


def test_a_result_is_read_back_whole():
    published = PublishedClassifier.of(result())
    assert published is not None
    assert published.calibration == measured_calibration()
    assert published.on_test == measured_calibration().figures[0]


def test_runs_of_earlier_versions_published_nothing():
    assert PublishedClassifier.of({"verdict": {}}) is None


@pytest.mark.parametrize("values", [{"method": "policy"}, [], {"calibration": {}}])
def test_figures_of_another_version_are_named(values: Any):
    with pytest.raises(DataError):
        PublishedClassifier.of({"classifier": values})


def test_its_lines_say_choice_ece_coverage_and_threshold():
    published = PublishedClassifier.of(result(foreign="policy 0.40 wrote them"))
    assert published is not None
    choice, ece, coverage, threshold, automatic, foreign = published.lines()
    assert choice.startswith("policy+verdict has the best nll on 400 val clips")
    before, after = (
        getattr(published.calibration.figures[0], key).ece for key in ("before", "after")
    )
    assert f"ECE on 400 test clips {before:.3f} before calibration, {after:.3f} after" in ece
    assert "of 90%: " in coverage
    assert "new looks" in coverage
    assert "at most 30% wrong" in threshold
    assert automatic.startswith("automatic decisions promised to be wrong in at most 30%: ")
    assert "new looks" in automatic
    assert foreign == "fitted to traces of another policy: policy 0.40 wrote them"


def test_what_is_not_attained_is_said_once():
    few = measured_calibration(12, 0.01)
    explanation = few.thresholds[0].explanation
    published = PublishedClassifier.of(
        result(calibration=few.to_json(), not_attained=[explanation, "no val clips"])
    )
    assert published is not None
    lines = list(published.lines())
    assert lines.count(explanation) == 1
    assert "no val clips" in lines


def test_a_classifier_without_figures_has_no_lines():
    published = PublishedClassifier.of(result(calibration=make_calibration().to_json()))
    assert published is not None
    assert (published.on_test, list(published.lines())) == (None, [])
