import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from cluster.metrics.metrics_log import MetricsLog
from tests.cluster.metrics.test_sink_names import ODD


class Kept:
    """A sink that keeps what it gets, and fails from step ``fails_at`` on."""

    def __init__(self, fails_at: int = 10**9) -> None:
        self.rows: list[tuple[str, int, dict[str, float]]] = []
        self.closed = False
        self._fails_at = fails_at

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        if step >= self._fails_at:
            raise OSError("network is unreachable")
        self.rows.append((stage, step, dict(values)))

    def close(self) -> None:
        self.closed = True


def rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_step_is_one_line_and_goes_to_every_sink(tmp_path: Path):
    sinks = [Kept(), Kept()]
    with MetricsLog(tmp_path, 3, sinks) as log:
        log.write("grpo", 7, {"kl": 0.5})
    (row,) = rows(tmp_path)
    assert {key: row[key] for key in ("stage", "step", "attempt", "kl")} == {
        "stage": "grpo",
        "step": 7,
        "attempt": 3,
        "kl": 0.5,
    }
    assert all(sink.rows == [("grpo", 7, {"kl": 0.5})] and sink.closed for sink in sinks)


def test_a_sink_that_raises_is_dropped_with_one_warning_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    good, bad = Kept(), Kept(fails_at=2)
    with caplog.at_level(logging.WARNING), MetricsLog(tmp_path, 0, [bad, good]) as log:
        for step in (1, 2, 3):
            log.write("grpo", step, {"kl": 0.0})
    assert [step for _, step, _ in good.rows] == [1, 2, 3]
    assert [step for _, step, _ in bad.rows] == [1]
    assert len(rows(tmp_path)) == 3
    assert len(caplog.records) == 1
    assert "network is unreachable" in caplog.text


def test_verls_names_are_written_for_the_grpo_stage_without_a_stage(tmp_path: Path):
    sink = Kept()
    with MetricsLog(tmp_path, 0, [sink], verl_stage="grpo") as log:
        log.write("grpo", 1, {"reward/mean": 1.5})
        log.write("grpo_more", 1, {"reward/mean": 1.0})
    assert ("", 1, {"critic/rewards/mean": 1.5}) in sink.rows
    assert len(sink.rows) == 3
    assert "critic/rewards/mean" not in rows(tmp_path)[0]


def test_half_a_line_of_a_killed_process_is_cut_off(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"stage": "grpo", "step": 1}\n{"stage": "gr')
    with MetricsLog(tmp_path, 1, []) as log:
        log.write("grpo", 2, {})
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


def test_tensorboard_is_always_written(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsLog(tmp_path, 0) as log:
        log.write("grpo", 4, {"reward/mean": 1.25})
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (point,) = board.Scalars("grpo/reward/mean")
    assert (point.step, point.value) == (4, 1.25)


def test_tensorboard_shows_every_figure_whatever_its_name(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    names = [f"label/{label}/accuracy" for label in ODD]
    with MetricsLog(tmp_path, 0) as log:
        log.write("grpo", 1, {name: float(number) for number, name in enumerate(names)})
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = [board.Scalars(tag)[0].value for tag in board.Tags()["scalars"]]
    assert sorted(points) == [float(number) for number in range(len(ODD))]


def test_a_figure_that_is_not_finite_is_null_and_no_point_of_a_sink(tmp_path: Path):
    sink = Kept()
    with MetricsLog(tmp_path, 0, [sink], verl_stage="grpo") as log:
        log.write("grpo", 1, {"kl": math.nan, "grad_norm": math.inf, "nll": 0.5})
    (row,) = rows(tmp_path)
    assert (row["kl"], row["grad_norm"], row["nll"]) == (None, None, 0.5)
    assert sink.rows == [("grpo", 1, {"nll": 0.5})]
