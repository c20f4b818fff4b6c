import numpy as np
import pytest

from calibrate.conformal import fit_sets
from calibrate.decision import decide
from calibrate.service.decisions.outcome import Outcome, outcome_of
from calibrate.service.policies.policy import ActivePolicy, Policy, PolicyAction
from calibrate.thresholds.label_threshold import LabelThreshold, Target
from tests.calibrate.service.deciding import NAMES, make_calibration, make_evidence, make_policy

CALIBRATION = make_calibration()


def active(
    action: PolicyAction, value: float | None, label: str = "abnormal", target: Target = "precision"
) -> ActivePolicy:
    policy = make_policy(id=f"{action}-{label}", action=action, label=label, target=target)
    threshold = LabelThreshold(
        label=label,
        target=target,
        goal=0.9,
        confidence=0.9,
        value=value,
        num_held_out=100,
        num_fired=50,
        num_counted=50,
        num_wrong=1,
        bound=0.95,
        num_needed=30,
    )
    kept = Policy(**policy.model_dump(), version=1, created_at="now", created_by="ada")
    return ActivePolicy(policy=kept, threshold=threshold)


def codes(outcome: Outcome) -> list[str]:
    return [one.code for one in outcome.reasons]


def test_without_policies_it_is_the_classifiers_own_decision():
    for abnormal in (0.05, 0.3, 0.8, 0.95):
        evidence = make_evidence(abnormal)
        outcome = outcome_of(evidence, CALIBRATION)
        rows = {"policy": [evidence.logprobs["policy"]]}
        own = decide(CALIBRATION.calibrator.probabilities(rows)[0], CALIBRATION)
        assert outcome.decision == own
        assert (outcome.action, codes(outcome)) == (own.action, [one.code for one in own.reasons])
        assert outcome.decided_by == "threshold"


@pytest.mark.parametrize(
    ("abnormal", "policies", "action", "reasons", "by"),
    [
        (0.7, [active("auto", 0.6)], "auto", [], "policies"),
        (0.7, [active("pass", 0.6)], "pass", [], "policies"),
        (0.7, [active("pass", 0.6), active("auto", 0.6)], "auto", [], "policies"),
        (0.7, [active("auto", 0.6), active("review", 0.65)], "review", ["policy"], "policies"),
        # what acts alone stands in place of the classifier's own threshold, 0.9
        (0.99, [active("auto", None)], "review", ["no_policy"], "policies"),
        (0.01, [active("auto", 0.6)], "review", ["no_policy"], "policies"),
        (0.01, [active("auto", 0.6), active("pass", 0.9, "normal")], "pass", [], "policies"),
        # policies that ask for reviews leave it in force
        (0.95, [active("review", 0.99)], "auto", [], "threshold"),
        (0.7, [active("review", 0.99)], "review", ["below_threshold"], "threshold"),
        (0.7, [active("review", 0.6)], "review", ["policy", "below_threshold"], "policies"),
    ],
)
def test_policies_are_combined_as_stated(abnormal, policies, action, reasons, by):
    outcome = outcome_of(make_evidence(abnormal), CALIBRATION, policies)
    assert (outcome.action, codes(outcome), outcome.decided_by) == (action, reasons, by)
    assert [one.id for one in outcome.policies] == [one.policy.id for one in policies]


@pytest.mark.parametrize("action", ["auto", "pass"])
def test_no_policy_makes_an_unreadable_clip_or_an_alarm_automatic(action):
    policies = [active(action, 0.0)]
    unread = outcome_of(make_evidence(0.99, parsed=False), CALIBRATION, policies)
    nothing = make_evidence(logprobs={"policy": (float("nan"), float("nan"))})
    assert (unread.action, codes(unread)) == ("review", ["unparsed", "no_policy"])
    assert outcome_of(nothing, CALIBRATION, policies).action == "review"
    alarmed = outcome_of(make_evidence(0.99), CALIBRATION, policies, "shift: new looks")
    assert (alarmed.action, codes(alarmed)) == ("review", ["shift_alarm"])
    assert alarmed.decided_by == "safety"
    assert alarmed.reasons[0].text == "shift: new looks"


def test_an_empty_prediction_set_is_for_review_whatever_policies_say():
    truth = np.array([0, 1] * 40)
    rows = np.where(truth[:, None] == np.arange(2), 0.9, 0.1)
    calibration = make_calibration(sets=(fit_sets(rows, truth, NAMES, 0.8),))
    outcome = outcome_of(make_evidence(0.6), calibration, [active("auto", 0.5)])
    assert outcome.decision.prediction_set == ()
    assert (outcome.action, outcome.decided_by) == ("review", "safety")
    assert codes(outcome) == ["empty_set", "no_policy"]
