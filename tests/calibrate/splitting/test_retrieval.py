from itertools import pairwise

import numpy as np
import pytest

from calibrate.splitting.config import RetrievalConfig
from calibrate.splitting.retrieval import (
    assign_argmax,
    assign_greedy,
    cosines,
    retrieve,
    similarities,
)
from tests.calibrate.splitting.compositions import WordVectors, compositions
from wire.errors import DataError

ENCODER = WordVectors()


def test_each_entry_serves_one_part_and_the_largest_similarity_goes_first():
    scores = np.array([[0.9, 0.8, 0.1], [0.95, 0.2, 0.3], [0.94, 0.7, 0.6]])
    assert assign_greedy(scores).tolist() == [1, 0, 2]
    assert assign_argmax(scores).tolist() == [0, 0, 0]


def test_the_assignment_does_not_change_the_similarities():
    scores = np.array([[0.5, 0.5], [0.5, 0.5]])
    assert assign_greedy(scores).tolist() == [0, 1]
    assert (scores == 0.5).all()


def test_more_parts_than_entries_are_refused_by_the_one_to_one_assignment_alone():
    scores = np.zeros((3, 2))
    with pytest.raises(DataError, match="3 parts but only 2 modifiers"):
        assign_greedy(scores)
    assert len(assign_argmax(scores)) == 3


def test_cosines_ignore_length_and_a_row_of_zeros_is_near_nothing():
    rows = np.array([[3.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(cosines(rows, np.array([[1.0, 1.0]])), [[0.5**0.5], [0.0]])


def test_similarity_is_alpha_of_the_modifiers_and_beta_of_the_labels():
    world = compositions()
    parts, d = world.parts("group0"), world.dictionary
    both = similarities(parts, d, ENCODER, RetrievalConfig(alpha=0.3, beta=2.0))
    modifiers = cosines(ENCODER.encode([p.modifier for p in parts]), ENCODER.encode(d.texts))
    labels = cosines(ENCODER.encode([p.label for p in parts]), ENCODER.encode(d.labels))
    np.testing.assert_allclose(both, 0.3 * modifiers + 2.0 * labels)


def test_a_part_gets_the_vector_of_its_modifier():
    world = compositions(noise=0.2)
    result = retrieve(world.parts("group0"), world.dictionary, ENCODER)
    assert [choice.modifier for choice in result.choices] == ["mod0", "mod1", "mod2", "mod3"]
    for vector, choice in zip(result.vectors, result.choices, strict=True):
        entry = world.dictionary.labels.index(choice.label)
        assert np.array_equal(vector, world.dictionary.modifiers[entry])
    labels = [choice.label for choice in result.choices]
    assert len(set(labels)) == len(labels)


def test_argmax_may_give_two_parts_the_same_row():
    world = compositions()
    part = world.parts("group0")[1]
    twins = [part, part]
    config = RetrievalConfig(assignment="argmax")
    same = retrieve(twins, world.dictionary, ENCODER, config)
    assert same.choices[0].label == same.choices[1].label
    other = retrieve(twins, world.dictionary, ENCODER)
    assert other.choices[0].label != other.choices[1].label


def test_retrieval_gives_the_same_every_time():
    world = compositions(noise=0.5)
    first, second = (retrieve(world.parts("group1"), world.dictionary, ENCODER) for _ in range(2))
    assert first.choices == second.choices
    assert np.array_equal(first.vectors, second.vectors)


def test_unseen_compositions_are_recovered():
    world = compositions(noise=0.1)
    for target in world.targets:
        head = world.split(target, retrieve(world.parts(target), world.dictionary, ENCODER).vectors)
        score = world.evaluation(target, 10, 0.3, 1).score(head)
        assert score.generality > 0.95
        assert score.locality is not None
        assert score.locality > 0.95


def test_generality_degrades_smoothly_as_rows_are_less_compositional():
    curve = []
    for noise in (0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0):
        world = compositions(noise=noise, num_split=6, seed=3)
        scores = [
            world.evaluation(target, 10, 0.3, 1).score(
                world.split(
                    target, retrieve(world.parts(target), world.dictionary, ENCODER).vectors
                )
            )
            for target in world.targets
        ]
        curve.append(np.mean([score.generality for score in scores]))
    assert curve[0] == 1
    assert all(after <= before + 0.02 for before, after in pairwise(curve))
    assert all(before - after < 0.35 for before, after in pairwise(curve))
    assert curve[-1] < 0.4
