"""Planted label errors are found again, by cleanlab, from probabilities of unseen clips only."""

import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from calibrate import head
from calibrate.label_errors import OutOfFold, rank_label_errors
from wire.errors import DataError

NAMES = ("a", "b", "c")


def planted(
    seed: int, num: int = 200, wrong: float = 0.05, k: int = 2
) -> tuple[NDArray[np.float32], list[str], list[str], set[str]]:
    """Features of k traces of each clip, labels of which a share is wrong, ids, the wrong ones."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=num)
    bad = rng.choice(num, int(wrong * num), replace=False)
    labels = truth.copy()
    labels[bad] = (labels[bad] + rng.integers(1, 3, size=len(bad))) % 3
    centres = rng.normal(size=(3, 16)) * 1.2
    features = np.repeat(centres[truth] + rng.normal(size=(num, 16)) * 0.8, k, axis=0)
    features += rng.normal(size=features.shape) * 0.3
    ids = [f"clip-{n}" for n in range(num) for _ in range(k)]
    return (
        features.astype(np.float32),
        [NAMES[label] for label in labels for _ in range(k)],
        ids,
        {f"clip-{n}" for n in bad},
    )


@pytest.mark.parametrize("seed", range(3))
def test_planted_label_errors_are_at_the_top(seed: int) -> None:
    features, labels, ids, wrong = planted(seed)
    fitted = head.fit(features, labels, NAMES, ids)
    errors = rank_label_errors(
        head.out_of_fold(features, labels, NAMES, ids, fitted.c), labels, NAMES, ids
    )
    assert errors.num_clips == 200
    top = [one.sample_id for one in errors.ranked[: len(wrong)]]
    assert len(wrong & set(top)) / len(wrong) >= 0.8
    assert len(wrong & {one.sample_id for one in errors.ranked if one.marked}) >= 8
    assert all(one.suggested != one.label for one in errors.ranked if one.sample_id in wrong)


def test_clean_labels_mark_few() -> None:
    features, labels, ids, _ = planted(4, wrong=0.0)
    errors = rank_label_errors(
        head.out_of_fold(features, labels, NAMES, ids, 0.01), labels, NAMES, ids
    )
    assert errors.num_marked <= 6


def test_out_of_fold_is_a_fit_without_the_fold() -> None:
    features, labels, ids, _ = planted(5, num=60)
    result = head.out_of_fold(features, labels, NAMES, ids, 0.01)
    assert len(set(result.folds.tolist())) == 5
    held, truth = result.folds == 0, np.array(labels)
    library = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=5000, tol=1e-7))
    library.fit(features[~held].astype(np.float64), truth[~held])
    np.testing.assert_allclose(
        library.predict_proba(features[held]), result.probabilities[held], atol=1e-3
    )
    in_sample = head.fit(features, labels, NAMES, ids).probabilities(features)
    assert np.abs(in_sample - result.probabilities).max() > 0.01


def test_in_sample_probabilities_are_refused() -> None:
    rows = np.full((4, 3), 1 / 3)
    ids, labels = ["x", "x", "y", "y"], ["a", "a", "b", "b"]

    def rank(folds: object) -> None:
        rank_label_errors(OutOfFold(rows, np.array(folds)), labels, NAMES, ids)

    with pytest.raises(DataError, match="had not seen"):
        rank([0, 0, 0, 0])
    with pytest.raises(DataError, match="had not seen"):
        rank([-1, -1, 0, 0])
    with pytest.raises(DataError, match="traces in folds 0 and 1"):
        rank([0, 1, 1, 1])
    with pytest.raises(DataError, match="expected the fold"):
        rank([0, 1])
    rank([0, 0, 1, 1])


def test_absent_labels_one_label_and_differing_labels() -> None:
    rows = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.9, 0.1, 0.0], [0.0, 0.0, 1.0]])
    folds, ids = np.array([0, 1, 0, 1]), ["w", "x", "y", "z"]
    errors = rank_label_errors(OutOfFold(rows, folds), ["a", "b", "b", "a"], NAMES, ids)
    assert {one.sample_id for one in errors.ranked} == {"y", "z"}
    errors = rank_label_errors(OutOfFold(rows, folds), ["a"] * 4, NAMES, ids, most=1)
    assert (errors.num_marked, len(errors.ranked)) == (0, 1)
    with pytest.raises(DataError, match="different labels"):
        rank_label_errors(OutOfFold(rows, folds), ["a", "b", "b", "a"], NAMES, ["w", "x", "w", "z"])
    with pytest.raises(DataError, match="expected one of each per trace"):
        rank_label_errors(OutOfFold(rows, folds), ["a"], NAMES, ids)
    with pytest.raises(DataError, match="one clip only"):
        head.out_of_fold(np.zeros((2, 3), np.float32), ["a", "b"], NAMES, ["x", "y"], 0.01)


def test_without_cleanlab_the_message_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(DataError, match=r"pip install 'deepintuit\[cleanlab\]'"):
        rank_label_errors(
            OutOfFold(np.full((2, 3), 1 / 3), np.array([0, 1])), ["a", "b"], NAMES, ["x", "y"]
        )
