from typing import Any

import pytest

from calibrate.config import CalibrateConfig
from wire.config import validate
from wire.errors import ConfigError


def test_defaults_are_deepintuits() -> None:
    config = CalibrateConfig()
    assert (config.num_traces, config.temperature, config.split) == (4, 1.0, "cal")
    assert (config.learning_rate, config.epochs, config.batch_size) == (2e-5, 10, 256)
    assert (config.warmup_frac, config.methods) == (0.06, ("verdict", "head"))


@pytest.mark.parametrize(
    "values",
    [
        {"split": "test"},
        {"methods": []},
        {"methods": ["head", "head"]},
        {"methods": ["heads"]},
        {"num_traces": 0},
        {"temperature": 0},
        {"warmup_frac": 1.0},
        {"methods": ["verdict"], "head_features": "video"},
        {"lr": 1e-5},
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        validate(CalibrateConfig, values, source="recipe.toml")
