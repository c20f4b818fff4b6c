import numpy as np
import pytest

from calibrate.conformal import fit_sets
from calibrate.thresholds.held_out import HeldOut, ScoredPart
from calibrate.thresholds.label_threshold import (
    LabelThreshold,
    derive_threshold,
    label_scores,
    usable_rows,
)
from wire.errors import DataError

NAMES = ("abnormal", "normal")
NOTHING = ScoredPart.of([], np.empty((0, 2)))


def scored(part: ScoredPart, val: ScoredPart = NOTHING) -> HeldOut:
    return HeldOut(label_names=NAMES, held_out=part, val=val)


def derive(part: ScoredPart, val: ScoredPart = NOTHING, **changes) -> LabelThreshold:
    values = {
        "label": "abnormal",
        "target": "precision",
        "goal": 0.8,
        "confidence": 0.9,
        "alone": True,
    }
    return derive_threshold(scored(part, val), None, **{**values, **changes})


def drawn(draw: np.random.Generator, num: int) -> ScoredPart:
    """Clips whose probabilities are right on average, as those of a calibrated classifier."""
    own = draw.beta(0.7, 0.7, size=num)
    truth = (draw.random(num) >= own).astype(int)
    return ScoredPart.of(truth, np.stack([own, 1 - own], axis=1), draw.random(num) < 0.95)


def test_a_miss_rate_by_hand():
    """10 clips with the label, the lowest at 0.5: with none missed, (1 - 0.3)^10 = 0.028 < 0.1;
    with one missed, P(Bin(10, 0.3) <= 1) = 0.149 > 0.1."""
    own = [0.95, 0.9, 0.9, 0.8, 0.8, 0.7, 0.7, 0.6, 0.6, 0.5, 0.2, 0.7]
    truth = [0] * 10 + [1, 1]
    part = ScoredPart.of(truth, [[p, 1 - p] for p in own])
    threshold = derive(part, target="miss_rate", goal=0.3, alone=False)
    assert threshold.value == 0.5
    assert (threshold.num_wrong, threshold.num_counted, threshold.num_fired) == (0, 10, 11)
    assert threshold.bound == pytest.approx(1 - 0.1 ** (1 / 10))
    assert threshold.num_needed == 7  # 0.7^7 = 0.082
    assert (
        "fires from probability 0.5, at 11 of 12 held-out clips (0 of 10" in threshold.explanation
    )


def test_too_few_clips_make_a_target_not_attainable_and_say_what_it_takes():
    part = ScoredPart.of([0, 0, 1], [[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]])
    missed = derive(part, target="miss_rate", goal=0.05)
    precise = derive(part, target="precision", goal=0.95)
    assert (missed.value, precise.value) == (None, None)
    assert not missed.attainable
    assert missed.num_needed == 45  # 0.95^45 < 0.1
    assert "not attainable with these 3 held-out clips" in missed.explanation
    assert "it takes 45 clips with the label" in missed.explanation
    assert "sure clips" in precise.explanation


def test_what_is_not_attainable_shows_a_bound_that_misses_the_goal():
    """By chance the threshold that val clips chose has too few held-out clips."""
    draw, num_missed = np.random.default_rng(5), 0
    for _ in range(40):
        threshold = derive(drawn(draw, 400), drawn(draw, 400), goal=0.97)
        if threshold.value is None:
            num_missed += 1
            assert threshold.bound is None or threshold.bound < 0.97
    assert num_missed


@pytest.mark.parametrize("target", ["precision", "miss_rate"])
def test_without_a_clip_nothing_is_attainable(target):
    threshold = derive(NOTHING, target=target)
    assert (threshold.value, threshold.bound, threshold.num_held_out) == (None, None, 0)


def test_a_precision_is_one_of_the_clips_that_it_fires_at():
    draw = np.random.default_rng(3)
    part = drawn(draw, 2000)
    threshold = derive(part, drawn(draw, 2000), goal=0.9)
    assert threshold.value is not None
    scores = label_scores(part.probabilities, part.read, 0, target="precision", alone=True)
    fired = scores >= threshold.value
    assert threshold.num_fired == fired.sum()
    assert threshold.num_wrong == (part.truth[fired] != 0).sum()
    assert 0.9 <= threshold.bound <= 1 - threshold.num_wrong / threshold.num_fired


@pytest.mark.parametrize(("target", "alone"), [("precision", True), ("miss_rate", False)])
def test_the_promise_is_kept_in_as_many_draws_as_stated(target, alone):
    """Thresholds from 300 draws of held-out clips, each against what is true of all clips."""
    draw = np.random.default_rng(0)
    everything = drawn(draw, 200_000)
    goal, broken, attained = (0.85 if target == "precision" else 0.15), 0, 0
    scores = label_scores(everything.probabilities, everything.read, 0, target=target, alone=alone)
    for _ in range(300):
        threshold = derive(
            drawn(draw, 250), drawn(draw, 250), target=target, goal=goal, alone=alone
        )
        if threshold.value is None:
            continue
        attained += 1
        fired = scores >= threshold.value
        if target == "precision":
            broken += (everything.truth[fired] == 0).mean() < goal
        else:
            broken += (~fired[everything.truth == 0]).mean() > goal
    assert attained > 200
    assert broken / 300 <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 300)


def test_what_acts_alone_needs_a_readable_clip_and_the_most_probable_label():
    rows = [[0.7, 0.3], [0.7, 0.3], [0.3, 0.7]]
    alone = label_scores(rows, [True, False, True], 0, target="precision", alone=True)
    assert alone[0] == 0.7
    assert np.isnan(alone[1:]).all()
    person = label_scores(rows, [True, False, True], 0, target="miss_rate", alone=False)
    assert person.tolist() == [0.7, 1.0, 0.3]  # a person looks at what cannot be read
    precise = label_scores(rows, [True, False, True], 0, target="precision", alone=False)
    assert np.isnan(precise[1])


def test_a_clip_with_an_empty_set_is_not_usable():
    truth = np.array([0, 1] * 40)
    rows = np.where(truth[:, None] == np.arange(2), 0.9, 0.1)
    sets = fit_sets(rows, truth, NAMES, 0.8)
    usable = usable_rows([[0.9, 0.1], [0.55, 0.45], [0.9, 0.1]], [True, True, False], sets)
    assert usable.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"label": "odd"}, "no label 'odd'; expected one of"),
        ({"goal": 1.0}, "must both be in"),
        ({"confidence": 0.0}, "must both be in"),
    ],
)
def test_what_cannot_be_derived_is_refused(change, why):
    with pytest.raises(DataError, match=why):
        derive(NOTHING, **change)
