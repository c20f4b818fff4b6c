from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from calibrate.service.policies.policy import ActivePolicy, Policy, PolicyOutcome
from calibrate.thresholds.label_threshold import derive_threshold
from tests.calibrate.service.deciding import NAMES, make_held_out, make_policy


def active(**changes) -> ActivePolicy:
    policy = Policy(
        **make_policy(**changes).model_dump(), version=1, created_at="now", created_by="ada"
    )
    threshold = derive_threshold(
        make_held_out(),
        None,
        label=policy.label,
        target=policy.target,
        goal=policy.goal,
        confidence=policy.confidence,
        alone=policy.alone,
    )
    return ActivePolicy(policy=policy, threshold=threshold)


def outcome(policy: ActivePolicy, abnormal: float, usable: bool = True) -> PolicyOutcome:
    return policy.outcome(np.array([abnormal, 1 - abnormal]), usable, NAMES)


def test_it_fires_from_its_threshold_on():
    policy = active()
    assert policy.value is not None
    assert outcome(policy, policy.value).fires
    below = outcome(policy, policy.value - 1e-9)
    assert not below.fires
    assert "is below its threshold" in below.why
    assert (below.id, below.version, below.label) == ("take-down", 1, "abnormal")
    assert (below.action, below.threshold) == ("auto", policy.value)


def test_what_acts_alone_acts_on_the_most_probable_label_alone():
    alone = active()
    assert alone.threshold is not None
    alone = replace(alone, threshold=replace(alone.threshold, value=0.3))
    assert outcome(alone, 0.55).fires
    assert "is not the most probable label" in outcome(alone, 0.45).why
    person = active(target="miss_rate", goal=0.3, action="review")
    assert person.value is not None
    assert outcome(person, person.value).fires


def test_a_clip_that_cannot_be_read_is_never_decided_alone_and_never_missed():
    assert not outcome(active(), 1.0, usable=False).fires
    assert outcome(active(target="miss_rate", action="review"), 0.5, usable=False).fires
    assert not outcome(active(action="review"), 1.0, usable=False).fires


@pytest.mark.parametrize(
    ("target", "goal"), [("precision", 0.8), ("precision", 0.9), ("miss_rate", 0.3)]
)
@pytest.mark.parametrize("action", ["auto", "pass", "review"])
@pytest.mark.parametrize("label", NAMES)
def test_it_fires_at_the_held_out_clips_that_its_promise_was_made_of(target, goal, action, label):
    policy = active(target=target, goal=goal, action=action, label=label)
    assert policy.threshold is not None
    assert policy.threshold.attainable
    part, place = make_held_out().held_out, NAMES.index(label)
    fires = np.array([policy.outcome(row, True, NAMES).fires for row in part.probabilities])
    has_label = part.truth == place
    wrong = fires & ~has_label if target == "precision" else ~fires & has_label
    assert fires.sum() == policy.threshold.num_fired
    assert wrong.sum() == policy.threshold.num_wrong


@pytest.mark.parametrize("target", ["precision", "miss_rate"])
@pytest.mark.parametrize("goal", [0.0001, 0.9999])
@pytest.mark.parametrize("confidence", [0.5, 0.9999])
def test_the_most_extreme_targets_have_an_answer(target, goal, confidence):
    for action in ("auto", "review"):
        policy = active(target=target, goal=goal, confidence=confidence, action=action)
        assert policy.threshold is not None
        assert policy.threshold.num_needed >= 1
        assert policy.explanation
        assert 0 <= (policy.threshold.bound or 0) <= 1


def test_a_target_that_is_not_attainable_never_fires_and_says_so():
    policy = active(goal=0.999)
    result = outcome(policy, 1.0)
    assert (result.fires, result.threshold) == (False, None)
    assert "not attainable with these 400 held-out clips" in result.why


def test_a_label_that_the_classifier_does_not_have_never_fires():
    policy = ActivePolicy(policy=active().policy, threshold=None, lacks="no label 'abnormal'")
    result = policy.outcome(np.array([0.5, 0.5]), True, ("a", "b"))
    assert (result.fires, result.probability) == (False, 0.0)
    assert "no label 'abnormal'" in result.why


@pytest.mark.parametrize(
    "change",
    [
        {"id": "Take Down"},
        {"id": ""},
        {"goal": 1.0},
        {"goal": 0.0},
        {"goal": 5e-324},
        {"confidence": 1.0},
        {"goal": float("nan")},
        {"action": "delete"},
        {"owner": ""},
        {"thresh": 0.5},
    ],
)
def test_a_policy_that_promises_nothing_is_refused(change):
    with pytest.raises(ValidationError):
        make_policy(**change)
