from dataclasses import replace

import numpy as np
import pytest

from calibrate.splitting.edit import SplitHead, linear_logits, split_head
from calibrate.splitting.metrics import (
    Clips,
    Evaluation,
    PartScore,
    SplitScore,
    average_crops,
    by_modifier_type,
    one_crop_each,
    summarise,
)
from tests.calibrate.splitting.compositions import compositions
from wire.errors import DataError

# Three labels along the axes of R^4; "c" (column 2) is split into two. Features are what a test
# wants the logits to be.
NAMES = ("a", "b", "c")
WEIGHT, BIAS = np.eye(3, 5), np.zeros(3)
PARTS = ("c left", "c right")


def head(vectors: list[list[float]] | None = None) -> SplitHead:
    """Parts have the coarse logit plus the fourth and fifth feature."""
    given = np.eye(5)[3:] if vectors is None else np.array(vectors)
    return split_head(NAMES, WEIGHT, BIAS, label="c", parts=PARTS, vectors=given)


def evaluation(own: Clips, others: Clips) -> Evaluation:
    return Evaluation((WEIGHT, BIAS), 2, PARTS, equivalent=own, unrelated=others)


OWN = one_crop_each(
    np.array(
        [
            [0, 0, 5, 1, 0],  # left, right so
            [0, 0, 5, 0, 1],  # left, taken for right
            [9, 0, 5, 1, 0],  # left, lost to a
            [0, 0, 5, 0, 1],  # right, right so
        ],
        float,
    ),
    np.array([3, 3, 3, 4]),
)
OTHERS = one_crop_each(
    np.array(
        [
            [5, 0, 9, -9, -9],  # a: masked, the coarse label cannot win
            [5, 0, 0, 9, 0],  # a, drawn in by the left part
            [0, 5, 0, 0, 0],  # b
            [5, 0, 0, 0, 0],  # b, wrong before and after
        ],
        float,
    ),
    np.array([0, 0, 1, 1]),
)


def test_generality_counts_a_clip_lost_to_another_class_as_wrong():
    score = evaluation(OWN, OTHERS).score(head())
    assert score.generality == 0.5
    assert score.lost_outside == 0.25
    assert score.confused_inside == 0.25
    assert score.parts == (
        PartScore(label="c left", right=1, total=3),
        PartScore(label="c right", right=1, total=1),
    )


def test_locality_is_accuracy_after_over_before_both_without_the_coarse_label():
    """Unmasked, the first clip would be wrong before the edit: 2 of 2 instead of 2 of 3."""
    score = evaluation(OWN, OTHERS).score(head())
    assert score.locality == pytest.approx(2 / 3)
    assert score.drawn_in == 0.25
    assert score.mean == pytest.approx((0.5 + 2 / 3) / 2)


def test_the_lines_of_a_perfect_coarse_model_are_reported():
    score = evaluation(OWN, OTHERS).score(head())
    assert score.chance == 0.5
    assert score.majority == 0.75


def test_an_edit_with_impossible_rows_has_locality_100():
    world = compositions(noise=0.8)
    edited = world.split("group1", np.zeros((4, 96)))
    edited = replace(edited, bias_shifts=np.full(4, -np.inf))
    score = world.evaluation("group1", 20, 2.0, 0).score(edited)
    assert score.locality == 1.0
    assert score.generality == 0
    assert score.lost_outside == 1


def test_probabilities_of_crops_are_averaged_and_not_their_logits():
    """Two sure crops of three decide, however far the third one's logits reach."""
    crops = np.array([[-9, -9, 0, 9, 0], [-9, -9, 0, 0, 4], [-9, -9, 0, 0, 4.0]])
    own = Clips(features=crops, clips=np.zeros(3, int), truth=np.array([4]))
    assert head().logits(crops).mean(axis=0)[3] > head().logits(crops).mean(axis=0)[4]
    assert evaluation(own, OTHERS).score(head()).generality == 1


def test_crops_may_come_in_any_order_and_number():
    draw = np.random.default_rng(0)
    p, clips = draw.random((7, 3)), np.array([2, 0, 1, 0, 2, 2, 1])
    expected = [p[clips == clip].mean(axis=0) for clip in range(3)]
    np.testing.assert_allclose(average_crops(p, clips), expected)


def test_logits_known_already_change_nothing():
    world = compositions(noise=0.5)
    given = world.evaluation("group1", 10, 1.0, 0)
    vectors = np.random.default_rng(0).normal(size=(4, 96))
    edited = world.split("group1", vectors)
    own, others = (
        replace(clips, logits=linear_logits(clips.features, world.weight, world.bias))
        for clips in (given._equivalent, given._unrelated)
    )
    known = Evaluation(
        (world.weight, world.bias), edited.coarse, edited.parts, equivalent=own, unrelated=others
    )
    assert known.score(edited) == given.score(edited)


def test_a_head_with_other_old_rows_is_measured_by_its_own_logits():
    """As the whole-head control has: locality is against the rows before."""
    others = replace(OTHERS, logits=linear_logits(OTHERS.features, WEIGHT, BIAS))
    forgetful = replace(head(), weight=np.zeros((3, 5)), bias=np.array([0.0, 1.0, 0.0]))
    score = evaluation(OWN, others).score(forgetful)
    assert score.locality == pytest.approx(2 / 3)  # b is right twice, of three right before


def test_a_classifier_that_knows_no_other_clip_has_no_locality():
    others = one_crop_each(np.array([[0, 5, 0, 0, 0.0]]), np.array([0]))
    score = evaluation(OWN, others).score(head())
    assert score.locality is None
    assert score.mean is None
    assert summarise({0: [score]}).locality is None


@pytest.mark.parametrize(
    ("own", "others", "reason"),
    [
        ([3, 5], [0, 1], r"columns \[3, 5\]; expected .* from 3 to 4"),
        ([2, 3], [0, 1], r"columns \[2, 3\]"),
        ([3, 4], [0, 2], r"none of the split label \(2\)"),
        ([3, 4], [0, 3], "below 3"),
        ([3, 4], [-1, 0], "below 3"),
    ],
)
def test_clips_with_labels_of_the_other_kind_are_refused(
    own: list[int], others: list[int], reason: str
):
    features = np.zeros((2, 5))
    with pytest.raises(DataError, match=reason):
        evaluation(
            one_crop_each(features, np.array(own)), one_crop_each(features, np.array(others))
        )


def test_a_clip_without_features_is_refused():
    with pytest.raises(DataError, match="1 clips, and 2 clips have labels"):
        Clips(features=np.zeros((2, 5)), clips=np.zeros(2, int), truth=np.array([0, 1]))


def score_of(generality: float, locality: float | None, parts: tuple[PartScore, ...]) -> SplitScore:
    return SplitScore(
        generality=generality,
        locality=locality,
        chance=0.5,
        majority=0.75,
        lost_outside=0.0,
        confused_inside=1 - generality,
        drawn_in=0.0,
        parts=parts,
    )


def test_means_are_over_targets_and_seeds():
    left = PartScore(label="x left", right=1, total=4)
    scores = {
        seed: [score_of(g, 1.0, (left,)), score_of(g + 0.2, 0.9, (left,))]
        for seed, g in enumerate((0.3, 0.4, 0.5))
    }
    summary = summarise(scores)
    assert summary.generality == pytest.approx(0.5)
    assert summary.locality == pytest.approx(0.95)
    assert summary.mean == pytest.approx(0.725)
    assert summary.generality_deviation == pytest.approx(0.1)
    assert (summary.num_targets, summary.num_seeds) == (2, 3)
    assert (summary.chance, summary.majority) == (0.5, 0.75)
    assert summarise({0: scores[0]}).generality_deviation is None


def test_modifier_types_have_their_own_rows():
    parts = (
        PartScore(label="x left", right=1, total=4),
        PartScore(label="x right", right=3, total=4),
        PartScore(label="x twice", right=1, total=1),
        PartScore(label="x never", right=0, total=0),
    )
    types = {"x left": "direction", "x right": "direction", "x never": "count"}
    rows = by_modifier_type([score_of(0.5, 1.0, parts)], types)
    assert rows == {"direction": (0.5, 8), "other": (1.0, 1)}
