"""The best of a training's validations, and how long nothing was better."""

from collections.abc import Sequence

import pytest

from cluster.config.validation import ValidateConfig
from cluster.resume.validations import Best, Validated, best_of_validations, num_without_gain

NAME = "val/accuracy"


def validations(*values: float | None) -> list[Validated]:
    """One every 10 steps from step 0 on; None: it lacks the metric."""
    return [
        Validated(step=10 * k, figures={} if value is None else {NAME: value})
        for k, value in enumerate(values)
    ]


def test_the_best_is_the_highest_or_the_lowest_and_of_equal_ones_the_newest():
    done = validations(0.2, 0.5, None, 0.5, 0.4)
    assert best_of_validations(done, NAME, "max") == Best(step=30, value=0.5)
    assert best_of_validations(done, NAME, "min") == Best(step=0, value=0.2)
    assert best_of_validations(done, "val/nll", "min") is None
    assert best_of_validations([], NAME, "max") is None


@pytest.mark.parametrize(
    ("values", "settings", "expected"),
    [
        ([], {}, 0),
        ([0.5], {}, 0),
        ([0.5, 0.5, 0.5], {}, 2),  # as good is no gain
        ([0.5, 0.4, 0.6, 0.5], {}, 1),
        ([0.5, 0.52, 0.54], {"min_delta": 0.05}, 2),
        ([0.5, 0.52, 0.56], {"min_delta": 0.05}, 0),  # against the last gain, not the last value
        ([0.5, 0.4, 0.3], {"mode": "min"}, 0),
        ([0.5, None, None], {}, 2),
        ([None, 0.0], {"min_delta": 0.5}, 0),  # the first value is a gain
    ],
)
def test_validations_without_a_gain_are_counted_since_the_last(
    values: Sequence[float | None], settings: dict, expected: int
):
    assert num_without_gain(validations(*values), ValidateConfig(**settings)) == expected
