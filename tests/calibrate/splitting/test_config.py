import pytest
from pydantic import ValidationError

from calibrate.splitting.config import AlignmentConfig, LowShotConfig, RetrievalConfig


def test_defaults_are_the_papers_where_it_states_one():
    assert RetrievalConfig() == RetrievalConfig(alpha=0.5, beta=0.5, assignment="greedy")
    align, shots = AlignmentConfig(), LowShotConfig()
    assert (align.learning_rate, align.batch_size) == (1e-3, 10)
    assert (shots.learning_rate, shots.weight_decay, shots.batch_size) == (1e-3, 1e-3, 16)
    assert shots.dropout == 0.25
    for config in (align, shots):
        assert (config.ema_decay, config.patience, config.min_gain) == (0.95, 5, 1e-3)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (RetrievalConfig, {"alpha": -1}),
        (RetrievalConfig, {"assignment": "hungarian"}),
        (AlignmentConfig, {"batch_size": 0}),
        (AlignmentConfig, {"ema_decay": 1.0}),
        (LowShotConfig, {"dropout": 1.0}),
        (LowShotConfig, {"trains": "backbone"}),
        (LowShotConfig, {"learning_rate": 0}),
    ],
)
def test_values_out_of_bounds_are_refused(kind: type, settings: dict[str, object]):
    with pytest.raises(ValidationError):
        kind(**settings)
