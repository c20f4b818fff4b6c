import numpy as np
import pytest

from calibrate.splitting.dictionary import Grouping, build_dictionary
from tests.calibrate.splitting.compositions import compositions
from wire.errors import DataError


def test_modifier_vectors_of_one_group_add_up_to_nothing():
    dictionary = compositions(noise=0.5).dictionary
    for group in range(len(dictionary.groups)):
        own = dictionary.modifiers[np.array(dictionary.group_of) == group]
        np.testing.assert_allclose(own.sum(axis=0), 0, atol=1e-12)


def test_a_row_is_its_prototype_and_its_modifier_vector():
    world = compositions(noise=0.5)
    d = world.dictionary
    rows = d.prototypes[list(d.group_of)] + d.modifiers
    np.testing.assert_allclose(rows, d.weights, rtol=1e-12)
    expected = world.weight[[world.names.index(label) for label in d.labels]]
    assert np.array_equal(d.weights, expected)


def test_the_dictionary_is_built_from_groups_that_are_not_split_alone():
    world = compositions(num_split=3, num_kept=6, num_modifiers=4, singletons=2)
    d = world.dictionary
    assert set(d.groups) == {f"group{number}" for number in range(3, 9)}
    assert len(d.labels) == 6 * 4
    assert not {label.split()[0] for label in d.labels} & set(world.targets)


def test_a_label_alone_in_its_group_gives_no_modifier():
    d = compositions(singletons=2).dictionary
    assert d.singletons == ("alone0", "alone1")
    assert not {"alone0", "alone1"} & set(d.labels)
    assert d.singleton_weights.shape == (2, 96)


def test_a_label_of_two_groups_is_refused():
    with pytest.raises(DataError, match=r"'b'.* more than one group"):
        Grouping(groups={"x": ("a", "b"), "y": ("b", "c")})


def test_a_group_without_labels_is_refused():
    with pytest.raises(DataError, match="no labels"):
        Grouping(groups={"x": ()})


def test_a_group_that_the_classifier_knows_in_part_is_refused():
    grouping = Grouping(groups={"x": ("a", "b", "c")})
    with pytest.raises(DataError, match=r"has \['a', 'b'\] but not \['c'\]"):
        build_dictionary(np.eye(3), ("a", "b", "z"), grouping, {"a": "a", "b": "b"})


def test_a_label_without_a_modifier_phrase_is_named():
    grouping = Grouping(groups={"x": ("a", "b")})
    with pytest.raises(DataError, match=r"no modifier phrase for \['b'\]"):
        build_dictionary(np.eye(3), ("a", "b", "c"), grouping, {"a": "first"})


def test_a_classifier_without_fine_siblings_is_refused():
    grouping = Grouping(groups={"c": ("c1", "c2"), "a": ("a",)})
    with pytest.raises(DataError, match="none of the 2 groups has two labels"):
        build_dictionary(np.eye(2), ("a", "c"), grouping, {})
