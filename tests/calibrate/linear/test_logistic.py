import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from calibrate.linear.logistic import Problem, Regressions, Solution

NUM, WIDTH = 120, 10


def rows_of(num_labels: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Standardised features of classes that overlap; the last feature says nothing."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, num_labels, NUM)
    rows = rng.normal(size=(num_labels, WIDTH))[truth] + 1.5 * rng.normal(size=(NUM, WIDTH))
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    rows[:, -1] = 0.0
    return rows.astype(np.float32), truth


def probabilities(solution: Solution) -> NDArray[np.float64]:
    scores = np.exp(solution.logits - solution.logits.max(axis=1, keepdims=True))
    return np.asarray(scores / scores.sum(axis=1, keepdims=True), dtype=np.float64)


@pytest.mark.parametrize("num_labels", [2, 3, 5])
def test_each_problem_has_its_own_rows_scales_and_penalty(num_labels: int):
    rows, truth = rows_of(num_labels)
    parts = [np.arange(NUM) % 3 != fold for fold in range(3)]
    problems = [Problem(part, c) for part in parts for c in (1e-3, 0.1, 1.0)]
    solutions = Regressions(rows, truth, num_labels).solve(problems)
    for problem, solution in zip(problems, solutions, strict=True):
        own = rows[problem.rows].astype(np.float64)
        mean, scale = own.mean(axis=0), np.where(own.std(axis=0) > 0, own.std(axis=0), 1)
        model = LogisticRegression(C=problem.c, tol=1e-9, max_iter=5000)
        model.fit((own - mean) / scale, truth[problem.rows])
        expected = model.predict_proba((rows - mean) / scale)
        np.testing.assert_allclose(probabilities(solution), expected, atol=2e-4)


def test_weights_and_bias_give_the_logits():
    rows, truth = rows_of(3)
    (solution,) = Regressions(rows, truth, 3).solve([Problem(np.arange(NUM) < 90, 0.1)])
    np.testing.assert_allclose(rows @ solution.weight.T + solution.bias, solution.logits, atol=1e-5)


def test_a_label_without_training_rows_is_never_expected():
    rows, truth = rows_of(3)
    (solution,) = Regressions(rows, truth, 3).solve([Problem(truth != 1, 0.1)])
    assert (probabilities(solution)[:, 1] == 0).all()
    assert solution.bias[1] == -np.inf
    model = LogisticRegression(C=0.1, tol=1e-9)
    own = rows[truth != 1]
    mean, scale = own.mean(axis=0), np.where(own.std(axis=0) > 0, own.std(axis=0), 1)
    model.fit((own - mean) / scale, truth[truth != 1])
    expected = model.predict_proba((rows - mean) / scale)
    np.testing.assert_allclose(probabilities(solution)[:, [0, 2]], expected, atol=2e-4)


def test_a_near_solution_to_start_from_changes_the_way_and_not_the_end():
    rows, truth = rows_of(3)
    part, regressions = np.arange(NUM) % 2 == 0, Regressions(rows, truth, 3)
    (weak,) = regressions.solve([Problem(part, 1e-3)])
    (anew,) = regressions.solve([Problem(part, 1.0)])
    (onwards,) = regressions.solve([Problem(part, 1.0)], start=[weak])
    np.testing.assert_allclose(probabilities(onwards), probabilities(anew), atol=1e-3)
    assert np.abs(probabilities(weak) - probabilities(anew)).max() > 0.1


def test_clear_classes_end_though_their_weights_grow_without_a_penalty():
    rng = np.random.default_rng(0)
    truth = np.arange(NUM) % 2
    rows = (rng.normal(size=(NUM, WIDTH)) * 0.1 + (2 * truth - 1)[:, None]).astype(np.float32)
    (solution,) = Regressions(rows, truth, 2).solve([Problem(np.ones(NUM, np.bool_), 1e6)])
    assert np.isfinite(solution.weight).all()
    assert probabilities(solution)[np.arange(NUM), truth].min() > 0.99
