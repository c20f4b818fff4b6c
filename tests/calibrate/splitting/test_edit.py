from dataclasses import replace

import numpy as np
import pytest

from calibrate.splitting.edit import linear_logits, masked_probabilities, split_head
from tests.calibrate.splitting.compositions import compositions
from wire.errors import DataError

WORLD = compositions(noise=0.3)
DRAW = np.random.default_rng(5)
FEATURES = DRAW.normal(size=(200, 96))
VECTORS = DRAW.normal(size=(4, 96))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_old_logits_are_the_same_to_the_last_bit(kind: type):
    weight, bias, features = (a.astype(kind) for a in (WORLD.weight, WORLD.bias, FEATURES))
    before = linear_logits(features, weight, bias)
    parts = ("p", "q", "r", "s")
    head = split_head(WORLD.names, weight, bias, label="group1", parts=parts, vectors=VECTORS)
    after = head.logits(features)
    assert after.shape == (200, len(WORLD.names) + 4)
    assert after.dtype == kind
    assert after[:, : len(WORLD.names)].tobytes() == before.tobytes()


def test_with_zero_vectors_every_part_has_the_coarse_logit_to_the_last_bit():
    head = WORLD.split("group1", np.zeros((4, 96)))
    logits = head.logits(FEATURES)
    coarse = logits[:, [head.coarse]]
    assert np.array_equal(logits[:, -4:], np.repeat(coarse, 4, axis=1))


def test_only_new_rows_are_added_and_biases_are_copied():
    head = WORLD.split("group1", VECTORS)
    assert head.rows.shape == (4, 96)
    np.testing.assert_allclose(head.rows, WORLD.weight[head.coarse] + VECTORS)
    assert np.array_equal(head.biases, np.repeat(WORLD.bias[head.coarse], 4))
    new = linear_logits(FEATURES, head.rows, head.biases)
    np.testing.assert_allclose(head.logits(FEATURES)[:, -4:], new, atol=1e-9)


def test_undo_gives_back_the_arrays_themselves():
    copies = WORLD.weight.copy(), WORLD.bias.copy()
    names, weight, bias = WORLD.split("group1", VECTORS).undo()
    assert names == WORLD.names
    assert weight is WORLD.weight
    assert bias is WORLD.bias
    assert weight.tobytes() == copies[0].tobytes()
    assert bias.tobytes() == copies[1].tobytes()


def test_the_coarse_label_has_probability_zero_and_the_others_add_up_to_one():
    head = WORLD.split("group1", VECTORS)
    p = head.probabilities(FEATURES)
    assert (p[:, head.coarse] == 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1)
    full = np.exp(head.logits(FEATURES))
    full /= full.sum(axis=1, keepdims=True)
    full[:, head.coarse] = 0
    np.testing.assert_allclose(p, full / full.sum(axis=1, keepdims=True), rtol=1e-9)


def test_a_head_with_the_parts_in_the_coarse_labels_stead_says_the_same():
    head = WORLD.split("group1", VECTORS)
    names, weight, bias = head.replaced()
    assert names == tuple(n for n in WORLD.names if n != "group1") + head.parts
    p = np.exp(linear_logits(FEATURES, weight, bias))
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        p, np.delete(head.probabilities(FEATURES), head.coarse, 1), atol=1e-9
    )
    kept = [number for number, name in enumerate(WORLD.names) if name != "group1"]
    assert weight[: len(kept)].tobytes() == WORLD.weight[kept].tobytes()


def test_logits_known_already_are_taken_as_they_are():
    head = WORLD.split("group1", VECTORS)
    old = linear_logits(FEATURES, WORLD.weight, WORLD.bias)
    assert np.array_equal(head.logits(FEATURES, old), head.logits(FEATURES))


def test_parts_that_are_impossible_get_nothing():
    head = WORLD.split("group1", VECTORS)
    head = replace(head, bias_shifts=np.full(4, -np.inf))
    p = head.probabilities(FEATURES)
    assert (p[:, -4:] == 0).all()
    before = masked_probabilities(linear_logits(FEATURES, *head.undo()[1:]), head.coarse)
    np.testing.assert_allclose(p[:, :-4], before, rtol=1e-12)


def test_a_split_can_be_split_again():
    first = WORLD.split("group1", VECTORS)
    names, weight, bias = first.replaced()
    parts = ("one", "two")
    second = split_head(
        names, weight, bias, label="group1 mod2", parts=parts, vectors=np.zeros((2, 96))
    )
    assert second.probabilities(FEATURES).shape == (200, len(names) + 2)


@pytest.mark.parametrize(
    ("label", "parts", "vectors", "reason"),
    [
        ("absent", ("p", "q"), VECTORS[:2], "no label 'absent' to split"),
        ("group1", ("p",), VECTORS[:1], "at least two parts"),
        ("group1", ("p", "p"), VECTORS[:2], r"\['p'\] are named twice"),
        ("group1", ("p", "alone0"), VECTORS[:2], r"\['alone0'\] are labels of the classifier"),
        ("group1", ("p", "q"), VECTORS[:3], r"shape \[3, 96\], expected \[2, 96\]"),
        ("group1", ("p", "q"), VECTORS[:2] * np.nan, "all finite"),
    ],
)
def test_an_edit_that_makes_no_sense_is_refused(
    label: str, parts: tuple[str, ...], vectors: np.ndarray, reason: str
):
    with pytest.raises(DataError, match=reason):
        split_head(WORLD.names, WORLD.weight, WORLD.bias, label=label, parts=parts, vectors=vectors)


def test_a_label_that_was_never_trained_is_not_split():
    bias = WORLD.bias.copy()
    bias[WORLD.names.index("group1")] = -np.inf
    with pytest.raises(DataError, match="no training clips"):
        split_head(
            WORLD.names, WORLD.weight, bias, label="group1", parts=("p", "q"), vectors=VECTORS[:2]
        )
