import numpy as np
import pytest
from scipy.stats import energy_distance

from calibrate.shift.batch import compare_batch, energy_distances
from calibrate.shift.features import TraceReference
from wire.errors import DataError


def test_the_statistic_is_scipys_energy_distance_squared() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=40), rng.normal(0.5, size=30)])
    sides = np.arange(70) < 40
    distances = np.abs(values[:, None] - values[None, :])
    expected = energy_distance(values[:40], values[40:]) ** 2
    assert energy_distances(distances, sides[None])[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    "shift",
    [
        {"logprob": -0.5},
        {"sure": 3.0},
        {"unparsed": 0.5},
        {"length": 120},
        {"mix": (0.1, 0.3, 0.6)},
    ],
)
def test_a_shifted_batch_is_noticed(draw, label_names, shift) -> None:
    reference = TraceReference.of(draw(0, 300), label_names)
    result = compare_batch(reference, draw(1, 200, **shift))
    assert result.p_value <= 0.01
    assert result.energy > 0.01
    assert len(result.effects) == 5


def test_batches_drawn_alike_have_uniform_p_values(draw, label_names) -> None:
    p_values = [
        compare_batch(
            TraceReference.of(draw(seed, 60), label_names), draw(seed + 500, 40), seed=seed
        ).p_value
        for seed in range(40)
    ]
    assert sum(p <= 0.1 for p in p_values) <= 9  # of 40: more in one of 100 such tests
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.17)


def test_a_large_batch_is_sampled_and_an_empty_one_refused(draw, label_names) -> None:
    reference = TraceReference.of(draw(2, 50), label_names)
    assert compare_batch(reference, draw(3, 1200)).num_served == 1000
    with pytest.raises(DataError, match="no served traces"):
        compare_batch(reference, [])
