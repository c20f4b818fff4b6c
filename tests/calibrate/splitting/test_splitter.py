"""A label of a head is split by texts alone, and by clips of its parts."""

from dataclasses import replace

import numpy as np
import pytest

from calibrate.splitting.edit import SplitHead
from calibrate.splitting.label_texts import LabelTexts
from calibrate.splitting.splitter import Method, Shots, Splitting, standardised, texts_of_split
from tests.calibrate.splitting.head_classifiers import (
    COARSE,
    LAST,
    NAMES,
    PARTS,
    Words,
    features_of,
    make_head,
)
from wire.errors import DataError


def splitting(given: LabelTexts | None = None) -> Splitting:
    texts = texts_of_split(given or LabelTexts(), NAMES, COARSE, PARTS)
    return Splitting(head=make_head(), label=COARSE, texts=texts, into=PARTS)


def answers(split: Splitting, head: SplitHead) -> list[str]:
    clips = np.stack([features_of("left", last) for last in LAST])
    names = (*head.names, *head.parts)
    return [names[i] for i in head.probabilities(standardised(split.head, clips)).argmax(axis=1)]


@pytest.mark.parametrize("method", ["alignment", "retrieval", "argmax"])
def test_parts_are_told_apart_without_a_clip_of_theirs(method: Method) -> None:
    split = splitting()
    head, sources = split.zero_shot(method, Words(), seed=0)
    assert answers(split, head) == list(PARTS)
    if method != "alignment":
        ends = {part: source.split()[-1] for part, source in sources.items()}
        assert ends == {part: part.split()[-1] for part in PARTS}


def test_only_groups_that_stay_are_in_the_dictionary() -> None:
    dictionary = splitting().dictionary
    assert (len(dictionary.labels), dictionary.groups) == (6, ("down then", "up then"))
    assert COARSE not in dictionary.singletons, "the label that is split teaches nothing"
    for group in (0, 1):
        rows = dictionary.modifiers[np.array(dictionary.group_of) == group]
        np.testing.assert_allclose(rows.sum(axis=0), 0, atol=1e-12)


def test_texts_of_a_file_come_before_proposals() -> None:
    mine = LabelTexts(modifiers={"left then up": "ends up", "down then up": "ends up"})
    texts = texts_of_split(mine, NAMES, COARSE, PARTS)
    assert texts.modifiers["left then up"] == "ends up"
    assert texts.modifiers["left then grow"] == "grow"
    assert "left then up" not in texts.proposed
    assert "left then grow" in texts.proposed


def test_a_file_that_groups_the_parts_otherwise_is_refused() -> None:
    given = LabelTexts(groups={"l": ("left then up", "left then grow")})
    with pytest.raises(DataError, match="name the same labels in both"):
        texts_of_split(given, NAMES, COARSE, PARTS)


def test_groups_of_labels_that_the_classifier_has_not_are_left_out() -> None:
    known = {"u": tuple(n for n in NAMES if n.startswith("up"))}
    given = LabelTexts(groups={**known, "other": ("x then y", "x then z")})
    assert set(texts_of_split(given, NAMES, COARSE, PARTS).groups) == {"u", "left then"}


def test_two_parts_with_one_phrase_are_refused_as_no_clip_would_tell_them_apart() -> None:
    same = LabelTexts(modifiers={"left then up": "ends up", "left then grow": "ends  up"})
    with pytest.raises(DataError, match=r"'left then grow' and 'left then up' have one phrase"):
        texts_of_split(same, NAMES, COARSE, PARTS)


def test_a_mistyped_label_of_a_group_is_named() -> None:
    given = LabelTexts(groups={"u": ("up then grow", "up then lefft")})
    with pytest.raises(DataError, match="did you mean 'up then left'"):
        texts_of_split(given, NAMES, COARSE, PARTS)


def test_a_fine_bias_takes_back_what_many_clips_gave_the_label() -> None:
    split = splitting()
    bias = split.head.bias.copy()
    bias[NAMES.index(COARSE)] = 9.0
    split = replace(split, head=replace(split.head, bias=bias))
    copied, _ = split.zero_shot("retrieval", Words(), seed=0)
    fine, _ = replace(split, bias="fine").zero_shot("retrieval", Words(), seed=0)
    np.testing.assert_array_equal(copied.biases, [9.0] * 3)
    others = [b for name, b in zip(NAMES, bias, strict=True) if name != COARSE]
    np.testing.assert_allclose(fine.biases, [np.mean(others)] * 3)
    clip = standardised(split.head, features_of("up", "up")[None])
    names = (*NAMES, *PARTS)
    assert names[int(copied.probabilities(clip).argmax())] in PARTS, "it draws the clip in"
    assert names[int(fine.probabilities(clip).argmax())] == "up then up"


def test_clips_of_the_parts_train_their_rows_alone() -> None:
    split = splitting()
    start = split.with_vectors(np.zeros((3, split.head.weight.shape[1])))
    shots = Shots(features=np.stack([features_of("left", x) for x in LAST]), parts=PARTS)
    learned = split.low_shot(start, shots, seed=0)
    assert learned.weight is split.head.weight
    assert answers(split, learned) == list(PARTS)
    with pytest.raises(DataError, match="expected parts"):
        split.low_shot(start, replace(shots, parts=("up then up",) * 3), seed=0)
