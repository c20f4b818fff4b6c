"""The soak of tests/soak for two minutes: kills at random times, and as many steps undisturbed."""

from pathlib import Path

import pytest

from tests.soak.__main__ import size_of, soak

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_two_minutes_of_kills_cost_nothing_but_time(tmp_path: Path):
    figures = list(soak(size_of(minutes=2, mean_s=30, workers=2), seed=1, folder=tmp_path))
    print("\n".join(figure.line for figure in figures))  # noqa: T201
    assert {figure.name for figure in figures} >= {"kills", "heals seen", "accuracy", "problems"}
    assert not [figure.line for figure in figures if not figure.holds]
