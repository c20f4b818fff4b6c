import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import bootstrap

from calibrate.figures import measure
from calibrate.metrics import evaluate
from calibrate.predictions import from_probabilities
from wire.errors import DataError


def clips(num: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet([0.7] * 3, size=num)
    return rows, np.array([rng.choice(3, p=row) for row in rows], dtype=np.int64)


def test_figures_are_those_of_the_evaluation() -> None:
    rows, truth = clips(150)
    names = ("a", "b", "c")
    expected = evaluate(
        from_probabilities([str(n) for n in range(150)], [names[t] for t in truth], rows, names),
        names,
    )
    figures = measure(rows, truth)
    for name in ("accuracy", "accuracy_low", "accuracy_high", "nll", "brier", "ece", "macro_f1"):
        assert getattr(figures, name) == pytest.approx(getattr(expected, name)), name


def test_intervals_are_those_of_scipys_bootstrap() -> None:
    rows, truth = clips(200)
    figures = measure(rows, truth)
    losses = -np.log(rows[np.arange(200), truth])
    other = bootstrap((losses,), np.mean, method="percentile", n_resamples=5000, rng=1)
    expected = other.confidence_interval
    assert (figures.nll_low, figures.nll_high) == pytest.approx(tuple(expected), abs=0.02)
    assert figures.ece_low <= figures.ece <= figures.ece_high


def test_the_same_clips_have_the_same_intervals() -> None:
    assert measure(*clips(50)) == measure(*clips(50))


def test_one_clip_has_figures_and_none_has_not() -> None:
    assert measure([[0.5, 0.5]], [0]).accuracy == 1.0
    with pytest.raises(DataError, match="at least one clip"):
        measure(np.zeros((0, 3)), [])
