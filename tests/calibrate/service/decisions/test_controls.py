import pytest

from calibrate.decision import decide
from calibrate.service.decisions.controls import control_shown
from tests.calibrate.service.deciding import make_calibration, make_evidence
from wire.types import Failure, FailureKind

CALIBRATION = make_calibration()
OWN = decide([0.9, 0.1], CALIBRATION)


def test_a_control_shows_whether_the_label_changed_and_how_far():
    shown = control_shown(make_evidence(0.2), OWN, CALIBRATION, "shuffled")
    assert shown is not None
    assert (shown.view, shown.label, shown.label_changed) == ("shuffled", "normal", True)
    assert shown.total_variation == pytest.approx(0.7)
    assert "the order of the frames does not matter" in shown.meaning
    same = control_shown(make_evidence(0.9), OWN, CALIBRATION, "blank")
    assert same is not None
    assert not same.label_changed
    assert same.total_variation == pytest.approx(0)


def test_a_view_that_failed_is_no_change_and_says_why():
    failure = Failure(kind=FailureKind.DECODE, culprit="a.mp4", reason="one frame alone")
    shown = control_shown(failure, OWN, CALIBRATION, "shuffled")
    assert shown is not None
    assert (shown.label, shown.label_changed, shown.total_variation) == (None, False, None)
    assert shown.failure == "one frame alone"
    assert control_shown(None, OWN, CALIBRATION, None) is None
