"""Timings of a measured run, and the engines' speed that makes its simulation take as long."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.simulation.measured import read_measured, with_engine_speed
from cluster.simulation.run import mean_step_s
from wire.errors import ConfigError

RUN = Path(__file__).parents[2] / "data/run_before_move/finished"


def step(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "stage": "grpo",
        "step": number,
        "attempt": 0,
        "time": 1000.0 + 12 * number,
        "response_length/mean": 100.0,
        "response_length/max": 200.0,
        "reward/frac_zero_std": 0.25,
        "weights/gb": 2.0,
        "timing_s/gen": 8.0,
        "timing_s/update_actor": 3.0,
        "timing_s/update_weights": 0.75,
        "timing_s/archive": 0.25,
        "timing_s/step": 12.0,
    }
    return row | changes


def run_with(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    shutil.copy(RUN / "run.json", folder)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(lines)
    return folder


def test_the_learner_weights_and_lengths_are_those_of_the_metrics(tmp_path: Path):
    measured = read_measured(run_with(tmp_path / "r", [step(n) for n in range(1, 9)]))
    traces = measured.config.grpo.groups_per_step * measured.config.rollout.group_size
    timings = measured.timings
    assert measured.step_s == 12.0
    assert timings.learner_s_per_trace * traces == pytest.approx(3.0)
    assert timings.learner_s_per_step == 0.25
    assert timings.load_weights_s == 0.75
    assert timings.response_length == 100
    assert 0.1 < timings.response_length_sigma < 1.5  # the longest of a step is twice the mean
    assert timings.no_signal_frac == 0.25


def test_the_simulation_of_the_run_takes_as_long_as_the_run(tmp_path: Path):
    measured = read_measured(run_with(tmp_path / "r", [step(n) for n in range(1, 9)]))
    timings = with_engine_speed(measured, mean_step_s)
    assert mean_step_s(measured.config, timings) == pytest.approx(12.0, rel=0.01)


def test_steps_of_warm_up_of_validations_and_of_earlier_attempts_do_not_count(tmp_path: Path):
    odd = {"timing_s/step": 500.0}
    rows = [step(n, **odd) for n in range(1, 6)]
    rows += [step(n, attempt=1, **(odd if n < 5 else {})) for n in range(3, 9)]
    rows.append(step(9, attempt=1, **{"val/accuracy": 0.5, **odd}))
    assert read_measured(run_with(tmp_path / "r", rows)).step_s == 12.0


def test_a_run_without_steps_of_grpo_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="has 0 steps of GRPO after 2 of warm-up"):
        read_measured(run_with(tmp_path / "r", [step(1)]))
